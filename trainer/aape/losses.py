"""The terms of the objective: distillation (eq. 2), the CLIP reward (section 3.2), the CLIP loss of captions."""

from __future__ import annotations

from typing import Literal

import torch
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


def symmetric_clip_loss(
    queries: Float[Tensor, "B D"], captions: Float[Tensor, "P D"], owner: Int[Tensor, " P"], scale: Tensor | float
) -> Float[Tensor, ""]:
    """The symmetric contrastive loss of a batch, with any number of captions an image (Radford et al. 2021, figure 3).

    Image to text: each caption against those of all other images; the other captions of its own image are neither
    wanted nor unwanted. Text to image: each caption's image against all others. Every image has the same weight.

    Args:
        queries: unit rows, one an image.
        captions: unit rows.
        owner: which image each caption belongs to; every image has at least one.
        scale: 1 / tau.
    """
    logits = scale * (queries @ captions.T)
    own = owner[None] == torch.arange(len(queries), device=owner.device)[:, None]
    paired = logits[owner, torch.arange(len(owner), device=owner.device)]
    others = logits.masked_fill(own, torch.finfo(logits.dtype).min).logsumexp(1)
    image_to_text = torch.logaddexp(paired, others[owner]) - paired
    text_to_image = logits.logsumexp(0) - paired
    weights = 1 / (own.sum(1)[owner] * len(queries))
    return ((image_to_text + text_to_image) * weights).sum() / 2
