"""The image-conditioned classifier w_c(x) = g([w_c ; h(x)]) and its exact evaluation in the bottleneck's width.

With r_bc = relu(A w_c + B h(x_b)) the class weight is w_c(x_b) = w_c + V r_bc, and the cosine needs only
    numerator     x_b . w_c + (V^T x_b) . r_bc
    squared norm  ||w_c||^2 + 2 (V^T w_c) . r_bc + r_bc^T (V^T V) r_bc
so nothing of size B x C x D is ever made. `CosineInBottleneck` has its gradient written out: half the time of autograd.

Deviation from the paper: the residual w_c (with V = 0 at the start, so training begins exactly at zero-shot). The
literal form, w_c(x) = V r_bc, was measured to lose classes that it was not trained on; it stays as `head: literal`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.aape.generator import Generator, uniform

SMALLEST_SQUARE = 1e-12
"""Squared norms below count as this, so that a class weight of zero gives a cosine of zero."""
TILE_ENTRIES = 4_000_000
"""Entries of the largest temporary tensor of an evaluation (float32: 16 MB)."""


class CosineInBottleneck(torch.autograd.Function):
    """cos(x_b, w_c(x_b)) from quantities of the bottleneck's width K alone."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Float[Tensor, "C K"],
        b: Float[Tensor, "B K"],
        vx: Float[Tensor, "B K"],
        vw: Float[Tensor, "C K"],
        gram: Float[Tensor, "K K"],
        xw: Float[Tensor, "B C"],
        ww: Float[Tensor, "C"],
    ) -> Float[Tensor, "B C"]:
        """a = A w, b = B h(x), vx = V^T x, vw = V^T w, gram = V^T V, xw = x . w, ww = ||w||^2.

        The literal head has vw = xw = ww = 0.
        """
        r = torch.relu(a + b[:, None])
        half = (r.flatten(0, 1) @ gram).view_as(r) + vw  # half the gradient of the squared norm by r
        square = (ww + (r * (half + vw)).sum(-1)).clamp_min(SMALLEST_SQUARE)
        inverse = square.rsqrt()
        cosine = (xw + torch.bmm(r, vx[..., None])[..., 0]) * inverse
        ctx.save_for_backward(r, half, vx, inverse, cosine)
        return cosine

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the first five inputs; x and w are constants."""
        r, half, vx, inverse, cosine = ctx.saved_tensors
        of_numerator = gradients[0] * inverse
        # where the norm was held at its smallest value it is a constant
        of_square = (gradients[0] * cosine * inverse.square() * -0.5) * (inverse < SMALLEST_SQUARE**-0.5)
        weighted = of_square[..., None] * r
        of_r = torch.addcmul(of_numerator[..., None] * vx[:, None], of_square[..., None], half, value=2).mul_(r > 0)
        return (
            of_r.sum(0),
            of_r.sum(1),
            torch.bmm(of_numerator[:, None], r)[:, 0],
            2 * weighted.sum(0),
            weighted.flatten(0, 1).T @ r.flatten(0, 1),
            None,
            None,
        )


class Classifier(nn.Module):
    """h and g together: everything that is learned for inference and the whole of what runs there.

    Args:
        width: D.
        hidden: K, entries of both bottlenecks.
        head: `residual`, `literal`, or `none` (table 5: h(x) itself is matched against w_c).
        image: False sets h(x) = 0 and leaves h out.
        generator: source of the start values.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        head: Literal["residual", "literal", "none"],
        image: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.head = head
        self.h = Generator(width=width, hidden=hidden, generator=generator) if image else None
        if head != "none":
            self.a = uniform(hidden, width, generator=generator)
            self.b = uniform(hidden, width, generator=generator) if image else None
            start = torch.zeros(width, hidden)
            self.v = nn.Parameter(start) if head == "residual" else uniform(width, hidden, generator=generator)

    def cosines(
        self, images: Float[Tensor, "B D"], generated: Float[Tensor, "B D"] | None, weights: Float[Tensor, "C D"]
    ) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) of unit images and unit class weights, given h(x) (None: h(x) = 0)."""
        if self.head == "none":
            query = images.new_zeros(images.shape) if generated is None else normalize(generated, dim=-1)
            return query @ weights.T
        hidden = self.v.shape[1]
        b = images.new_zeros(images.shape[0], hidden) if generated is None or self.b is None else generated @ self.b.T
        residual = self.head == "residual"
        xw = images @ weights.T if residual else images.new_zeros(images.shape[0], weights.shape[0])
        vw = weights @ self.v if residual else weights.new_zeros(weights.shape[0], hidden)
        ww = weights.square().sum(-1) if residual else weights.new_zeros(weights.shape[0])
        cosine: Tensor = CosineInBottleneck.apply(  # type: ignore[no-untyped-call]
            weights @ self.a.T, b, images @ self.v, vw, self.v.T @ self.v, xw, ww
        )
        return cosine

    def generate(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"] | None:
        """h(x), or None where the control h(x) = 0 is learned."""
        return None if self.h is None else self.h(images)

    def forward(self, images: Float[Tensor, "B D"], weights: Float[Tensor, "C D"]) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) of any number of images, in tiles that keep the memory below about 100 MB."""
        hidden = 1 if self.head == "none" else self.v.shape[1]
        columns = max(1, min(weights.shape[0], TILE_ENTRIES // hidden))
        rows = max(1, TILE_ENTRIES // (hidden * columns))
        bands = []
        for top in range(0, images.shape[0], rows):
            band = images[top : top + rows]
            generated = self.generate(band)
            tiles = (weights[left : left + columns] for left in range(0, weights.shape[0], columns))
            bands.append(torch.cat([self.cosines(band, generated, tile) for tile in tiles], 1))
        return torch.cat(bands) if bands else images.new_zeros(0, weights.shape[0])
