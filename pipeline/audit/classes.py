"""Faults of whole classes: far fewer or more images than others, and pairs that the encoder cannot tell apart."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

UNEQUAL = 3.0
"""A class with this many times fewer or more training images than the median class."""
BY_IMAGES, BY_TEXT = 0.2, 0.4
"""Share of the images of two classes that fall on the other's side; 0.5 is chance."""
FEWEST = 4
"""Images on the wrong side that a pair needs."""


@dataclass(frozen=True)
class ClassFinding:
    """A fault of a class, or of a pair of classes.

    Attributes:
        kind: imbalance or confusable.
        score: 0 to 1.
        by_images, by_text: share of the images of the pair that fall on the other's side; None where not known.
        text_cosine: of the two class texts.
    """

    kind: str
    score: float
    class_name: str
    other_class_name: str | None
    detail: str
    by_images: float | None = None
    by_text: float | None = None
    text_cosine: float | None = None

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def imbalance(counts: Mapping[str, int]) -> list[ClassFinding]:
    """Classes with far fewer or far more training images than the median class."""
    if len(counts) < 2:
        return []
    middle = float(np.median(list(counts.values())))
    found = []
    for name, count in counts.items():
        ratio = max(middle, 1) / max(count, 0.5) if count < middle else count / max(middle, 1)
        if ratio >= UNEQUAL:
            word = "fewer" if count < middle else "more"
            found.append(
                ClassFinding(
                    "imbalance", round(1 - 1 / ratio, 4), name, None,
                    f"{count} training images, {ratio:.1f} times {word} than the median class ({middle:g})",
                )
            )  # fmt: skip
    return sorted(found, key=lambda each: (-each.score, each.class_name))


def confusable(
    names: Sequence[str],
    labels: Int[np.ndarray, " images"],
    by_images: Float[np.ndarray, "images C"],
    by_text: Float32[np.ndarray, "images C"] | None,
    texts: Float32[np.ndarray, "C D"] | None,
) -> list[ClassFinding]:
    """Pairs of classes of which many images fall on the other's side.

    Args:
        by_images: held-out probabilities; rows of NaN do not count.
        by_text: cosines of each image with the text of each class.
        texts: unit rows.
    """
    sound = ~np.isnan(by_images).any(axis=1)
    images = _wrong_side(labels[sound], by_images[sound], len(names))
    text = None if by_text is None else _wrong_side(labels, by_text, len(names))
    counts = np.bincount(labels, minlength=len(names))
    found = []
    for a, b in zip(*np.triu_indices(len(names), 1), strict=True):
        both = int(counts[a] + counts[b])
        seen, said = float(images[a, b]), None if text is None else float(text[a, b])
        unseen = seen >= BY_IMAGES and seen * both >= FEWEST
        unsaid = said is not None and said >= BY_TEXT and said * both >= FEWEST
        if not unseen and not unsaid:
            continue
        cosine = None if texts is None else float(texts[a] @ texts[b])
        sides = ["the images" * unseen, "the text" * unsaid]
        parts = [f"by their images {seen:.0%}"]
        if said is not None and cosine is not None:
            parts.append(f"by their texts (cosine {cosine:.2f}) {said:.0%}")
        detail = f"{' and '.join(filter(None, sides))} cannot tell them apart: {', '.join(parts)} are on the wrong side"
        score = min(1.0, 2 * seen) if unseen else min(1.0, said or 0.0) / 2
        found.append(
            ClassFinding(
                "confusable", round(score, 4), names[a], names[b], detail, round(seen, 4),
                None if said is None else round(said, 4), None if cosine is None else round(cosine, 4),
            )
        )  # fmt: skip
    return sorted(found, key=lambda each: (-each.score, each.class_name, each.other_class_name or ""))


def _wrong_side(
    labels: Int[np.ndarray, " images"], scores: Float[np.ndarray, "images C"], classes: int
) -> Float[np.ndarray, "C C"]:
    """For each pair of classes the share of their images that score higher for the other one."""
    wrong, counts = np.zeros((classes, classes)), np.bincount(labels, minlength=classes).astype(float)
    for label in np.unique(labels):
        mine = scores[labels == label]
        wrong[label] = (mine > mine[:, [label]]).sum(0)
    return np.asarray((wrong + wrong.T) / np.maximum(counts[:, None] + counts[None], 1))
