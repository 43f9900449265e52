"""The three terms of the objective: task, distillation (eq. 2) and the CLIP reward (section 3.2)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity


def distillation_loss(
    generated: Float[Tensor, "B D"], target: Float[Tensor, "B D"], kind: Literal["squared", "cosine"]
) -> Float[Tensor, ""]:
    """L_distill of eq. 2: mean over images of ||h(x) - p^a||^2, or of 1 - cos(h(x), p^a)."""
    if kind == "squared":
        return (generated - target).square().sum(-1).mean()
    return 1 - cosine_similarity(generated, target, dim=-1).mean()


def clip_reward(images: Float[Tensor, "B D"], aggregated: Float[Tensor, "B D"], scale: float) -> Float[Tensor, ""]:
    """Mean of CLIP-S(x, p^a) = s max(cos(x, p^a), 0); both sides are unit rows."""
    return scale * (images * aggregated).sum(-1).clamp_min(0).mean()


def class_means(values: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Float[Tensor, "present D"]:
    """The mean row of each class that is there, in the order of the labels."""
    counts = labels.bincount()
    sums: Tensor = values.new_zeros(len(counts), values.shape[1]).index_add(0, labels, values)
    return sums[counts > 0] / counts[counts > 0, None]
