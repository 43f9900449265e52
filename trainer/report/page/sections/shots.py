"""Accuracy by the number of training images a class."""

from stages.extras import installed
from stages.numbers import amount, most
from trainer.record import Estimate
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table
from trainer.report.page.dataset import DataSet
from trainer.report.tables import cell


def section(of: DataSet) -> Section | None:
    """Few-shot with several numbers of shots; None with one."""
    found = {about.shots: key for key, about in of.record.protocols.items() if about.name == "few-shot"}
    keys = {shots: found[shots] for shots in sorted(found, key=most) if found[shots] in of.estimates}
    if len(keys) < 2:
        return None
    methods = list(of.estimates[list(keys.values())[-1]])
    entries = {
        (method, shots): of.estimates[key].get(method, {}).get("accuracy")
        for shots, key in keys.items()
        for method in methods
    }
    blocks: list[Block] = []
    points = [
        (method, float(shots), 100 * entry.mean, None if entry.ci95 is None else 100 * entry.ci95)
        for method in methods
        for shots in keys
        if shots != "all" and (entry := entries[method, shots]) is not None and entry.mean is not None
    ]
    if installed("vl_convert") and len({place for _, place, *_ in points}) > 1:
        from trainer.report.page.charts import lines

        said = f"Accuracy of {len(methods)} methods by shots a class: {', '.join(map(str, keys))}"
        drawn = lines(points, x="shots a class", y="accuracy (percent)", about=said, log2=True)
        blocks.append(Chart(drawn, f"{said}. A control far below the others may lie below the picture."))
    columns = [Column("method", code=True), *(Column(amount(s, up_to=False), number=True) for s in keys)]
    rows = [
        [Cell(method), *(_cell(entries[method, shots]) for shots in keys)] for method in methods
    ]  # fmt: skip
    blocks.append(Table("Accuracy by shots, percent", columns, rows))
    return Section(
        "shots", "Accuracy by shots", blocks, "What more labelled images would bring, on the same test images."
    )


def _cell(entry: Estimate | None) -> Cell:
    return Cell(cell(entry), None if entry is None else entry.mean)
