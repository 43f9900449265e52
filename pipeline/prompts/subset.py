"""Some of many sentences: those that find their class and differ from each other, by a determinantal point process.

The greedy maximum of det(L) over subsets of a size, with L_ij = q_i q_j cos(s_i, s_j) and quality q = rank^(-1/2), the
rank of the class with its name taken out (Kulesza and Taskar 2012; the fast greedy form of Chen, Zhang, Zhou 2018).
Without the quality, and by k-centres alike, what differs most is what is wrong.
"""

from collections import defaultdict
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pipeline.prompts.clean import SURPLUS
from pipeline.prompts.score import Finder

LEAST = 1e-6
"""Gain below which the rest repeats what is chosen; the order of quality decides then."""


def diverse(vectors: Float[np.ndarray, "N D"], quality: Float[np.ndarray, " N"], keep: int) -> list[int]:
    """The positions of `keep` unit vectors, in the order in which they are chosen; the earlier of equal ones first."""
    scaled = (vectors * quality[:, None]).astype(np.float64)
    gain = (scaled**2).sum(axis=1)
    left = np.ones(len(vectors), bool)
    basis: list[Float[np.ndarray, " N"]] = []
    chosen: list[int] = []
    while len(chosen) < min(keep, len(vectors)):
        open_gain = np.where(left, gain, -np.inf)
        best = int(open_gain.argmax())
        if open_gain[best] < LEAST:
            best = int(np.where(left, quality, -np.inf).argmax())
        else:
            column = scaled @ scaled[best] - sum((each[best] * each for each in basis), np.zeros(len(vectors)))
            basis.append(column / np.sqrt(gain[best]))
            gain = gain - basis[-1] ** 2
        left[best] = False
        chosen.append(best)
    return chosen


def trim(rows: Sequence[MutableMapping[str, Any]], keep: int, finder: Finder) -> None:
    """Leave every class `keep` of its kept sentences; the others get, in place, the drop reason `surplus`."""
    by_class: defaultdict[int, list[MutableMapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["drop_reason"] is None:
            by_class[row["class_id"]].append(row)
    for theirs in by_class.values():
        if len(theirs) > keep:
            chosen = diverse(finder.vectors(theirs), finder.unnamed_ranks(theirs) ** -0.5, keep)
            for position, row in enumerate(theirs):
                row["drop_reason"] = None if position in chosen else SURPLUS[0]
