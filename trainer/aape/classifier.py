"""The image-conditioned classifier w_c(x) = g([w_c ; h(x)]): h, the forms of g, and cosines for any number of images.

Deviation from the paper: the residual w_c (with V = 0 at the start, so training begins exactly at zero-shot). The
literal forms were measured to lose classes that they were not trained on; they stay as `head: literal` (a bottleneck,
the published parameter count) and `head: full` (one full layer, the paper's words).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.aape.cosines import SMALLEST_SQUARE, bottleneck_cosines, bottleneck_parts, full_layer_cosines
from trainer.aape.generator import build_generator
from trainer.training import uniform

Head = Literal["residual", "literal", "full", "none"]
TILE = {"cpu": (128, 256_000), "cuda": (1024, 32_000_000)}
"""Images of a tile at most, and entries of the largest temporary tensor of an evaluation: 1 MB fits into the cache of a
core, a GPU wants more at once.
"""


class TextSide(NamedTuple):
    """What the cosines need of the class weights; see `trainer.aape.cosines`. None: this head does not need it."""

    weights: Float[Tensor, "C D"]
    a: Float[Tensor, "C K"] | None = None
    vw: Float[Tensor, "C K"] | None = None
    gram: Float[Tensor, "K K"] | None = None
    ww: Float[Tensor, " C"] | None = None

    def take(self, some: slice) -> TextSide:
        """A range of the classes."""
        a, vw, ww = (None if each is None else each[some] for each in (self.a, self.vw, self.ww))
        return TextSide(self.weights[some], a, vw, self.gram, ww)


class Classifier(nn.Module):
    """h and g together: everything that is learned for inference and the whole of what runs there.

    Args:
        width: D.
        hidden: K, entries of both bottlenecks.
        head: `residual` w_c + V relu(A w_c + B h(x)), `literal` the same without w_c, `full` relu(A w_c + B h(x)) with
            A and B in full width, or `none` (table 5: h(x) itself is matched against w_c).
        image: False sets h(x) = 0 and leaves h out.
        steps: generators of the chain that is h.
        rng: source of the start values.
    """

    def __init__(
        self, *, width: int, hidden: int, head: Head, image: bool, rng: torch.Generator, steps: int = 1
    ) -> None:
        super().__init__()
        self.head = head
        self.h = build_generator(width=width, hidden=hidden, steps=steps, rng=rng) if image else None
        if head == "none":
            return
        rows = width if head == "full" else hidden
        self.a = uniform(rows, width, rng=rng)
        self.b = uniform(rows, width, rng=rng) if image else None
        if head == "residual":
            self.v = nn.Parameter(torch.zeros(width, hidden))
        elif head == "literal":
            self.v = uniform(width, hidden, rng=rng)
        else:  # one layer of 2 D inputs, of which A and B are the halves
            with torch.no_grad():
                for half in (self.a, self.b):
                    if half is not None:
                        half.mul_(math.sqrt(0.5))

    def text_side(self, weights: Float[Tensor, "C D"], base: Float[Tensor, "C D"] | None = None) -> TextSide:
        """What the cosines need of the class weights, whatever the images are.

        Args:
            base: what the residual is added to, where that is not w_c itself (`trainer/aape/classwise.py`).
        """
        if self.head == "none":
            return TextSide(weights)
        a = weights @ self.a.T
        if self.b is None:  # h(x) = 0: one class weight for all images
            full = torch.relu(a) if self.head == "full" else torch.relu(a) @ self.v.T
            full = full + (weights if base is None else base) if self.head == "residual" else full
            return TextSide(normalize(full, dim=-1, eps=math.sqrt(SMALLEST_SQUARE)))
        if self.head == "residual":
            base = weights if base is None else base
            return TextSide(base, a, base @ self.v, self.v.T @ self.v, base.square().sum(-1))
        nothing = weights.new_zeros(len(weights), 1)
        return TextSide(weights, a, nothing, None if self.head == "full" else self.v.T @ self.v, nothing[:, 0])

    def cosines(
        self, images: Float[Tensor, "B D"], generated: Float[Tensor, "B D"] | None, text: TextSide
    ) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) of unit images and unit class weights, given h(x) (None: h(x) = 0)."""
        if self.head == "none":
            query = images.new_zeros(images.shape) if generated is None else normalize(generated, dim=-1)
            return query @ text.weights.T
        if generated is None or self.b is None:
            return images @ text.weights.T
        assert text.a is not None
        b = generated @ self.b.T
        if self.head == "full":
            return full_layer_cosines(text.a, b, images)
        assert text.vw is not None
        assert text.gram is not None
        assert text.ww is not None
        xw = images @ text.weights.T if self.head == "residual" else 0.0
        return bottleneck_cosines(text.a, b, images @ self.v, text.vw, text.gram, xw, text.ww)

    def generate(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"] | None:
        """h(x), or None where the control h(x) = 0 is learned."""
        return None if self.h is None else self.h(images)

    def forward(
        self, images: Float[Tensor, "B D"], weights: Float[Tensor, "C D"], base: Float[Tensor, "C D"] | None = None
    ) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) of any number of images, float16 or float32, in tiles.

        Args:
            base: see `text_side`.
        """
        text = self.text_side(weights, base)
        out = weights.new_empty(len(images), len(weights))
        for rows, some, band, generated in self._tiles(images, weights):
            out[rows, some] = self.cosines(band, generated, text.take(some))
        return out

    def parts(
        self, images: Float[Tensor, "B D"], weights: Float[Tensor, "C D"], base: Float[Tensor, "C D"]
    ) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """x . w_c(x) and ||w_c(x)||^2 of the head `residual`: the first is linear in the base, the second quadratic."""
        if self.b is None:
            full = base + torch.relu(weights @ self.a.T) @ self.v.T
            return images @ full.T, full.square().sum(-1).expand(len(images), -1)
        text = self.text_side(weights, base)
        found = weights.new_empty(2, len(images), len(weights))
        for rows, some, band, generated in self._tiles(images, weights):
            assert generated is not None
            _, a, vw, gram, ww = text.take(some)
            assert a is not None and vw is not None and gram is not None and ww is not None  # noqa: PT018
            both = bottleneck_parts(a, generated @ self.b.T, band @ self.v, vw, gram, band @ base[some].T, ww)
            found[:, rows, some] = torch.stack(both)
        return found[0], found[1]

    def _tiles(
        self, images: Float[Tensor, "B D"], weights: Float[Tensor, "C D"]
    ) -> Iterator[tuple[slice, slice, Tensor, Tensor | None]]:
        """Ranges of images and of classes that fit the cache together, with the images and h(x)."""
        hidden = self.v.shape[1] if hasattr(self, "v") else 1
        most, entries = TILE.get(images.device.type, TILE["cpu"])
        height = max(1, min(most, entries // hidden))
        width = max(1, entries // (height * hidden))
        for top in range(0, len(images), height):
            band = images[top : top + height].to(weights.dtype)
            generated = self.generate(band)
            for left in range(0, len(weights), width):
                yield slice(top, top + height), slice(left, left + width), band, generated
