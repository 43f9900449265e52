"""Images through a predictor, some at a time: by their centre crop, their views, a second encoder, or all together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.data import ClassText, Images, Unlabelled
from trainer.methods.base import Predictor

TILE = 4096
"""Images scored at once, so that memory does not grow with their number."""


def predict(
    predictor: Predictor, images: Images, text: ClassText, *, columns: Sequence[int] | None = None, tile: int = TILE
) -> Int[Tensor, " B"]:
    """The most likely class of each image.

    Args:
        columns: labels to choose among, all where None; the result counts positions in this list.
    """
    found = [
        (logits if columns is None else logits[:, list(columns)]).argmax(dim=-1)
        for _, logits in scores(predictor, images, text, tile=tile)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=images.labels.device)


def scores(
    predictor: Predictor, images: Images, text: ClassText, *, tile: int = TILE
) -> Iterator[tuple[int, Float[Tensor, "B C"]]]:
    """The logits of some images at a time, with the position of the first of them.

    A predictor with `split_logits` has all of the images at once, without their labels.
    """
    together: Callable[..., Tensor] | None = getattr(predictor, "split_logits", None)
    if together is not None and len(images):
        logits = together(Unlabelled.of(images), text)
        yield from ((start, logits[start : start + tile]) for start in range(0, len(images), tile))
        return
    for start in range(0, len(images), tile):
        yield start, logits_of(predictor, images, text, start, tile)


def logits_of(
    predictor: Predictor, images: Images, text: ClassText, start: int, count: int
) -> Float[Tensor, "B C"]:  # fmt: skip
    """The scores of `count` images, each by itself: with their views where there are some and the predictor looks at
    them, or by the second encoder where it looks through that one.
    """
    rows = slice(start, start + count)
    by_student: Callable[..., Tensor] | None = getattr(predictor, "student_logits", None)
    if by_student is not None and images.student is not None:
        return by_student(images.student[rows].float(), text)
    some = images.embeddings[rows].float()
    by_views: Callable[..., Tensor] | None = getattr(predictor, "view_logits", None)
    if by_views is None or images.views is None:
        return predictor.logits(some, text)
    return by_views(torch.cat([some[:, None], images.views[rows].float()], dim=1), text)


@dataclass
class Remembered:
    """A predictor that scores a split as a whole, and does so once for each split and list of classes."""

    predictor: Any
    _found: list[tuple[Tensor, tuple[str, ...], Tensor]] = field(default_factory=list)

    def split_logits(self, images: Unlabelled, text: ClassText) -> Float[Tensor, "B C"]:
        """What the predictor said of these images."""
        for embeddings, names, logits in self._found:
            if embeddings is images.embeddings and names == text.names:
                return logits
        found: Tensor = self.predictor.split_logits(images, text)
        self._found.append((images.embeddings, text.names, found))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.predictor, name)


def remembering(predictor: Any) -> Any:
    """The predictor; one that scores a split as a whole remembers what it said."""
    return Remembered(predictor) if hasattr(predictor, "split_logits") else predictor
