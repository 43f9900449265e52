"""Classification metrics, fractions of 1, and the interval over seeds.

Names used in every table: `accuracy`, `macro_accuracy`, `base`, `new`, `h`, `generalized`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

OWN_SCALE = frozenset({"i2t_median_rank", "t2i_median_rank", "caption_words"})
"""Metrics that are no fractions of 1: tables show them as they are, and no percent."""


def confusion_matrix(*, labels: Int[Tensor, " B"], predictions: Int[Tensor, " B"], classes: int) -> Int[Tensor, "C C"]:
    """How many images of class row were predicted as class column."""
    return torch.bincount(labels.long() * classes + predictions.long(), minlength=classes * classes).view(
        classes, classes
    )


def accuracy(confusion: Int[Tensor, "C C"]) -> float:
    """Share of images predicted right; NaN without images."""
    total = int(confusion.sum())
    return int(confusion.diagonal().sum()) / total if total else math.nan


def macro_accuracy(confusion: Int[Tensor, "C C"]) -> float:
    """Mean over the classes that have images of the share predicted right; NaN without images."""
    counts = confusion.sum(1)
    seen = counts > 0
    if not bool(seen.any()):
        return math.nan
    return float((confusion.diagonal()[seen].double() / counts[seen]).mean())


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new) of base-to-new; 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def interval95(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % confidence interval by Student's t.

    Returns:
        (mean, half-width); the half-width is None for fewer than two values, the mean NaN for none.
        A NaN among the values makes both NaN.
    """
    if not values:
        return math.nan, None
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, _quantile(n - 1) * deviation / math.sqrt(n)


@cache
def _quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; slow to compute, and a report asks for the same few thousands of times."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
