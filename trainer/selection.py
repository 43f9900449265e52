"""Which images choices are made on: the same rule for every method, and never a test image.

With a validation split: at most min(shots, 4) images a class from it, as CoOp. Without one: a quarter of the shots, at
most 4 and at least one a class, is held out by seed, and the method is fitted again on all shots with what was chosen.
With a single shot and no validation split nothing can be held out and a method takes its default.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.data import Images, Task, take_per_class

MOST_A_CLASS = 4


@dataclass(frozen=True)
class Split:
    """Images to learn from and images to choose by.

    Attributes:
        train: images to learn from while choosing.
        val: images to choose by; None where there are none.
        held_out: whether val was taken out of the shots, so that the method has to be fitted again on all.
        note: one line for the records.
    """

    train: Images
    val: Images | None
    held_out: bool
    note: str


def split_for_selection(task: Task, *, seed: int) -> Split:
    """The split by the rule above."""
    shots = int(torch.bincount(task.train.labels, minlength=len(task.text)).min())
    if len(task.val):
        count = min(shots, MOST_A_CLASS)
        val, _ = take_per_class(task.val, count=count, seed=seed)
        return Split(task.train, val, False, f"validation split, at most {count} images a class")
    if shots < 2:
        return Split(task.train, None, False, "none: one shot and no validation split, defaults taken")
    count = max(1, min(MOST_A_CLASS, shots // 4))
    val, train = take_per_class(task.train, count=count, seed=seed)
    return Split(train, val, True, f"{count} of the training images a class held out by seed, then fitted again on all")
