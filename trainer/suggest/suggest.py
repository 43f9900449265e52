"""From a pool of unlabelled images to a list of those to label first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stages import UserError
from stages.sheet import Cell, draw_sheet
from stages.text import counted
from trainer.given import are_embeddings
from trainer.predict import Batch, ImageEncoder, embed_files, picture_of
from trainer.suggest.choose import choose, cover_by, margin_doubt, width_of
from trainer.suggest.known import Classifier, Known
from trainer.suggest.pool import Pool, Seen, new_files, stacked

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("rank", "score", "image_id", "path", "suggested", "probability", "action", "label")
BLOCK = 4096
"""Files looked at for what is new, and then embedded, at once."""


@dataclass
class Suggestion:
    """What to label.

    Attributes:
        rows: one an image, the most worth first, with the columns of the list.
        notes: counted lines for the user.
        total: new images that were read.
    """

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    total: int = 0


def suggest(
    files: Sequence[Path], encoder: ImageEncoder, known: Known, classifier: Classifier | None, *, n: int, batch: int
) -> Suggestion:
    """Rank the images of a pool by what their label would add.

    Raises:
        UserError: nothing of the pool is new, or none of it can be read.
    """
    pool, old = Pool(), 0
    with torch.inference_mode():
        for some, old_here in _blocks(files, known):
            old += old_here
            for each in embed_files(some, encoder, batch=batch, what="reading the pool") if some else ():
                _take(pool, each, classifier)
        if not pool.total:
            raise UserError(_nothing(pool, old, known))
        kept = pool.candidates()
        demand = stacked(pool.sample)
        doubt = torch.tensor([seen.doubt for seen in pool.sample])
        width = width_of(demand)
        cover = cover_by((images for images, _ in known.labelled()), demand, width)
        picks = choose(stacked(kept), demand, doubt, cover, n=n, width=width)
    rows = [
        _row(rank, kept[place], gain) for rank, (place, gain) in enumerate(zip(picks.index, picks.gain, strict=True), 1)
    ]
    return Suggestion(rows, list(_notes(pool, old, known, classifier, n)), pool.total)


def _blocks(files: Sequence[Path], known: Known) -> Iterator[tuple[list[Path], int]]:
    """The new files, some at once, and how many of these were not new."""
    digests = set(known.digests)
    for start in range(0, len(files), BLOCK):
        some = files[start : start + BLOCK]
        pictures = [file for file in some if not are_embeddings(file)]
        fresh = {file: new for file, new in new_files(pictures, digests)}
        new = [file for file in some if fresh.get(file, True)]
        yield new, len(some) - len(new)


def _take(pool: Pool, batch: Batch, classifier: Classifier | None) -> None:
    for row in batch.rows:
        if row["error"] is not None:
            pool.fail(row["path"], row["error"])
    if not batch.readable:
        return
    shares = None if classifier is None else classifier.probabilities(batch.images)
    doubt = [1.0] * len(batch.readable) if shares is None else margin_doubt(shares).tolist()
    seen = [
        Seen(row["path"], image.half(), w) for row, image, w in zip(batch.readable, batch.images, doubt, strict=True)
    ]
    if shares is not None and classifier is not None:
        best = shares.max(1)
        for each, value, place in zip(seen, best.values.tolist(), best.indices.tolist(), strict=True):
            each.suggested, each.probability = classifier.names[place], round(value, 4)
    pool.add(seen)


def _row(rank: int, seen: Seen, gain: float) -> dict[str, Any]:
    return {
        "rank": rank, "score": round(gain, 6), "image_id": None, "path": seen.path, "suggested": seen.suggested,
        "probability": seen.probability, "action": None, "label": None,
    }  # fmt: skip


def _nothing(pool: Pool, old: int, known: Known) -> str:
    """Why there is nothing to label."""
    if pool.bad:
        return f"none of the {counted(pool.bad, 'image')} can be read (first: {pool.unreadable[0]})"
    where = f"in {known.dataset} already" if known.dataset else "twice in the pool"
    return (
        f"nothing new to label: {counted(old, 'image of the pool is', 'images of the pool are')} {where}, byte for byte"
    )


def _notes(pool: Pool, old: int, known: Known, classifier: Classifier | None, n: int) -> Iterator[str]:
    if old:
        where = f"in {known.dataset} already or " if known.dataset else ""
        yield f"{counted(old, 'image is', 'images are')} {where}twice in the pool, byte for byte, and left aside"
    if pool.bad:
        yield f"{counted(pool.bad, 'image')} could not be read (first: {pool.unreadable[0]})"
    if classifier is None:
        yield "nobody knows the classes yet: images are chosen to speak for the pool, without a classifier"
    elif classifier.why:
        yield classifier.why
    bare = [name for name, count in known.counts.items() if not count]
    if bare:
        shown = ", ".join(bare[:5])[:200] + (", ..." if len(bare) > 5 else "")
        yield f"{counted(len(bare), 'class has', 'classes have')} no labelled image yet: {shown}"
    if pool.total < n:
        yield f"the pool has {counted(pool.total, 'new image')}: all are listed"
    if pool.total > len(pool.sample):
        yield f"{len(pool.sample)} images drawn by seed stand for the {pool.total} of the pool"


def sheet(suggestion: Suggestion, file: Path, *, title: str) -> list[str]:
    """Write a contact sheet of the images; one line for each that cannot be read."""
    cells = [
        Cell(
            row["suggested"] or "", f"#{row['rank']} · {row['score']:.3f}", row["path"], partial(_picture, row["path"])
        )
        for row in suggestion.rows
    ]
    notes = ["the number is the share of the pool's doubt that a label would take away; below: the likeliest class"]
    return draw_sheet(cells, file, title=title, notes=notes)


def _picture(path: str) -> Image:
    return picture_of(Path(path))
