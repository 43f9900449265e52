"""Which labels are doubtful: what a classifier that did not see an image says of its label.

The classifier is linear discriminant analysis with the ridge-type precision of Kubokawa and Srivastava, P proportional
to (R^T R + s tr(R^T R) / n I)^-1 with R the images around their class means: closed form, seconds on a CPU, and a wrong
label moves a class mean little. Each image is scored by a fit without it (ten folds; copies of a picture share one),
and the probabilities are softened by one temperature. The less probable its own label, the more doubtful it is.
Confident learning (Northcutt, Jiang, Chuang, JAIR 2021) counts how many are wrong: with t_c the mean probability of
class c over the images labelled c, an image is confidently of another class k where p_k >= t_k, k the likeliest of
those classes, and k is not its label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize_scalar

FOLDS = 10
STRENGTH = 3.0
"""s above. Chosen on planted wrong labels among 1, 3, 10 and 30; 1 to 10 differ by about one image in twenty."""
TEMPERATURES = (1e-4, 1e4)


@dataclass(frozen=True)
class HeldOut:
    """What is said of each image by fits without it.

    Attributes:
        probabilities: rows sum to 1; NaN where the image's class has no other image to learn from.
        confident: whether the image is confidently of another class.
        distance: one minus the cosine with the nearest mean of a class, taken over the images of the other folds.
    """

    probabilities: Float[np.ndarray, "images C"]
    confident: Bool[np.ndarray, " images"]
    distance: Float[np.ndarray, " images"]

    @property
    def judged(self) -> Bool[np.ndarray, " images"]:
        """Images that something is said about."""
        return np.asarray(~np.isnan(self.probabilities).any(axis=1))


def held_out(
    vectors: Float32[np.ndarray, "images D"],
    labels: Int[np.ndarray, " images"],
    classes: int,
    *,
    copies: Sequence[int] = (),
    seed: int = 1,
) -> HeldOut:
    """Score each image by a fit without it.

    Args:
        labels: 0 to C - 1.
        copies: for each image the first one that is the same picture; () for none.
    """
    folds = _folds(labels, np.asarray(copies) if len(copies) else np.arange(len(labels)), seed)
    scores, distance = np.full((len(labels), classes), np.nan), np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        mine = folds == fold
        means, counts = _class_means(vectors[~mine], labels[~mine], classes)
        scores[mine] = _discriminant(vectors[~mine], labels[~mine], vectors[mine], means, counts)
        if counts.any():
            there = means[counts > 0]
            there /= np.maximum(np.linalg.norm(there, axis=1, keepdims=True), 1e-12)
            distance[mine] = 1 - (vectors[mine] @ there.T).max(1)
    own = scores[np.arange(len(labels)), labels]
    sound = np.isfinite(own)
    scores[~sound] = np.nan
    if not sound.any():
        return HeldOut(scores, np.zeros(len(labels), bool), distance)
    probabilities = np.full_like(scores, np.nan)
    probabilities[sound] = _softened(scores[sound], labels[sound])
    return HeldOut(probabilities, _confident(probabilities, labels, sound), distance)


def _folds(
    labels: Int[np.ndarray, " images"], copies: Int[np.ndarray, " images"], seed: int
) -> Int[np.ndarray, " images"]:
    """Folds of equal shares of each class, drawn by seed; a copy is in the fold of the first."""
    rng, folds = np.random.default_rng(seed), np.zeros(len(labels), np.int64)
    many = min(FOLDS, len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        folds[rows] = (np.arange(len(rows)) + label) % many
    return np.asarray(folds[copies])


def _class_means(
    vectors: Float32[np.ndarray, "images D"], labels: Int[np.ndarray, " images"], classes: int
) -> tuple[Float[np.ndarray, "C D"], Int[np.ndarray, " C"]]:
    """The mean of each class, zero where it has no image, and how many it has."""
    counts, sums = np.bincount(labels, minlength=classes), np.zeros((classes, vectors.shape[1]))
    np.add.at(sums, labels, vectors.astype(np.float64))
    return sums / np.maximum(counts, 1)[:, None], counts


def _discriminant(
    train: Float32[np.ndarray, "images D"], labels: Int[np.ndarray, " images"], test: Float32[np.ndarray, "tested D"],
    means: Float[np.ndarray, "C D"], counts: Int[np.ndarray, " C"],
) -> Float[np.ndarray, "tested C"]:  # fmt: skip
    """Discriminant scores for equally likely classes; minus infinity for classes without an image."""
    if not len(train):
        return np.full((len(test), len(means)), -np.inf)
    x = train.astype(np.float64)
    spread = x - means[labels]
    ridge = STRENGTH * float((spread**2).sum()) / len(x)
    ridge = ridge if ridge > 1e-12 else 1.0  # every class is one picture: the nearest mean decides
    if len(x) >= x.shape[1]:
        factor = cho_factor(spread.T @ spread + ridge * np.eye(x.shape[1]))
        weights = cho_solve(factor, means.T).T
    else:  # the same by Woodbury's identity
        factor = cho_factor(spread @ spread.T + ridge * np.eye(len(x)))
        weights = (means - cho_solve(factor, spread @ means.T).T @ spread) / ridge
    weights *= len(x)
    scores = test.astype(np.float64) @ weights.T - (weights * means).sum(1) / 2
    scores[:, counts == 0] = -np.inf
    return np.asarray(scores / x.shape[1])


def _softened(
    scores: Float[np.ndarray, "images C"], labels: Int[np.ndarray, " images"]
) -> Float[np.ndarray, "images C"]:
    """Softmax at the temperature under which the given labels are likeliest."""
    top = scores - scores.max(1, keepdims=True)

    def probabilities(log_temperature: float) -> Float[np.ndarray, "images C"]:
        shares = np.exp(top / np.exp(log_temperature))
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def loss(log_temperature: float) -> float:
        own = probabilities(log_temperature)[np.arange(len(labels)), labels]
        return float(-np.log(own + 1e-12).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-3})
    return probabilities(float(found.x))


def _confident(
    probabilities: Float[np.ndarray, "images C"], labels: Int[np.ndarray, " images"], sound: Bool[np.ndarray, " images"]
) -> Bool[np.ndarray, " images"]:
    classes = probabilities.shape[1]
    counts = np.bincount(labels[sound], minlength=classes)
    own = probabilities[sound, labels[sound]]
    limits = np.where(counts > 0, np.bincount(labels[sound], own, minlength=classes) / np.maximum(counts, 1), np.inf)
    above = np.where(probabilities >= limits, probabilities, -1.0)  # NaN is above nothing
    return np.asarray((above.max(1) >= 0) & (above.argmax(1) != labels))
