"""Ridge regression of one-hot labels on image embeddings, and what it would have said of each image without it.

One eigendecomposition, of the smaller of Gram and scatter matrix, serves any number of ridges. The intercept is not
shrunk. Leave-one-out (Golub, Heath, Wahba, "Generalized cross-validation", 1979) costs no second fit:
f_-i(x_i) = (f(x_i) - h_ii y_i) / (1 - h_ii), with H the matrix that maps labels to fitted scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import Images

SMALLEST_SHARE = 1e-10
"""Eigenvalues below this share of the largest are rounding."""
SMALLEST_LEFT = 1e-9
"""Least 1 - h_ii: such an image decides its own score alone."""


@dataclass(frozen=True)
class Ridge:
    """The thin singular value decomposition of centred images, r at most min(B, D), in float64.

    Attributes:
        centre: mean embedding.
        share: mean of the one-hot labels.
        targets: one-hot labels.
        left: one column a direction, one row an image.
        values: squared singular values.
        right: one column a direction, one row an entry of the embedding.
        projected: the centred labels along each direction.
        scale: mean squared length of the centred images; a ridge is a multiple of it.
    """

    centre: Float[Tensor, " D"]
    share: Float[Tensor, " C"]
    targets: Float[Tensor, "B C"]
    left: Float[Tensor, "B rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "D rank"]
    projected: Float[Tensor, "rank C"]
    scale: float


def fit_ridge(images: Images, classes: int) -> Ridge:
    """Decompose a draw."""
    x = images.embeddings.double()
    targets = torch.eye(classes, dtype=x.dtype, device=x.device)[images.labels]
    centre = x.mean(0)
    centred = x - centre
    wide = len(x) <= x.shape[1]
    values, basis = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = values > SMALLEST_SHARE * values[-1]
    values, basis = values[kept], basis[:, kept]
    other = (centred.T if wide else centred) @ basis / values.sqrt()
    left, right = (basis, other) if wide else (other, basis)
    share = targets.mean(0)
    projected = left.T @ (targets - share)
    return Ridge(centre, share, targets, left, values, right, projected, float(centred.square().sum()) / len(x))


def leave_one_out(ridge: Ridge, strength: float) -> Float[Tensor, "B C"]:
    """The scores of each image by the fit without it."""
    shrunk = ridge.values / (ridge.values + strength * ridge.scale)
    fitted = ridge.left @ (shrunk[:, None] * ridge.projected)
    fitted += ridge.share
    own = (ridge.left.square() @ shrunk + 1 / len(ridge.targets))[:, None]
    return ((fitted - own * ridge.targets) / (1 - own).clamp_min(SMALLEST_LEFT)).float()


def class_scores(ridge: Ridge, strength: float) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """W and b of the scores x W^T + b; those of an image sum to 1."""
    shrunk = ridge.values.sqrt() / (ridge.values + strength * ridge.scale)
    weight = (ridge.projected.T * shrunk) @ ridge.right.T
    return weight.float(), (ridge.share - weight @ ridge.centre).float()
