"""The nearest images of each image by cosine: exact, in tiles."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from stages.command import progress_bar

TILE = 1024
"""Images compared with all others at once."""


@dataclass(frozen=True)
class Neighbours:
    """For each image the nearest others, nearest first.

    Attributes:
        index: places of the neighbours.
        cosine: with them.
    """

    index: Int[np.ndarray, "images near"]
    cosine: Float32[np.ndarray, "images near"]


def nearest(
    vectors: Float32[np.ndarray, "images D"], k: int, *, also: Float32[np.ndarray, "images D"] | None = None
) -> Neighbours:
    """The k nearest other images of each, or as many as there are.

    Args:
        also: other vectors of the same images; the larger of the two cosines counts.
    """
    count = len(vectors)
    k = min(k, count - 1)
    index, cosine = np.zeros((count, k), np.int64), np.zeros((count, k), np.float32)
    with progress_bar("comparing images", total=count, unit="image") as bar:
        for start in range(0, count if k > 0 else 0, TILE):
            rows = np.arange(start, min(start + TILE, count))
            found = vectors[rows] @ vectors.T
            if also is not None:
                np.maximum(found, vectors[rows] @ also.T, out=found)
            found[np.arange(len(rows)), rows] = -np.inf
            best = np.argpartition(found, -k, axis=1)[:, -k:]
            values = np.take_along_axis(found, best, axis=1)
            order = np.lexsort((best, -values), axis=1)
            index[rows] = np.take_along_axis(best, order, axis=1)
            cosine[rows] = np.take_along_axis(values, order, axis=1)
            bar.update(len(rows))
    return Neighbours(index, cosine)


def robust_z(values: Float32[np.ndarray, " images"]) -> Float32[np.ndarray, " images"]:
    """Distances from the median in standard deviations, both robust: 1.4826 times the median absolute deviation."""
    if not len(values):
        return values
    off = values - np.median(values)
    spread = 1.4826 * float(np.median(np.abs(off)))
    return np.asarray(off / spread if spread > 0 else np.zeros_like(off))
