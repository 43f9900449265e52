"""Whether the probabilities mean what they say: the reliability diagram, and the measures of every method."""

from __future__ import annotations

from stages import UserError
from stages.extras import installed
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table
from trainer.report.page.dataset import DataSet
from trainer.report.tables import BEFORE, CONFIDENCE, scaled
from trainer.runs.choice import serving_protocol
from trainer.runs.record import RELIABILITY, Reliability, read_lines

HEADS = {"ece": "ECE", "adaptive_ece": "adaptive ECE", "nll": "NLL", "brier": "Brier"}


def section(of: DataSet) -> Section | None:
    """The diagram of the best method, and the measures of all before and with their temperature."""
    if not of.judges_classes:
        return None
    bins = [each for each in read_lines(of.run / RELIABILITY, Reliability) if each.count]
    if not bins:
        raise UserError("the run measured no confidence on test images (no reliability.csv)")
    methods = list(dict.fromkeys(each.method for each in bins))
    shown = of.best if of.best in methods else methods[0]
    own = [each for each in bins if each.method == shown]
    blocks: list[Block] = []
    if installed("vl_convert"):
        from trainer.report.page.charts import reliability

        said = f"Reliability of {shown}: accuracy by mean confidence in {len(own)} bins"
        drawn = reliability([(each.confidence or 0, each.accuracy or 0, each.count) for each in own], about=said)
        blocks.append(
            Chart(drawn, f"{said}. On the dashed line they agree; below it the method is surer than it should be. "
                  "Larger dots hold more images.")
        )  # fmt: skip
    rows = [
        [Cell(f"{100 * b.lower:.0f} to {100 * b.upper:.0f}", b.lower), Cell(str(b.count), b.count),
         Cell(f"{100 * (b.confidence or 0):.1f}", b.confidence), Cell(f"{100 * (b.accuracy or 0):.1f}", b.accuracy)]
        for b in own
    ]  # fmt: skip
    columns = [
        Column("confidence"), *(Column(title, number=True) for title in ("images", "mean confidence", "accuracy"))
    ]  # fmt: skip
    blocks.append(Table(f"Reliability of {shown}, percent", columns, rows))
    blocks += _measures(of)
    lead = "Of the images that a method is 80 % sure of, 80 % should be right."
    return Section("confidence", "Confidence", blocks, lead)


def _measures(of: DataSet) -> list[Block]:
    """ECE and the others of every method; nothing where none was measured."""
    key = serving_protocol(of.record)
    by_method = of.estimates.get(key or "", {})
    names = [name for name in CONFIDENCE if any(name in found for found in by_method.values())]
    if not names:
        return []
    rows = [
        [Cell(method), *(
            Cell(scaled(found.get(f"{prefix}{name}"), CONFIDENCE[name]),
                 None if (entry := found.get(f"{prefix}{name}")) is None else entry.mean)
            for name in names for prefix in ("", BEFORE)
        )]
        for method, found in by_method.items()
    ]  # fmt: skip
    heads = [word for name in names for word in (HEADS.get(name, name), "before")]
    caption = (
        "Measures of confidence on the test images, mean over the seeds: as served, and before the temperature (ECE: "
        "percent, NLL: nats; smaller is better)"
    )
    return [Table(caption, [Column("method", code=True), *(Column(head, number=True) for head in heads)], rows)]
