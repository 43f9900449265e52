"""The pool, read once from beginning to end: what is known already is left out, what stands for the rest is kept.

Memory does not grow with the pool beyond the names of its files: a uniform sample stands for the pool (reservoir
sampling, by seed), and beside it the most doubtful images are kept as candidates.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

SAMPLE, DOUBTFUL = 4096, 2048
"""Images that stand for the pool, and doubtful ones that are candidates beside them."""


@dataclass
class Seen:
    """An image that is kept.

    Attributes:
        doubt: w of `trainer.suggest.choose`.
        suggested, probability: the likeliest class; None without a classifier.
    """

    path: str
    image: Float[Tensor, " D"]
    doubt: float
    suggested: str | None = None
    probability: float | None = None


@dataclass
class Pool:
    """What is kept of the images that went by.

    Attributes:
        sample: drawn uniformly.
        total: images that went by.
        unreadable: those that could not be read, the first few with their reason.
    """

    seed: int = 1
    sample_size: int = SAMPLE
    doubtful_size: int = DOUBTFUL
    sample: list[Seen] = field(default_factory=list)
    total: int = 0
    bad: int = 0
    unreadable: list[str] = field(default_factory=list)
    _doubtful: list[tuple[float, int, Seen]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def add(self, some: Iterable[Seen]) -> None:
        """Images that go by."""
        for seen in some:
            self.total += 1
            if len(self.sample) < self.sample_size:
                self.sample.append(seen)
                continue
            place = int(self._rng.integers(self.total))
            if place < self.sample_size:
                seen, self.sample[place] = self.sample[place], seen  # the one that leaves may still be doubtful
            entry = (seen.doubt, -self.total, seen)
            if len(self._doubtful) < self.doubtful_size:
                heapq.heappush(self._doubtful, entry)
            else:
                heapq.heappushpop(self._doubtful, entry)

    def fail(self, path: str, why: str) -> None:
        """An image that cannot be read."""
        self.bad += 1
        if len(self.unreadable) < 5:
            self.unreadable.append(f"{path}: {why}")

    def candidates(self) -> list[Seen]:
        """The sample and the most doubtful images beside it, each once, by their paths."""
        found = {id(seen): seen for seen in [*self.sample, *(seen for _, _, seen in self._doubtful)]}
        return sorted(found.values(), key=lambda seen: seen.path)


def new_files(files: Iterable[Path], known: set[bytes]) -> Iterator[tuple[Path, bool]]:
    """Each file, and whether its bytes are new: not of the data set, nor of a file before it.

    Files that cannot be read are new: they are counted where they are decoded.

    Args:
        known: sha256 digests; those of the files are added.
    """
    for file in files:
        try:
            digest = hashlib.sha256(file.read_bytes()).digest()
        except OSError:
            yield file, True
            continue
        yield file, digest not in known
        known.add(digest)


def stacked(some: list[Seen]) -> Float[Tensor, "M D"]:
    """Their embeddings."""
    return torch.stack([seen.image for seen in some]).float()
