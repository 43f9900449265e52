"""How far probabilities are from what happens: expected calibration error, negative log-likelihood, Brier score."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.runs.record import Reliability

BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017."""


class Observed(NamedTuple):
    """What the measures need of each image, in double precision.

    Attributes:
        confidence: the largest probability.
        right: 1 where its class is right, else 0.
        own: the probability of the right class.
        squares: sum of the squared probabilities.
    """

    confidence: Float[Tensor, " B"]
    right: Float[Tensor, " B"]
    own: Float[Tensor, " B"]
    squares: Float[Tensor, " B"]


def observe(
    tiles: Iterable[tuple[int, Float[Tensor, "B C"]]], labels: Int[Tensor, " B"], *, temperature: float = 1.0
) -> Observed:
    """Take what is needed out of logits, some images at a time, so that memory does not grow with their number.

    Args:
        tiles: position of the first image, and the logits.
        temperature: the logits are divided by it.
    """
    found: list[Observed] = []
    for start, logits in tiles:
        shares = (logits.double() / temperature).softmax(1)
        truth = labels[start : start + len(shares)].long()
        confidence, predicted = shares.max(1)
        own = shares.gather(1, truth[:, None])[:, 0]
        found.append(Observed(confidence, (predicted == truth).double(), own, shares.square().sum(1)))
    if not found:
        return Observed(*(torch.zeros(0, dtype=torch.double) for _ in range(4)))
    return Observed(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def reliability(seen: Observed, *, method: str, bins: int = BINS) -> list[Reliability]:
    """The diagram: one line a bin of equal width, empty ones included."""
    counts = torch.bincount(_bin(seen, bins), minlength=bins).tolist()
    sums = [_sums(seen, each, bins) for each in (seen.confidence, seen.right)]
    return [
        Reliability(
            method, i, round(i / bins, 6), round((i + 1) / bins, 6), count,
            *(round(float(each[i]) / count, 6) if count else None for each in sums),
        )
        for i, count in enumerate(counts)
    ]  # fmt: skip


def _bin(seen: Observed, bins: int) -> Int[Tensor, " B"]:
    return (seen.confidence * bins).ceil().long().clamp(1, bins) - 1


def _sums(seen: Observed, values: Float[Tensor, " B"], bins: int) -> Float[Tensor, " bins"]:
    return torch.zeros(bins, dtype=torch.double).index_add_(0, _bin(seen, bins), values)


def calibration_error(seen: Observed, *, bins: int = BINS) -> float:
    """ECE: the mean over images of |accuracy - confidence| of their bin, bins of equal width; NaN without images."""
    images = len(seen.right)
    return float(_sums(seen, seen.right - seen.confidence, bins).abs().sum()) / images if images else math.nan


def adaptive_calibration_error(seen: Observed, *, bins: int = BINS) -> float:
    """ECE with bins of equally many images (Nguyen and O'Connor 2015); NaN without images."""
    images = len(seen.right)
    gaps = (seen.right - seen.confidence)[seen.confidence.argsort(stable=True)]
    parts = gaps.tensor_split(bins)
    return sum(float(part.sum().abs()) for part in parts) / images if images else math.nan


def measures(seen: Observed) -> dict[str, float]:
    """`ece`, `adaptive_ece`, `nll` (mean negative log-likelihood, nats), `brier` (sum over the classes, 0 to 2).

    NaN without images.
    """
    likelihood = seen.own.clamp_min(torch.finfo(torch.double).tiny).log()
    brier = seen.squares - 2 * seen.own + 1
    return {
        "ece": calibration_error(seen),
        "adaptive_ece": adaptive_calibration_error(seen),
        "nll": -float(likelihood.mean()),
        "brier": float(brier.mean()),
    }
