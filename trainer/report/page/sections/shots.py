"""Accuracy by the number of training images a class."""

from collections.abc import Mapping, Sequence

from stages.extras import installed
from stages.numbers import amount, most
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table
from trainer.report.page.dataset import DataSet
from trainer.report.tables import cell
from trainer.runs.record import Estimate


def section(of: DataSet) -> Section | None:
    """Few-shot with several numbers of shots; None with one."""
    found = {about.shots: key for key, about in of.record.protocols.items() if about.name == "few-shot"}
    keys = {shots: found[shots] for shots in sorted(found, key=most) if found[shots] in of.estimates}
    if len(keys) < 2:
        return None
    places = {key: float(shots) for shots, key in keys.items() if shots != "all"}
    heads = [amount(shots, up_to=False) for shots in keys]
    blocks = over(of, list(keys.values()), places, heads, by="shots", x="shots a class", log2=True)
    return Section(
        "shots", "Accuracy by shots", blocks, "What more labelled images would bring, on the same test images."
    )


def over(
    of: DataSet, keys: Sequence[str], places: Mapping[str, float], heads: Sequence[str], *, by: str, x: str, log2: bool
) -> list[Block]:
    """A chart and a table of accuracy over protocols that differ in one number.

    Args:
        keys: of the protocols.
        places: where they stand on the axis; one that is left out stands in the table alone.
        heads: their columns.
    """
    methods = list(of.estimates[keys[-1]])
    entries = {(method, key): of.estimates[key].get(method, {}).get("accuracy") for key in keys for method in methods}
    blocks: list[Block] = []
    points = [
        (method, places[key], 100 * entry.mean, None if entry.ci95 is None else 100 * entry.ci95)
        for method in methods
        for key in keys
        if key in places and (entry := entries[method, key]) is not None and entry.mean is not None
    ]
    if installed("vl_convert") and len({place for _, place, *_ in points}) > 1:
        from trainer.report.page.charts import lines

        said = f"Accuracy of {len(methods)} methods by {x}: {', '.join(heads)}"
        drawn = lines(points, x=x, y="accuracy (percent)", about=said, log2=log2)
        blocks.append(Chart(drawn, f"{said}. A control far below the others may lie below the picture."))
    columns = [Column("method", code=True), *(Column(head, number=True) for head in heads)]
    rows = [[Cell(method), *(_cell(entries[method, key]) for key in keys)] for method in methods]
    blocks.append(Table(f"Accuracy by {by}, percent", columns, rows))
    return blocks


def _cell(entry: Estimate | None) -> Cell:
    return Cell(cell(entry), None if entry is None else entry.mean)
