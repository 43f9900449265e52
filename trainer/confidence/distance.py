"""Whether an image is of none of the classes: how far it lies from everything that the classes were learned from.

The distance is one minus the largest cosine to a row of `known`. Where it was compared with others, and how well it
tells images from elsewhere apart: `docs/confidence.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import Images

KEPT = 0.95
"""Share of images of the classes that are not taken for none of them, unless another one is asked for."""
TILE = 4096
"""Images compared at once."""


@dataclass(frozen=True)
class Distance:
    """The known rows, and how far images of the classes lie from them that were not learned from.

    Attributes:
        known: unit rows, float16.
        distances: of labelled images that were not learned from, ascending.
    """

    known: Float[Tensor, "M D"]
    distances: Float[Tensor, " B"]

    def of(self, images: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """The distance of each unit image."""
        return distances(images, self.known)

    def limit(self, kept: float) -> float:
        """The distance that at least a share `kept` of new images of the classes does not exceed, on average.

        The ceil((n + 1) kept)-th smallest of n distances, or the largest where n is too small for that share.
        """
        place = math.ceil(round((len(self.distances) + 1) * kept, 9))
        return float(self.distances[min(place, len(self.distances)) - 1])


def distances(images: Float[Tensor, "B D"], known: Float[Tensor, "M D"]) -> Float[Tensor, " B"]:
    """One minus the largest cosine to a known row."""
    rows = known.float()
    tiles = images.float().split(TILE)  # type: ignore[no-untyped-call]
    return torch.cat([1 - (tile @ rows.T).max(1).values for tile in tiles]) if len(images) else rows.new_zeros(0)


def known_rows(train: Images) -> Float[Tensor, "M D"]:
    """What distances are taken to: the mean of each class's images, unit rows."""
    classes = int(train.labels.max()) + 1
    sums = torch.zeros(classes, train.embeddings.shape[1], device=train.labels.device)
    means = normalize(sums.index_add_(0, train.labels.long(), train.embeddings.float()), dim=-1)
    return means[torch.bincount(train.labels, minlength=classes) > 0].half()
