"""Sentences of a class that say nearly the same, found by the cosine of their embeddings."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from stages.command import progress

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.encoders.base import Encoder

CHUNK = 1024
"""Sentences encoded between two steps of the progress bar."""


class NearDuplicates:
    """Drops sentences that lie closer than a threshold to one that their class already has.

    It remembers what every class kept, so that a further round of answers is compared with all earlier ones.

    Args:
        encoder: its `encode_sentences` embeds them. The text side of `lite` would not do: it is a mixture of ImageNet's
            classes, which any two sentences about a scorpion share.
        cosine: two sentences with a larger cosine are near duplicates.

    Attributes:
        settings: what decides, for the provenance.
    """

    def __init__(self, encoder: "Encoder", cosine: float) -> None:
        self.settings = {"cosine": cosine, "encoder": encoder.name, "fingerprint": encoder.fingerprint}
        self._embed: "Callable[[list[str]], Tensor]" = encoder.encode_sentences
        self._cosine = cosine
        self._kept: dict[int, Float[np.ndarray, "kept D"]] = {}

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in sentences that their classes keep in any case."""
        kept = [row for row in rows if row["drop_reason"] is None]
        vectors = self._vectors([row["text"] for row in kept])
        for class_id, positions in _by_class(kept).items():
            self._kept[class_id] = vectors[positions]

    def mark(self, rows: Iterable[MutableMapping[str, Any]]) -> None:
        """Give, in place, the later of two near sentences of a class the drop reason `near_duplicate`.

        Args:
            rows: new rows of a prompt store (`text`, `drop_reason`, `class_id`), the earlier asked first.
        """
        rows = [row for row in rows if row["drop_reason"] is None]
        vectors = self._vectors([row["text"] for row in rows])
        for class_id, positions in _by_class(rows).items():
            kept = self._kept.get(class_id, vectors[:0])
            near = near_duplicates(vectors[positions], kept, self._cosine)
            for position, is_near in zip(positions, near, strict=True):
                rows[position]["drop_reason"] = "near_duplicate" if is_near else None
            self._kept[class_id] = np.concatenate([kept, vectors[positions][~near]])

    def _vectors(self, texts: list[str]) -> Float[np.ndarray, "N D"]:
        starts = progress(range(0, len(texts), CHUNK), what="near duplicates", unit="part")
        parts = [self._embed(texts[start : start + CHUNK]).numpy() for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _by_class(rows: Iterable[Mapping[str, Any]]) -> dict[int, list[int]]:
    """class_id -> the positions of its rows."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        found[row["class_id"]].append(position)
    return found


def near_duplicates(
    vectors: Float[np.ndarray, "N D"], kept: Float[np.ndarray, "kept D"], cosine: float
) -> Bool[np.ndarray, " N"]:
    """Which unit vectors lie closer than `cosine` to one that stays: a row of `kept`, or an earlier one of their own.

    Greedy in order: a vector that is itself near to another drops nothing.
    """
    stays = np.concatenate([kept, vectors])
    count = len(kept)
    near = np.zeros(len(vectors), bool)
    for position, vector in enumerate(vectors):
        near[position] = bool((stays[:count] @ vector > cosine).any())
        if not near[position]:
            stays[count] = vector
            count += 1
    return near
