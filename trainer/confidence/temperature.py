"""One scalar that brings a classifier's probabilities in line with how often it is right on images it has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

RANGE, STEPS = (1 / 32, 32.0), 40
"""Where the temperature is looked for, and into how many parts of equal ratio that is divided first."""
PRIOR = 1.0
"""Nats that a temperature of e, or of 1/e, has to gain over 1."""
FLAT = 1.0
"""Logits whose largest stands less than this above their mean are looked at as if it stood so: the smallest C of a
logistic regression may tell the classes apart and yet give each of them the same probability."""


@dataclass(frozen=True)
class Calibration:
    """What is known of a classifier's confidence.

    Attributes:
        temperature: its logits are divided by it.
        images: labelled images that it was fitted on.
        source: what they were, for people.
        scores: how little probability their right class has, for `trainer.confidence.conformal`; ascending.
    """

    temperature: float
    images: int
    source: str
    scores: Float[Tensor, " M"] | None = None


def fit_temperature(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> float:
    """The T of RANGE at which softmax(logits / T) makes the labels likeliest.

    A few images alone would often ask for too much: where all are right, the likelihood grows without end as T falls.
    Therefore each image counts, as in Platt (1999), with weight 1 / (B + 2) as one of a class drawn evenly, and T has a
    prior: PRIOR (log T)^2 nats. Both fade as the images grow in number. They were chosen by what they do to images of
    train and val that were not fitted on (`docs/confidence.md`). Where logits are FLAT, RANGE and prior are
    those of the logits brought to that scale.

    Raises:
        ValueError: no image.
    """
    images = len(labels)
    if not images:
        raise ValueError("no image to fit a temperature on")
    z = logits.double()
    z = z - z.max(1, keepdim=True).values
    above = float(-z.mean(1).mean())
    unit = min(above / FLAT, 1.0) or 1.0
    z = z / unit
    other = 1 / (images + 2)
    target = (1 - other) * z.gather(1, labels[:, None].long())[:, 0] + other * z.mean(1)

    def loss(log_t: float) -> float:
        scaled = z / math.exp(log_t)
        return float((scaled.logsumexp(1) - target / math.exp(log_t)).sum()) + PRIOR * log_t**2

    low, high = (math.log(bound) for bound in RANGE)
    step = (high - low) / STEPS
    best = min((low + i * step for i in range(STEPS + 1)), key=loss)
    found = minimize_scalar(loss, bounds=(max(low, best - step), min(high, best + step)), method="bounded")
    return float(f"{unit * math.exp(found.x):.5g}")
