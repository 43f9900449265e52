"""The losses of multi-label recognition, on logits or cosines (B, C) and labels (B, C) of 0 and 1."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus


def asymmetric_loss(
    logits: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], *, positive: float = 1.0, negative: float = 2.0,
    shift: float = 0.05,
) -> Float[Tensor, ""]:  # fmt: skip
    """Mean over images and classes of the asymmetric loss (Ridnik et al., ICCV 2021), as DualCoOp uses it.

    (1 - p)^positive log p of a positive and q^negative log(1 - q) of a negative, q = max(p - shift, 0): what is easily
    told to be absent has no say.
    """
    p = torch.sigmoid(logits)
    q = (p - shift).clamp_min(0)
    found = (1 - p).pow(positive) * torch.nn.functional.logsigmoid(logits)
    absent = q.pow(negative) * torch.log1p(-q.clamp_max(1 - 1e-7))
    return -torch.where(labels, found, absent).mean()


def ranking_loss(cosines: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], *, margin: float) -> Float[Tensor, ""]:
    """Mean over rows and their pairs of a class i that they have and one j that they lack of max(0, m - s_i + s_j)
    (TaI, eq. 4). Rows with all classes, or none, have no pair.
    """
    pairs = (labels[:, :, None] & ~labels[:, None, :]).to(cosines.dtype)
    hinge = (margin - cosines[:, :, None] + cosines[:, None, :]).clamp_min(0)
    of_row = pairs.sum((1, 2))
    has = of_row > 0
    if not bool(has.any()):
        return cosines.sum() * 0
    return ((hinge * pairs).sum((1, 2))[has] / of_row[has]).mean()


def class_specific_embedding_loss(
    cosines: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], counts: Int[Tensor, " C"], *, margin: float = 1.0,
    gamma: float = 0.5,
) -> Float[Tensor, ""]:  # fmt: skip
    """LMPT's loss between texts and class embeddings: with distance d = 1 - cos,

    r_c d of a class that the text has and r_c max(0, margin n_c^(-1/4) - d) of one that it lacks, mean over both;
    r_c = n_c^-gamma over its mean. Rare classes are held further away from texts of others (the class-aware soft
    margin) and weigh more.

    Args:
        counts: n_c, training images of each class; 0 counts as 1.
    """
    n = counts.clamp_min(1).to(cosines.dtype)
    weight = n.pow(-gamma)
    weight = weight / weight.mean()
    distance = 1 - cosines
    apart = (margin * n.pow(-0.25) - distance).clamp_min(0)
    return (weight * torch.where(labels, distance, apart)).mean()


def distribution_balanced_loss(
    logits: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"], counts: Int[Tensor, " C"], *, images: int,
    tolerance: float = 2.0, bias: float = 0.05, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2,
) -> Float[Tensor, ""]:  # fmt: skip
    """The distribution-balanced loss (Wu et al., ECCV 2020), LMPT's classification loss: re-balanced weights, and
    negatives that are tolerated.

    z = logit - bias log(N / n_c - 1). A positive costs log(1 + e^-z), a negative log(1 + e^(tolerance z)) / tolerance,
    both times alpha + sigmoid(beta (r - mu)), r = (1 / n_c) / sum over the classes of the image of 1 / n: how often the
    class is met for its own sake. Of an image without classes r is 0.

    Args:
        counts: n_c, training images of each class.
        images: N.
    """
    n = counts.clamp_min(1).to(logits.dtype)
    shift = bias * torch.log((images / n - 1).clamp_min(1e-3))
    z = logits - shift
    met = (labels / n).sum(1, keepdim=True)
    r = torch.where(met > 0, (1 / n) / met.clamp_min(1e-12), torch.zeros_like(met))
    weight = alpha + torch.sigmoid(beta * (r - mu))
    each = torch.where(labels, softplus(-z), softplus(tolerance * z) / tolerance)
    return (weight * each).mean()


def binary_loss(logits: Float[Tensor, "B C"], labels: Bool[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Mean binary cross entropy."""
    return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
