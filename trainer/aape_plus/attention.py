"""The image attends over the cached prompts of each class: an aggregator without parameters, for any class with text.

p_c(x) = sum_n softmax_n(beta cos(x, p_cn)) p_cn, and the score is cos(x, p_c(x)). With beta = 0 this is CuPL's mean; a
larger beta listens to the sentences that fit the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ENTRIES = 2**22
"""Most weights (images times classes times prompts) at once."""
SMALLEST_SQUARE = 1e-12


def attended_cosines(
    images: Float[Tensor, "B D"], prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"], *, beta: float
) -> Float[Tensor, "B C"]:
    """cos(x, p_c(x)) of unit images for classes with padded unit prompts."""
    return attended_by_each(images, prompts, mask, betas=[beta])[0]


def attended_by_each(
    images: Float[Tensor, "B D"], prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"], *, betas: Sequence[float]
) -> Float[Tensor, "betas B C"]:
    """cos(x, p_c(x)) for each beta; the cosines with the prompts are computed once.

    Nothing of size B x C x D is made: with the weights a and the prompts' Gram matrix G, ||p_c(x)||^2 = a^T G a.
    """
    classes, count, _ = prompts.shape
    gram, flat = prompts @ prompts.transpose(1, 2), prompts.flatten(0, 1)
    padding = torch.zeros_like(mask, dtype=prompts.dtype).masked_fill(~mask, -torch.inf)[..., None]
    rows = max(1, ENTRIES // (classes * count))
    out = images.new_empty(len(betas), len(images), classes)
    for top in range(0, len(images), rows):
        cosines = (flat @ images[top : top + rows].T).view(classes, count, -1)  # images last: the sums run along them
        for beta, found in zip(betas, out, strict=True):
            attention = torch.add(padding, cosines, alpha=beta).softmax(1)
            square = (torch.bmm(gram, attention) * attention).sum(1).clamp_min(SMALLEST_SQUARE)
            found[top : top + rows] = ((attention * cosines).sum(1) * square.rsqrt()).T
    return out
