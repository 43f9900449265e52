"""Cross-validation: every image is judged by a fit that did not see it, for sets too small to be split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.errors import UserError
from trainer.data.pairs import CaptionTask, Pairs, shuffled
from trainer.ranks import Ranks, ranks
from trainer.retrieval.methods import CaptionMethod
from trainer.training import Info


@dataclass(frozen=True)
class FoldedTask(CaptionTask):
    """All images of a data set, to be fitted on in parts.

    Attributes:
        folds: parts.
        seed: of the draw.
    """

    folds: int = 2
    seed: int = 1

    @cached_property
    def digest(self) -> bytes:
        """A hash of what decides a fit."""
        return super().digest + f"{self.folds} {self.seed}".encode()

    @property
    def parts(self) -> Iterator[tuple[Int[Tensor, " M"], CaptionTask]]:
        """Of each part: the images that are left out, and the task of the others."""
        order = shuffled(len(self.train), seed=self.seed)
        if self.folds > len(order) // 2:
            raise UserError(f"{self.folds} folds of {len(order)} images: at least 2 images a fold are needed")
        for part in range(self.folds):
            out = order[part :: self.folds].sort().values
            rest = torch.ones(len(order), dtype=torch.bool)
            rest[out] = False
            yield out, CaptionTask(self.train.take(rest.nonzero()[:, 0]), None, self.elsewhere)


@dataclass
class Folded:
    """A fit on all images, and one for each part without it.

    Attributes:
        whole: fitted on all images; it serves, and is never judged.
        parts: fitted without one part each.
        out: the images of each part.
    """

    whole: Any
    parts: list[Any]
    out: list[Int[Tensor, " M"]]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The queries of new images."""
        queries: Tensor = self.whole.embed(x)
        return queries

    @property
    def merges(self) -> bool:
        """Whether each image's captions are matched as one, their mean."""
        return bool(getattr(self.whole, "merges", False))

    def ranks(self, pairs: Pairs) -> Ranks:
        """Where what was looked for stands among the images and captions of its own part, by the fit without that part.

        As the field's "COCO 1K", five galleries of a fifth each: trained images in the gallery would stand in the way
        of the others, and queries of several fits are not comparable.
        """
        sizes = len(pairs), len(pairs), len(pairs.owner), len(pairs.owner)
        i2t, first_text, t2i, first_image = (torch.zeros(n, dtype=torch.long) for n in sizes)
        for predictor, out in zip(self.parts, self.out, strict=True):
            rows = out.cpu()
            own, captions = ranks(pairs.take(rows), predictor.embed), pairs.captions_of(rows)[0]
            i2t[rows], first_text[rows] = own.image_to_text.cpu(), captions[own.first_text.cpu()]
            t2i[captions], first_image[captions] = own.text_to_image.cpu(), rows[own.first_image.cpu()]
        return Ranks(i2t, t2i, first_text, first_image)


@dataclass(frozen=True)
class CrossFitted:
    """A method that is fitted on all images, and without each part of them."""

    of: CaptionMethod

    @property
    def name(self) -> str:
        """That of the method."""
        return self.of.name

    def fit(self, task: FoldedTask, *, seed: int) -> Folded:
        """One fit more than there are parts, or a single one where nothing is learned here."""
        whole = self.of.fit(CaptionTask(task.train, None, task.elsewhere), seed=seed)
        found = [(out, self.of.fit(part, seed=seed) if self.of.learns else whole) for out, part in task.parts]
        return Folded(whole, [each for _, each in found], [out for out, _ in found], whole.history, dict(whole.info))
