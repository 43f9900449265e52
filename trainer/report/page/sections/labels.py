"""Several classes an image: how well each class is told, and the images with the most classes wrong."""

from __future__ import annotations

import json
from typing import Any

from stages import UserError
from trainer.report.page.blocks import Block, Card, Cards, Cell, Column, Section, Table, Text
from trainer.report.page.dataset import DataSet
from trainer.report.page.thumbnails import thumbnails
from trainer.runs.choice import best_of_labels

CLASSES, IMAGES = "label-classes.csv", "label-predictions.csv"
WORST = 24
"""Images that are shown."""


def section(of: DataSet) -> Section | None:
    """One method's classes and worst images; None where no image may have several classes."""
    best = best_of_labels(of.record)
    method = None if best is None else best[0]
    classes = of.sheet(CLASSES, ("class", "images", "found", "average_precision", "f1"), method=method)
    if not classes:
        return None
    images = of.sheet(IMAGES, ("image_id", "classes", "predicted"), method=method)
    try:
        rows = [
            [Cell(row["class"]), _number(row["images"]), _number(row["found"]), _share(row["average_precision"]),
             _share(row["f1"])]
            for row in classes
        ]  # fmt: skip
        rows.sort(key=lambda row: (row[3].order, row[0].text))
        found = [(row["image_id"], set(_names(row["classes"])), set(_names(row["predicted"]))) for row in images]
    except ValueError as error:
        raise UserError(f"{of.run / CLASSES}: {str(error)[:80]}: run `trainer run` again") from error
    worst = sorted(found, key=lambda each: (-len(each[1] ^ each[2]), each[0]))[:WORST]
    pictures, without = thumbnails(of, [image_id for image_id, *_ in worst])
    columns = [Column("class"), *(Column(name, number=True) for name in ("images", "found", "AP", "F1"))]
    blocks: list[Block] = [Text([without])] if without else []
    table = Table(
        "Each class by itself, AP and F1 in percent, the hardest first",
        columns,
        rows,
        filtered=len(rows) > 12,
        first=10 if len(rows) > 15 else None,
    )
    cards = [
        Card(image_id, pictures.get(image_id), _lines(has, said), []) for image_id, has, said in worst if has ^ said
    ]
    blocks += [table, *([Cards(f"{len(cards)} test images with the most classes wrong", cards)] if cards else [])]
    lead = (
        f"By {classes[0]['method']}, the best on {best.on if best else 'images to choose by'}, first seed. AP is the "
        "area under precision over recall; found: test images above the threshold, which was chosen on images that are "
        "no test images."
    )
    return Section("labels", "Several classes an image", blocks, lead)


def _names(cell: str) -> list[str]:
    found: Any = json.loads(cell)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError(f"{cell[:40]!r} is no list of classes")
    return found


def _number(cell: str) -> Cell:
    return Cell(cell or "-", float(cell) if cell else -1.0)


def _share(cell: str) -> Cell:
    """A fraction in percent; of a class that no test image has there is none, and it comes last."""
    return Cell(f"{100 * float(cell):.1f}", float(cell), float(cell)) if cell else Cell("-", 2.0)


def _lines(has: set[str], said: set[str]) -> list[str]:
    missed, strange = sorted(has - said), sorted(said - has)
    lines = [f"missed: {', '.join(missed)}"] if missed else []
    lines += [f"not there: {', '.join(strange)}"] if strange else []
    return [*lines, f"found: {', '.join(sorted(has & said)) or 'nothing else'}"]
