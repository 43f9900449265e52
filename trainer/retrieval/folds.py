"""Cross-validation: every image is embedded by a fit that did not see it, for sets too small to be split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.errors import UserError
from trainer.pairs import CaptionTask, Pairs, shuffled
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

    def ranks(self, pairs: Pairs) -> Ranks:
        """Where what was looked for stands among all images and captions, by the fit that did not see the query.

        The whole gallery is embedded by that same fit: embeddings of several fits are not compared with each other.
        """
        found = ranks(pairs, self.parts[0].embed)
        for predictor, rows in zip(self.parts[1:], self.out[1:], strict=True):
            own = ranks(pairs, predictor.embed)
            captions, _ = pairs.captions_of(rows.cpu())
            for name in ("image_to_text", "first_text"):
                getattr(found, name)[rows] = getattr(own, name)[rows]
            for name in ("text_to_image", "first_image"):
                getattr(found, name)[captions] = getattr(own, name)[captions]
        return found


@dataclass(frozen=True)
class CrossFitted:
    """A method that is fitted on all images, and without each part of them."""

    of: CaptionMethod

    @property
    def name(self) -> str:
        """That of the method."""
        return self.of.name

    def fit(self, task: FoldedTask, *, seed: int) -> Folded:
        """One fit more than there are parts."""
        whole = self.of.fit(CaptionTask(task.train, None, task.elsewhere), seed=seed)
        found = [(out, self.of.fit(part, seed=seed)) for out, part in task.parts]
        return Folded(whole, [each for _, each in found], [out for out, _ in found], whole.history, dict(whole.info))
