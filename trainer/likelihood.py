"""How likely scores make labels, at the temperature that suits them best: what choices are made by."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

TAUS = tuple(torch.logspace(-2.3, 0, 47).tolist())
"""From half of CLIP's own temperature to 1, where cosines say nothing any more, in steps of 12 %."""
ENTRIES = 2**18
"""Scores of a part of the images (float32: 1 MB, so that it stays in the cache of a core)."""


def least_loss(
    scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"], *, near: float | None = None
) -> tuple[float, float]:
    """The least mean negative log-likelihood of softmax(scores / tau) over TAUS, and its tau.

    It has one minimum, since it is convex in 1 / tau: found by bisection, or downhill from a tau that is thought to be
    `near`.
    """
    losses: dict[int, float] = {}

    def loss(place: int) -> float:
        if place not in losses:
            losses[place] = _mean_loss(scores, labels, TAUS[place])
        return losses[place]

    low, high = 0, len(TAUS) - 1
    guess = None if near is None else TAUS.index(near)
    while low < high:
        middle = (low + high) // 2 if guess is None else min(max(guess, low), high - 1)
        if loss(middle) <= loss(middle + 1):
            high = middle
            guess = None if guess is None else middle - 1
        else:
            low = middle + 1
            guess = None if guess is None else middle + 1
    return loss(low), TAUS[low]


def _mean_loss(scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"], tau: float) -> float:
    rows = max(1, ENTRIES // scores.shape[1])
    parts = zip(scores.split(rows), labels.split(rows), strict=True)  # type: ignore[no-untyped-call]
    return sum(float(cross_entropy(x / tau, y)) * (len(y) / len(labels)) for x, y in parts)
