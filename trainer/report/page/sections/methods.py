"""All methods with their intervals: a picture and a table a protocol."""

from collections.abc import Iterator

from stages.extras import installed, mend
from trainer.metrics import OWN_SCALE
from trainer.report.page.blocks import Block, Cell, Chart, Column, Fold, Section, Table, Text
from trainer.report.page.dataset import DataSet
from trainer.report.tables import SAW, cell, has_intervals, metrics_of, most_shots, saw_before, title_of
from trainer.runs.record import Estimate


def section(of: DataSet) -> Section | None:
    """The largest number of shots of each protocol; the others fold out."""
    record = of.record
    most = most_shots(record)
    blocks: list[Block] = []
    for key in most:
        blocks += _blocks(of, key)
    others = [key for key in record.protocols if key not in most and key in of.estimates]
    if others:
        folded = [_table(of, key) for key in others]
        noisy = any(record.protocols[key].noise is not None for key in others)
        why = "fewer shots" + ", other shares of wrong labels" * noisy
        blocks.append(Fold(f"Tables of {len(others)} other task{'s' * (len(others) != 1)} ({why})", folded))
    lead = (
        f"{_scale(of)} All methods see the same features, shots and validation images. Choose by validation, not by "
        "this table: the test images are for reporting. Seconds are those of a fit."
    )
    if not installed("vl_convert"):
        blocks.insert(0, Text([f"Charts are left out of this page: vl-convert-python is not installed: "
                               f"{mend('vl_convert')}"]))  # fmt: skip
    return Section("methods", "Methods", blocks, lead)


def _scale(of: DataSet) -> str:
    if not has_intervals(of.estimates):
        return f"Percent, of {of.record.seeds_text}: no interval over seeds."
    return (
        f"Percent, mean ± half of the 95 % interval over {of.record.seeds_text}; ± 0.0 where the seeds agree, which "
        "says nothing of other test images."
    )


def _blocks(of: DataSet, key: str) -> Iterator[Block]:
    if key not in of.estimates:
        return
    about = of.record.protocols[key]
    metric = about.headline[-1] if about.headline else ""
    if metric and metric not in OWN_SCALE and installed("vl_convert"):
        from trainer.report.page.charts import intervals

        rows = [
            (method, 100 * entry.mean, None if entry.ci95 is None else 100 * entry.ci95)
            for method, by_metric in of.estimates[key].items()
            if (entry := by_metric.get(metric)) is not None and entry.mean is not None
        ]
        if rows:
            spoken = title_of(metric)
            spread = " with 95 % intervals" * any(half is not None for *_, half in rows)
            said = f"{about.title}: {spoken} of {len(rows)} methods{spread}, best first"
            legend = "blue: AAPE; green: AAPE+; orange: AAPE's controls and variants; grey: baselines"
            yield Chart(intervals(rows, title=f"{spoken} (percent)", about=said), f"{said}; {legend}.")
    yield _table(of, key)


def _table(of: DataSet, key: str) -> Table:
    by_method = of.estimates[key]
    names = metrics_of(by_method)
    seconds = of.record.timing.get(key, {})
    rows = [
        [Cell(method), *(_cell(by_metric.get(m), m) for m in names), _seconds(seconds.get(method))]
        for method, by_metric in by_method.items()
    ]
    columns = [
        Column("method", code=True), *(Column(title_of(m), number=True) for m in names),
        Column("seconds", number=True),
    ]  # fmt: skip
    saw = saw_before(of.record, key)
    if saw:
        columns.append(Column(SAW))
        for row, method in zip(rows, by_method, strict=True):
            row.append(Cell(saw.get(method, "nothing")))
    return Table(of.record.protocols[key].title, columns, rows)


def _cell(entry: Estimate | None, metric: str) -> Cell:
    mean = None if entry is None else entry.mean
    return Cell(cell(entry, metric), mean, None if metric in OWN_SCALE else mean)


def _seconds(value: float | None) -> Cell:
    return Cell("-" if value is None else f"{value:.2f}", value)
