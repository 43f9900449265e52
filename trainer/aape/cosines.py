"""cos(x_b, w_c(x_b)) for every image and class without anything of size B x C x D.

In the bottleneck, with r_bc = relu(A w_c + B h(x_b)), the class weight is w_c(x_b) = w_c + V r_bc, and the cosine needs
    numerator     x_b . w_c + (V^T x_b) . r_bc
    squared norm  ||w_c||^2 + 2 (V^T w_c) . r_bc + r_bc^T (V^T V) r_bc
The head that is one full layer, w_c(x_b) = relu(A w_c + B h(x_b)) in width D, has no short form: it is computed in
tiles over the classes, and once more on the way back.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SMALLEST_SQUARE = 1e-12
"""Squared norms below count as this, so that a class weight of zero gives a cosine of zero."""
LAYER_ENTRIES = 250_000
"""Entries of a tile of the full layer (float32: 1 MB, so that it stays in the cache of a core)."""


def bottleneck_cosines(
    a: Float[Tensor, "C K"],
    b: Float[Tensor, "B K"],
    vx: Float[Tensor, "B K"],
    vw: Float[Tensor, "C K"],
    gram: Float[Tensor, "K K"],
    xw: Float[Tensor, "B C"] | float,
    ww: Float[Tensor, " C"],
) -> Float[Tensor, "B C"]:
    """From a = A w, b = B h(x), vx = V^T x, vw = V^T w, gram = V^T V, xw = x . w, ww = ||w||^2.

    The literal head, which leaves w_c out, has vw = xw = ww = 0.
    """
    numerator, square = bottleneck_parts(a, b, vx, vw, gram, xw, ww)
    return numerator * square.clamp_min(SMALLEST_SQUARE).rsqrt()


def bottleneck_parts(
    a: Float[Tensor, "C K"],
    b: Float[Tensor, "B K"],
    vx: Float[Tensor, "B K"],
    vw: Float[Tensor, "C K"],
    gram: Float[Tensor, "K K"],
    xw: Float[Tensor, "B C"] | float,
    ww: Float[Tensor, " C"],
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Numerator and squared norm of these cosines."""
    r = (a + b[:, None]).relu_()
    square = (r * (r @ gram).add_(vw, alpha=2)).sum(-1) + ww
    return xw + torch.bmm(r, vx[..., None])[..., 0], square


def full_layer_cosines(
    a: Float[Tensor, "C D"], b: Float[Tensor, "B D"], x: Float[Tensor, "B D"]
) -> Float[Tensor, "B C"]:
    """From a = A w and b = B h(x)."""
    tiles = a.split(max(1, LAYER_ENTRIES // max(1, x.numel())))  # type: ignore[no-untyped-call]
    found = [checkpoint(_full_layer_tile, tile, b, x, use_reentrant=False, preserve_rng_state=False) for tile in tiles]
    return torch.cat(found, dim=1)


def _full_layer_tile(a: Float[Tensor, "C D"], b: Float[Tensor, "B D"], x: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
    full = torch.relu(a + b[:, None])
    square = full.square().sum(-1).clamp_min(SMALLEST_SQUARE)
    return torch.bmm(full, x[..., None])[..., 0] * square.rsqrt()
