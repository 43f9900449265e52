"""What shots say of any image, in one form: x W^T + b, and beside it how similar the image is to each shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """x W^T + b + k(x, keys) values.

    Attributes:
        keys: shots; no row where the scores are linear.
        sharpness: of k, see `similarity`.
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    keys: Float[Tensor, "M D"]
    values: Float[Tensor, "M C"]
    sharpness: float

    def float32(self) -> Scores:
        """The same in float32."""
        weight, bias, keys, values = (each.float() for each in (self.weight, self.bias, self.keys, self.values))
        return Scores(weight, bias, keys, values, self.sharpness)

    def of(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """The scores of images."""
        found = images @ self.weight.T + self.bias
        return found + similarity(images, self.keys, self.sharpness) @ self.values if len(self.keys) else found


def similarity(rows: Float[Tensor, "B D"], keys: Float[Tensor, "M D"], sharpness: float) -> Float[Tensor, "B M"]:
    """exp(sharpness (cos - 1)) of unit rows: the Gaussian kernel on the sphere, nearly linear where it is flat."""
    return torch.exp(sharpness * (rows @ keys.T - 1))


def linear(weight: Float[Tensor, "C D"], bias: Float[Tensor, " C"]) -> Scores:
    """x W^T + b."""
    return Scores(weight, bias, weight[:0], weight.new_zeros(0, len(weight)), 0.0)


def added(scores: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """The weighed sum, of mean 0 over the classes; one of them at most may have keys."""
    weight = torch.stack([a * each.weight for a, each in zip(weights, scores, strict=True)]).sum(0)
    bias = torch.stack([a * each.bias for a, each in zip(weights, scores, strict=True)]).sum(0)
    keyed = [(a, each) for a, each in zip(weights, scores, strict=True) if len(each.keys) and a]
    weight, bias = weight - weight.mean(0), bias - bias.mean()
    if not keyed:
        return linear(weight, bias)
    ((a, each),) = keyed
    values = a * (each.values - each.values.mean(1, keepdim=True))
    return Scores(weight, bias, each.keys, values, each.sharpness)
