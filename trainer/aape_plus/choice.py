"""How AAPE+ chooses with few images: by their likelihood, settings and temperature alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

TAUS = tuple(torch.logspace(-2.3, 0, 47).tolist())
"""From half of CLIP's own temperature to 1, where cosines say nothing any more, in steps of 12 %."""
ENTRIES = 2**18
"""Scores of a part of the images (float32: 1 MB, so that it stays in the cache of a core)."""

Setting = TypeVar("Setting", bound=Hashable)


def calibrated(
    scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"], *, near: float | None = None
) -> tuple[float, float]:
    """The least mean negative log-likelihood of softmax(scores / tau), and its tau.

    It has one minimum over TAUS, since it is convex in 1 / tau: found by bisection, or downhill from a tau that is
    thought to be `near`.
    """
    losses: dict[int, float] = {}

    def loss(place: int) -> float:
        if place not in losses:
            losses[place] = negative_log_likelihood(scores, labels, TAUS[place])
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


def negative_log_likelihood(scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"], tau: float) -> float:
    """The mean over images of -log softmax(scores / tau) of the right class."""
    rows = max(1, ENTRIES // scores.shape[1])
    parts = zip(scores.split(rows), labels.split(rows), strict=True)  # type: ignore[no-untyped-call]
    return sum(float(cross_entropy(x / tau, y)) * (len(y) / len(labels)) for x, y in parts)


def likeliest(
    scores: Callable[[Setting], Float[Tensor, "B C"]], labels: Int[Tensor, " B"], log_prior: Mapping[Setting, float]
) -> tuple[Setting, float]:
    """The setting that makes the labels likeliest, each at the temperature that suits it best, and that temperature.

    Few images are right or wrong in few ways, and most settings tie; how sure a setting is of them tells more.

    Args:
        scores: of the images under a setting; asked for one after the other, so that no two need to be kept.
        log_prior: of each setting, in nats: what the images have to gain by it.
    """
    best: tuple[float, Setting, float] | None = None
    tau = None
    for setting, prior in log_prior.items():
        loss, tau = calibrated(scores(setting), labels, near=tau)
        if best is None or len(labels) * loss - prior < best[0]:
            best = len(labels) * loss - prior, setting, tau
    if best is None:
        raise ValueError("no setting to choose from")
    return best[1], best[2]
