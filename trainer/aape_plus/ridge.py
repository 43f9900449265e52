"""Ridge regression on image embeddings, linear or with a kernel, and what it would have said of each image without it.

One eigendecomposition, of the smaller of Gram and scatter matrix, serves any number of ridges and of targets. The
intercept is not shrunk. Leave-one-out (Golub, Heath, Wahba, "Generalized cross-validation", 1979) costs no second fit:
f_-i(x_i) = (f(x_i) - h_ii y_i) / (1 - h_ii), with H the matrix that maps targets to fitted scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.aape_plus.scores import Scores, linear, similarity

SMALLEST_SHARE = 1e-10
"""Eigenvalues below this share of the largest are rounding."""
SMALLEST_LEFT = 1e-9
"""Least 1 - h_ii: such an image decides its own score alone."""
SMALLEST_SCALE = 1e-9
"""Least mean squared length: unit images that are nearer to each other are the same but for rounding."""


@dataclass(frozen=True)
class Ridge:
    """The eigenvectors of the centred Gram matrix of the images, rank at most B, in float64.

    Attributes:
        images: those it was fitted to.
        sharpness: of the kernel, see `similarity`; 0 is the linear one.
        centre: mean embedding; with a kernel, the mean similarity to each image.
        values: eigenvalues.
        left: one column a direction, one row an image.
        scale: mean squared length of the centred images; a ridge is a multiple of it.
    """

    images: Float[Tensor, "B D"]
    sharpness: float
    centre: Float[Tensor, " _"]
    values: Float[Tensor, " rank"]
    left: Float[Tensor, "B rank"]
    scale: float


def decompose(rows: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Squared singular values, left and right vectors (columns) of those that are not rounding."""
    wide = len(rows) <= rows.shape[1]
    values, basis = _eigen(rows @ rows.T if wide else rows.T @ rows)
    other = (rows.T if wide else rows) @ basis / values.sqrt()
    return (values, basis, other) if wide else (values, other, basis)


def mean_square(centred: Float[Tensor, "B D"]) -> float:
    """The mean squared length of a row."""
    return max(float(centred.square().sum()) / len(centred), SMALLEST_SCALE)


def fit_ridge(images: Float[Tensor, "B D"], *, sharpness: float = 0.0) -> Ridge:
    """Decompose a draw."""
    x = images.double()
    if not sharpness:
        centre = x.mean(0)
        values, left, _ = decompose(x - centre)
        return Ridge(x, sharpness, centre, values, left, mean_square(x - centre))
    gram = similarity(x, x, sharpness)
    centre = gram.mean(0)
    gram = gram - centre - centre[:, None] + centre.mean()
    scale = max(float(gram.trace()) / len(x), SMALLEST_SCALE)
    return Ridge(x, sharpness, centre, *_eigen(gram), scale)


def leave_one_out(ridge: Ridge, targets: Float[Tensor, "B C"], strength: float) -> Float[Tensor, "B C"]:
    """The scores of each image by the fit without it."""
    shrunk = ridge.values / (ridge.values + strength * ridge.scale)
    mean = targets.mean(0)
    fitted = ridge.left @ (shrunk[:, None] * (ridge.left.T @ (targets - mean))) + mean
    own = (ridge.left.square() @ shrunk + 1 / len(targets))[:, None]
    return (fitted - own * targets) / (1 - own).clamp_min(SMALLEST_LEFT)


def regression(ridge: Ridge, targets: Float[Tensor, "B C"], strength: float) -> Scores:
    """The scores of any image: mean target + k(x, X) a, whose a of each class add up to 0."""
    mean = targets.mean(0)
    dual = ridge.left @ ((ridge.left.T @ (targets - mean)) / (ridge.values + strength * ridge.scale)[:, None])
    if not ridge.sharpness:
        weight = dual.T @ ridge.images
        return linear(weight, mean - weight @ ridge.centre)
    weight = ridge.images.new_zeros(targets.shape[1], ridge.images.shape[1])
    return Scores(weight, mean - ridge.centre @ dual, ridge.images, dual, ridge.sharpness)


def _eigen(square: Float[Tensor, "N N"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors that are not rounding."""
    values, basis = torch.linalg.eigh(square)
    kept = values > (SMALLEST_SHARE * values[-1]).clamp_min(torch.finfo(values.dtype).tiny)
    return values[kept], basis[:, kept]
