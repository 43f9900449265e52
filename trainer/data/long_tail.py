"""A long tail: many images of a few classes, few of most: how many each class gives, and which classes are rare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.numbers import Shots, amount


def long_tail(shots: int, imbalance: float, classes: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Images of each class, k IF^(-rank / (C - 1)), rounded, at least one; the classes from head to tail, by seed.

    Args:
        shots: k, of the largest class.
        imbalance: IF, the largest class over the smallest; where k / IF is below one the tail has one image.
    """
    order = np.random.default_rng([seed, classes]).permutation(classes).tolist()
    counts = [0] * classes
    for rank, label in enumerate(order):
        counts[label] = max(1, round(shots * imbalance ** (-rank / max(1, classes - 1))))
    return counts, order


def tail_of(shots: Shots, imbalance: float) -> str:
    """`16 shots of the largest class to 1 of the smallest`."""
    least = 1 if shots == "all" else max(1, round(shots / imbalance))
    return f"{amount(shots, up_to=False)} of the largest class to {least} of the smallest"


def head_medium_tail(order: Sequence[int]) -> dict[str, list[int]]:
    """The first, second and last third of the classes from head to tail; of two classes none is medium."""
    if len(order) == 2:
        return {"head": [order[0]], "medium": [], "tail": [order[1]]}
    parts = np.array_split(np.array(order, dtype=int), 3)
    return dict(zip(("head", "medium", "tail"), (part.tolist() for part in parts), strict=True))
