"""Linear heads in closed form from sums alone, in float64: the Gaussian discriminant of GDA, and ridge regression.

A class without an image, which its text alone names, gets the mean score of the classes that have some: then its text
decides.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.compose.sums import ImageSums

Form = Literal["gaussian", "ridge"]
RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Strengths of the ridge, in units of the mean squared length of the centred images."""
DEFAULT_RIDGE = 0.3
SMALLEST = 1e-9
"""Least scatter: unit images that are nearer to each other are the same but for rounding."""

Linear = tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]
"""Weight and bias."""


def gaussian(sums: ImageSums) -> Linear:
    """W = Mu P, b_c = -mu_c P mu_c / 2, P = D ((B - 1) S + tr(S) I)^-1 with S the covariance around the class means.

    (B - 1) S = sum x x^T - sum_c n_c mu_c mu_c^T; that of `trainer/methods/gda.py`, whose images are at hand.
    """
    seen = sums.counts > 0
    means = sums.sums[seen] / sums.counts[seen, None]
    within = sums.scatter - (means * sums.counts[seen, None]).T @ means
    width, count = within.shape[0], max(sums.images - 1, 1)
    trace = within.diagonal().sum() / count
    ridge = trace if float(trace) > SMALLEST else torch.ones_like(trace)
    factor: Tensor = torch.linalg.cholesky(within + ridge * torch.eye(width, dtype=within.dtype))
    weight = torch.cholesky_solve(means.T, factor).T * width
    return _spread(weight, -(weight * means).sum(1) / 2, seen)


def ridge(sums: ImageSums, strength: float) -> Linear:
    """Ridge regression to labels as rows of the identity, the intercept not shrunk.

    W = (S + r s I)^-1 (X^T Y), images and labels centred, s the mean squared length of an image; X^T Y are the sums.
    """
    seen, count = sums.counts > 0, sums.images
    mean, share = sums.sums.sum(0) / count, sums.counts[seen] / count
    centred = sums.scatter - count * torch.outer(mean, mean)
    scale = (centred.diagonal().sum() / count).clamp_min(SMALLEST)
    target = sums.sums[seen] - sums.counts[seen, None] * mean
    eye = torch.eye(len(mean), dtype=mean.dtype)
    factor: Tensor = torch.linalg.cholesky(centred + strength * scale * eye)
    weight = torch.cholesky_solve(target.T, factor).T
    return _spread(weight, share - weight @ mean, seen)


def _spread(weight: Float[Tensor, "seen D"], bias: Float[Tensor, " seen"], seen: Tensor) -> Linear:
    """Rows for all classes; one without images has the mean of the others."""
    rows = weight.mean(0).expand(len(seen), -1).clone()
    added = bias.mean().expand(len(seen)).clone()
    rows[seen], added[seen] = weight, bias
    return rows, added
