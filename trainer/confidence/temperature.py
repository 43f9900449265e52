"""One scalar that brings a classifier's probabilities in line with how often it is right on images it has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

RANGE = (1 / 32, 32.0)
"""Where the temperature is searched."""
STEPS = 60
"""Halvings of log T, to far below any meaning."""


@dataclass(frozen=True)
class Calibration:
    """What is known of a classifier's confidence.

    Attributes:
        temperature: its logits are divided by it.
        images: labelled images that it was fitted on.
        source: what they were, for people.
    """

    temperature: float
    images: int
    source: str


def fit_temperature(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> float:
    """The T of RANGE at which softmax(logits / T) has the least negative log-likelihood.

    The loss is convex in 1/T, and its slope is the mean of (expected logit - logit of the right class): bisection finds
    where it is zero. Where a classifier is right on every image the likelihood would grow without end as T falls, and
    12 images would make it certain: as Platt (1999) did, each image counts as of another class, drawn evenly, with
    weight 1 / (B + 2).

    Raises:
        ValueError: no image.
    """
    images = len(labels)
    if not images:
        raise ValueError("no image to fit a temperature on")
    z = logits.double() - logits.double().max(1, keepdim=True).values
    other = 1 / (images + 2)
    own = z.gather(1, labels[:, None].long())[:, 0]
    target = float(((1 - other) * own + other * z.mean(1)).mean())
    low, high = (math.log(bound) for bound in RANGE)
    for _ in range(STEPS):
        middle = (low + high) / 2
        shares = (z / math.exp(middle)).softmax(1)
        expected = float((shares * z).sum(1).mean())  # rises with 1/T, falls with T
        low, high = (middle, high) if expected > target else (low, middle)
    return round(math.exp((low + high) / 2), 6)
