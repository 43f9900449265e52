"""How well each class is recognised."""

from collections import Counter, defaultdict

from stages.extras import installed
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table
from trainer.report.page.dataset import DataSet

LISTED_CLASSES = 2000
"""With more classes the easiest are left out of the table; classes.csv has them all."""
DRAWN_CLASSES = 40
"""With more classes the picture is left out; the table has them all."""


def section(of: DataSet) -> Section | None:
    """Accuracy of every class, and what it is taken for most often."""
    if not of.judges_classes:
        return None
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for line in of.predictions:
        if line.actual != line.predicted:
            taken[line.actual][line.predicted] += 1
    found = sorted(of.classes, key=lambda c: (c.accuracy is None, c.accuracy or 0.0, c.name))
    rows = [
        [
            Cell(each.name),
            Cell("-" if each.accuracy is None else f"{100 * each.accuracy:.1f}", each.accuracy, each.accuracy),
            Cell(f"{each.right} of {each.images}", each.images),
            Cell("; ".join(f"{name} ({n})" for name, n in _most(taken[each.name]))),
        ]
        for each in found[:LISTED_CLASSES]
    ]  # fmt: skip
    blocks: list[Block] = []
    judged = [(each.name, 100 * each.accuracy) for each in found if each.accuracy is not None]
    if installed("vl_convert") and 0 < len(judged) <= DRAWN_CLASSES:
        from trainer.report.page.charts import bars

        said = f"Accuracy of {len(judged)} classes, the hardest first"
        blocks.append(Chart(bars(judged, title="accuracy (percent)", about=said), f"{said}."))
    columns = [
        Column("class"), Column("accuracy", number=True), Column("right", number=True), Column("taken for most often"),
    ]  # fmt: skip
    blocks.append(
        Table(f"The {of_all(len(rows), len(found))} classes, the hardest first", columns, rows, filtered=len(rows) > 12,
              first=20 if len(rows) > 25 else None)
    )  # fmt: skip
    return Section("classes", "Classes", blocks, f"Test images, by {of.best}.")


def of_all(shown: int, there: int) -> str:
    """`100`, or `2000 of 10000`."""
    return str(there) if shown == there else f"{shown} of {there}"


def _most(taken: Counter[str]) -> list[tuple[str, int]]:
    return sorted(taken.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
