"""Sweeps that lie in the results folder."""

from __future__ import annotations

from pathlib import Path

from stages import UserError
from stages.extras import installed
from stages.text import csv_rows
from trainer.report.page.blocks import Block, Cell, Chart, Column, Section, Table, Text
from trainer.report.tables import BEFORE, CONFIDENCE

BEHIND = ("protocol", "method", "metric", "mean", "ci95", "n")
MOST_ROWS = 400
"""Rows of a study's table."""


def section(results: Path) -> Section | None:
    """One table a sweep; None where there is none."""
    blocks: list[Block] = []
    for file in sorted((results / "sweeps").glob("*/table.csv")):
        try:
            blocks += _study(file)
        except (UserError, ValueError) as error:
            blocks.append(Text([f"{file.parent.name} is left out: {error}"]))
    if not blocks:
        return None
    return Section("studies", "Studies", blocks, "What trainer sweep ran, percent, mean ± half of the 95 % interval.")


def _study(file: Path) -> list[Block]:
    lines = [row for _, row in csv_rows(file)]
    if not lines or tuple(lines[0][-len(BEHIND) :]) != BEHIND:
        raise UserError(f"{file}: not the table of a sweep: run `trainer sweep` again")
    head = lines[0]
    rows = [row for row in lines[1:] if len(row) == len(head) and row[-4].removeprefix(BEFORE) not in CONFIDENCE]
    settings = head[1 : -len(BEHIND)]
    title = _title(file)
    body = [
        [
            *(Cell(value, _number(value)) for value in row[: 1 + len(settings)]),
            *(Cell(value) for value in row[-6:-3]),
            Cell(_percent(row[-3], row[-2]), _number(row[-3])),
        ]
        for row in rows[:MOST_ROWS]
    ]
    columns = [
        Column("data set"), *(Column(name.rsplit(".", 1)[-1]) for name in settings), Column("protocol"),
        Column("method", code=True), Column("metric"), Column("percent", number=True),
    ]  # fmt: skip
    blocks: list[Block] = []
    if len(settings) == 1 and installed("vl_convert"):
        blocks += _charts(title, settings[0], rows)
    if len(rows) > MOST_ROWS:
        blocks.append(
            Text([f"The first {MOST_ROWS} of {len(rows)} rows; all are in {file.name} of {file.parent.name}."])
        )
    return [*blocks, Table(title, columns, body, filtered=True, first=15)]


def _charts(title: str, setting: str, rows: list[list[str]]) -> list[Block]:
    """The first metric of the first protocol by a number that was varied, a chart a data set."""
    from trainer.report.page.charts import lines

    blocks: list[Block] = []
    name = setting.rsplit(".", 1)[-1]
    for dataset in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == dataset]
        points = [
            (row[-5], place, 100 * float(row[-3]), 100 * float(row[-2]) if row[-2] else None)
            for row in own
            if (row[-6], row[-4]) == (own[0][-6], own[0][-4]) and row[-3] and (place := _number(row[1])) is not None
        ]
        if len({place for _, place, *_ in points}) > 1:
            metric = own[0][-4].replace("_", " ")
            said = f"{title}, {dataset}: {metric} by {name}"
            blocks.append(Chart(lines(points, x=name, y=f"{metric} (percent)", about=said), f"{said}."))
    return blocks


def _title(file: Path) -> str:
    try:
        first = file.with_name("table.md").read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError):
        return file.parent.name
    return first.removeprefix("# ").strip() or file.parent.name


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _percent(mean: str, half: str) -> str:
    if not mean:
        return "-"
    return f"{100 * float(mean):.1f}" + (f" ± {100 * float(half):.1f}" if half else "")
