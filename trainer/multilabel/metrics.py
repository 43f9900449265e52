"""How well several classes an image are told: average precision of each class, F1 of each and of all, and a threshold.

Average precision is scikit-learn's: the area under the steps of precision over recall. mAP is its mean over the classes
that have a test image; CF1 the mean of the classes' F1, OF1 the F1 of all decisions together, both at one threshold of
the probability, chosen on images that are no test images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

STEPS = 200
"""Thresholds that are tried, at most."""


def average_precisions(scores: Float[np.ndarray, "B C"], labels: Bool[np.ndarray, "B C"]) -> Float[np.ndarray, " C"]:
    """Of each class; NaN of one without a positive."""
    from sklearn.metrics import average_precision_score

    found = np.full(labels.shape[1], math.nan)
    for label in np.flatnonzero(labels.any(axis=0)):
        found[label] = average_precision_score(labels[:, label], scores[:, label])
    return found


def mean_of(values: Float[np.ndarray, " C"], classes: Sequence[int] | None = None) -> float:
    """The mean over these classes (None: all) that have a value; NaN of none."""
    chosen = values if classes is None else values[list(classes)]
    known = chosen[~np.isnan(chosen)]
    return float(known.mean()) if len(known) else math.nan


def f1_by_class(decided: Bool[np.ndarray, "B C"], labels: Bool[np.ndarray, "B C"]) -> Float[np.ndarray, " C"]:
    """2 TP / (decided + positives) of each class; NaN of one without a positive, 0 where nothing was found."""
    right = (decided & labels).sum(0)
    total = decided.sum(0) + labels.sum(0)
    return np.where(labels.any(axis=0), 2 * right / np.maximum(total, 1), math.nan)


def f1_of_all(decided: Bool[np.ndarray, "B C"], labels: Bool[np.ndarray, "B C"]) -> float:
    """OF1: 2 TP / (decided + positives) of all classes together; NaN without a positive."""
    total = int(decided.sum()) + int(labels.sum())
    return 2 * int((decided & labels).sum()) / total if labels.any() else math.nan


def best_threshold(probabilities: Float[np.ndarray, "B C"], labels: Bool[np.ndarray, "B C"]) -> float:
    """The threshold with the largest OF1, of at most STEPS between the probabilities; 0.5 without a positive.

    Of a run of thresholds that are equally good, the middle one.
    """
    if not labels.any():
        return 0.5
    values = np.unique(probabilities)
    if len(values) > STEPS:
        values = np.unique(np.quantile(values, np.linspace(0, 1, STEPS)))
    cuts = np.concatenate([values[:1] / 2, (values[1:] + values[:-1]) / 2])
    scores = [f1_of_all(probabilities > cut, labels) for cut in cuts]
    best = np.flatnonzero(np.isclose(scores, max(scores), rtol=0, atol=1e-12))
    return float(cuts[best[len(best) // 2]])
