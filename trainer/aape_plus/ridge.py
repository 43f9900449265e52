"""Ridge regression on image embeddings, and what it would have said of each image without it.

One eigendecomposition, of the smaller of Gram and scatter matrix, serves any number of ridges and of targets. The
intercept is not shrunk. Leave-one-out (Golub, Heath, Wahba, "Generalized cross-validation", 1979) costs no second fit:
f_-i(x_i) = (f(x_i) - h_ii y_i) / (1 - h_ii), with H the matrix that maps targets to fitted scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_SHARE = 1e-10
"""Eigenvalues below this share of the largest are rounding."""
SMALLEST_LEFT = 1e-9
"""Least 1 - h_ii: such an image decides its own score alone."""
SMALLEST_SCALE = 1e-9
"""Least mean squared length: unit images that are nearer to each other are the same but for rounding."""


@dataclass(frozen=True)
class Ridge:
    """The thin singular value decomposition of centred images, rank at most min(B, D), in float64.

    Attributes:
        centre: mean embedding.
        values: squared singular values.
        left: one column a direction, one row an image.
        right: one column a direction, one row an entry of the embedding.
        scale: mean squared length of the centred images; a ridge is a multiple of it.
    """

    centre: Float[Tensor, " D"]
    values: Float[Tensor, " rank"]
    left: Float[Tensor, "B rank"]
    right: Float[Tensor, "D rank"]
    scale: float


def decompose(rows: Float[Tensor, "B D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Squared singular values, left and right vectors (columns) of those that are not rounding."""
    wide = len(rows) <= rows.shape[1]
    values, basis = torch.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    kept = values > (SMALLEST_SHARE * values[-1]).clamp_min(torch.finfo(values.dtype).tiny)
    values, basis = values[kept], basis[:, kept]
    other = (rows.T if wide else rows) @ basis / values.sqrt()
    return (values, basis, other) if wide else (values, other, basis)


def mean_square(centred: Float[Tensor, "B D"]) -> float:
    """The mean squared length of a row."""
    return max(float(centred.square().sum()) / len(centred), SMALLEST_SCALE)


def fit_ridge(images: Float[Tensor, "B D"]) -> Ridge:
    """Decompose a draw."""
    x = images.double()
    centre = x.mean(0)
    centred = x - centre
    return Ridge(centre, *decompose(centred), mean_square(centred))


def leave_one_out(ridge: Ridge, targets: Float[Tensor, "B C"], strength: float) -> Float[Tensor, "B C"]:
    """The scores of each image by the fit without it."""
    shrunk = ridge.values / (ridge.values + strength * ridge.scale)
    mean = targets.mean(0)
    fitted = ridge.left @ (shrunk[:, None] * (ridge.left.T @ (targets - mean))) + mean
    own = (ridge.left.square() @ shrunk + 1 / len(targets))[:, None]
    return (fitted - own * targets) / (1 - own).clamp_min(SMALLEST_LEFT)


def regression(
    ridge: Ridge, targets: Float[Tensor, "B C"], strength: float
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """W and b of the scores x W^T + b."""
    shrunk = ridge.values.sqrt() / (ridge.values + strength * ridge.scale)
    mean = targets.mean(0)
    weight = ((ridge.left.T @ (targets - mean)).T * shrunk) @ ridge.right.T
    return weight, mean - weight @ ridge.centre
