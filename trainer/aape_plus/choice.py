"""How AAPE+ chooses with few images: by their likelihood, settings and temperature alike."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

TAUS = tuple(torch.logspace(-2.3, 0, 47).tolist())
"""From half of CLIP's own temperature to 1, where cosines say nothing any more, in steps of 12 %."""

Setting = TypeVar("Setting", bound=Hashable)


def calibrated(scores: Float[Tensor, "B C"], labels: Int[Tensor, "B"]) -> tuple[float, float]:
    """The least mean negative log-likelihood of softmax(scores / tau), and its tau."""
    return min((float(cross_entropy(scores / tau, labels)), tau) for tau in TAUS)


def likeliest(
    logits: Mapping[Setting, Float[Tensor, "B C"]], labels: Int[Tensor, "B"], doubt: Mapping[Setting, float]
) -> tuple[Setting, float]:
    """The setting that makes the labels likeliest, each at the temperature that suits it best, and that temperature.

    Few images are right or wrong in few ways, and most settings tie; how sure a setting is of them tells more.

    Args:
        doubt: minus the log prior probability of each setting, in nats: what the images have to gain by it.
    """
    found = {setting: calibrated(scores, labels) for setting, scores in logits.items()}
    best = min(found, key=lambda setting: len(labels) * found[setting][0] + doubt[setting])
    return best, found[best][1]
