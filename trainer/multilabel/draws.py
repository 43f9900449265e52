"""Which images of several classes are learned from and chosen by: k images a class at least, by seed, or a long tail.

An image counts for every class that it has, so that a class may get more than was asked for: the records say how many.
Rare classes are served first. An image of no class is drawn with all images alone. No test image is ever drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from stages.errors import UserError
from stages.numbers import Shots, most
from trainer.data.draws import MOST_TO_CHOOSE_BY, fewer
from trainer.multilabel.data import Labelled, LabelTask

FEWEST = 8
"""Images from which a part is held out to choose by."""
SHARE = 4
"""One in this many is held out."""


def draw_rows(labels: Bool[np.ndarray, "B C"], wanted: Sequence[float], *, seed: int) -> Int[np.ndarray, " M"]:
    """Rows that hold at least `wanted` of each class where there are as many, ascending; the same on every device.

    The classes are served from the rarest on. Each one's images are shuffled by seed and class, and taken in turn until
    it has enough, those counted that another class brought.
    """
    taken = np.zeros(len(labels), dtype=bool)
    totals = labels.sum(0)
    for label in sorted(range(labels.shape[1]), key=lambda each: (totals[each], each)):
        rows = np.flatnonzero(labels[:, label])
        missing = wanted[label] - int(taken[rows].sum())
        for row in rows[np.random.default_rng([seed, label]).permutation(len(rows))]:
            if missing <= 0:
                break
            missing -= not taken[row]
            taken[row] = True
    return np.flatnonzero(taken)


def few_shot_labels(
    train: Labelled, val: Labelled, shots: Shots, *, seed: int, names: Sequence[str], up_to: bool = False,
    wanted: Sequence[int] | None = None,
) -> tuple[Int[np.ndarray, " M"], str, Int[np.ndarray, " N"]]:  # fmt: skip
    """Rows of train to learn from; the split to choose by, and its rows: min(k, 4) a class, where there are as many.

    Args:
        wanted: images of each class, in place of `shots` of all.

    Raises:
        UserError: a class has fewer images than shots.
    """
    matrix = train.labels.cpu().numpy()
    each = [most(shots)] * matrix.shape[1] if wanted is None else list(wanted)
    counts = matrix.sum(0).tolist()
    if shots != "all" and not up_to and any(count < many for count, many in zip(counts, each, strict=True)):
        short = fewer(counts, shots, names) if wanted is None else "a class of the long tail has fewer images"
        lower = f"lower --shots to {min(counts)}, " if min(counts) else "leave out the class without images, "
        raise UserError(f"{shots} shots asked, but {short}; {lower}go on with what there is (--up-to), or add images")
    chosen = np.arange(len(matrix)) if shots == "all" and wanted is None else draw_rows(matrix, each, seed=seed)
    by = [min(many, MOST_TO_CHOOSE_BY) for many in each]
    if len(val):
        return chosen, "val", draw_rows(val.labels.cpu().numpy(), by, seed=seed)
    spare = np.setdiff1d(np.arange(len(matrix)), chosen)
    return chosen, "train", spare[draw_rows(matrix[spare], by, seed=seed)]


@dataclass(frozen=True)
class LabelSelection:
    """Images to learn from and images to choose by, as `trainer.data.draws.Selection`."""

    train: Labelled
    val: Labelled | None
    held_out: bool
    note: str


def select_labels(task: LabelTask, *, seed: int) -> LabelSelection:
    """The images that a method chooses its settings by: the same rule for every method.

    The validation images; where there are none a quarter of the training images, drawn by seed, and the method is
    fitted again on all; of fewer than FEWEST training images none.
    """
    train = task.train
    if len(task.val):
        return LabelSelection(train, task.val.float32(), False, f"{len(task.val)} validation images")
    if len(train) < FEWEST:
        return LabelSelection(train, None, False, f"none: {len(train)} images and no validation image, defaults taken")
    order = torch.from_numpy(np.random.default_rng([seed, len(train)]).permutation(len(train))).to(train.device)
    held = order[: len(train) // SHARE].sort().values
    rest = order[len(train) // SHARE :].sort().values
    note = f"{len(held)} of the training images held out by seed, then fitted again on all"
    return LabelSelection(train.take(rest), train.take(held).float32(), True, note)
