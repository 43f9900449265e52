"""What the stores already say about the data: counts, what was left out, classes of unequal size, one file twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from stages import ImageStore, UserError
from stages.stores.artifacts import CLASS_IDS, SPLITS
from stages.stores.provenance import ImageProvenance
from trainer.report.page.blocks import Block, Cell, Column, Section, Table, Text
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections.classes import LISTED_CLASSES, of_all

SHOWN = 5
"""Examples of a finding."""


def section(of: DataSet) -> Section | None:
    """Findings as lines, and the images of every class."""
    rows = of.manifest.to_pydict()
    names = of.manifest_origin.class_names
    splits = Counter(rows["split"])
    lines = [
        f"{len(rows['image_id'])} images{f' of {len(names)} classes' if names else ''}: "
        + ", ".join(f"{splits[split]} {split}" for split in SPLITS if splits[split])
    ]
    lines += _unreadable(rows) + _left_out(of) + _balance(rows, names) + _twice(rows)
    by_class: dict[int, Counter[str]] = defaultdict(Counter)
    for classes, split in zip(_classes(rows), rows["split"], strict=True):
        for class_id in classes:
            by_class[class_id][split] += 1
    listed = sorted(names, key=lambda i: by_class[i]["train"])[:LISTED_CLASSES]
    table = Table(
        f"Images of {of_all(len(listed), len(names))} classes" + ", the smallest" * (len(listed) < len(names)),
        [Column("class"), *(Column(split, number=True) for split in SPLITS)],
        [[Cell(names[i]), *(Cell(str(by_class[i][s]), by_class[i][s]) for s in SPLITS)] for i in sorted(listed)],
        filtered=len(names) > 12,
        first=10 if len(names) > 15 else None,
    )
    blocks: list[Block] = [Text(lines, points=True), *([table] if names else [])]
    return Section("data", "The data", blocks, "What the stores say; nothing is looked for anew.")


def _unreadable(rows: dict[str, list[str | None]]) -> list[str]:
    bad = [(i, error) for i, error in zip(rows["image_id"], rows["error"], strict=True) if error]
    if not bad:
        return []
    listed = "; ".join(f"{image_id}: {error}" for image_id, error in bad[:SHOWN])
    return [f"{len(bad)} image files cannot be read and take no part: {listed}" + "; ..." * (len(bad) > SHOWN)]


def _left_out(of: DataSet) -> list[str]:
    try:
        origin = ImageStore(of.cache, of.name, of.record.encoder).provenance()
    except UserError:
        return []
    found = origin.left_out if isinstance(origin, ImageProvenance) else {}
    if not found:
        return []
    listed = "; ".join(f"{image_id}: {why}" for image_id, why in list(found.items())[:SHOWN])
    return [f"{len(found)} images could not be embedded: {listed}" + "; ..." * (len(found) > SHOWN)]


def _classes(rows: dict[str, list[Any]]) -> list[list[int]]:
    """All classes of each image."""
    several: list[list[int]] | None = rows.get(CLASS_IDS)
    return [[] if each is None else [each] for each in rows["class_id"]] if several is None else several


def _balance(rows: dict[str, list[Any]], names: dict[int, str]) -> list[str]:
    train = Counter(
        class_id
        for classes, split in zip(_classes(rows), rows["split"], strict=True)
        if split == "train"
        for class_id in classes
    )
    if not train or not names:
        return []
    sizes = sorted((train[i], name) for i, name in names.items())
    (least, smallest), (most, largest) = sizes[0], sizes[-1]
    if least == most:
        return [f"every class has {most} training images"]
    said = f"the smallest class has {least} training images ({smallest}), the largest {most} ({largest})"
    return [said + (f": {most / max(least, 1):.0f} times as many" if most >= 3 * max(least, 1) else "")]


def _twice(rows: dict[str, list[str | None]]) -> list[str]:
    """One file under several names, by its hash."""
    where: dict[str, list[tuple[str | None, str | None]]] = defaultdict(list)
    for sha256, image_id, split in zip(rows["sha256"], rows["image_id"], rows["split"], strict=True):
        if sha256:
            where[sha256].append((image_id, split))
    twice = [found for found in where.values() if len(found) > 1]
    across = [found for found in twice if len({split for _, split in found}) > 1]
    lines = []
    if twice:
        lines.append(f"{len(twice)} files are there more than once, such as {twice[0][0][0]} = {twice[0][1][0]}")
    if across:
        lines.append(f"{len(across)} of them lie in several splits: what is tested on was trained on")
    return lines
