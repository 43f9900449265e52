"""Sets of classes that hold the right one as often as asked: split conformal prediction.

The score of an image is how little probability its right class has, 1 - p (LAC: Sadinle, Lei and Wasserman, "Least
ambiguous set-valued classifiers", JASA 2019). With n scores of images like those to come, the set of all classes whose
own 1 - p is no larger than the ceil((n + 1)(1 - rate))-th smallest score misses the right class in at most `rate` of
the images, on average over the draw of the n, whatever the classifier (Vovk et al. 2005).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def right_class_scores(shares: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 - p of the right class of each image."""
    return 1 - shares.gather(1, labels[:, None].long())[:, 0]


def fewest_images(rate: float) -> int:
    """How many scores an error rate needs before any class can be left out."""
    return math.ceil(round(1 / rate - 1, 9))


def threshold(scores: Float[Tensor, " M"], rate: float) -> float | None:
    """The largest score of a class in the set; None where the scores are too few for this rate: every class is in.

    Args:
        scores: of images that the classifier did not learn from.
        rate: share of images whose set may miss the right class, above 0 and below 1.

    Raises:
        ValueError: a rate out of range.
    """
    if not 0 < rate < 1:
        raise ValueError(f"an error rate lies between 0 and 1, found {rate}")
    n = len(scores)
    place = math.ceil(round((n + 1) * (1 - rate), 9))
    return float(scores.sort().values[place - 1]) if place <= n else None


def prediction_sets(shares: Float[Tensor, "B C"], largest: float | None) -> Bool[Tensor, "B C"]:
    """Which classes are in the set of each image; the likeliest class always is.

    Args:
        largest: of `threshold`.
    """
    if largest is None:
        return torch.ones_like(shares, dtype=torch.bool)
    found = 1 - shares <= largest
    return found.scatter(1, shares.argmax(1, keepdim=True), True)
