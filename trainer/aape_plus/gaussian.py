"""A Gaussian discriminant on image embeddings, and what it would have said of each image without it.

Classes share one covariance, that of the images around their class means, and a ridge on it. Up to a factor the score
of class c is x A mu_c - mu_c A mu_c / 2 with A = (S + r I)^-1, S the within-class scatter. Leaving an image out moves
the mean of its class and takes one direction out of S: by the formula of Sherman and Morrison no second fit is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.aape_plus.ridge import SMALLEST_LEFT, decompose, mean_square
from trainer.aape_plus.scores import Scores, linear
from trainer.data import Images


@dataclass(frozen=True)
class Gaussian:
    """Class means, and the within-class scatter by its directions, in float64.

    Attributes:
        images: the shots.
        labels: their classes.
        means: mu_c.
        counts: shots of each class.
        values: scatter along each direction.
        right: one column a direction.
        scale: mean squared length of the centred images; a ridge is a multiple of it.
    """

    images: Float[Tensor, "B D"]
    labels: Int[Tensor, " B"]
    means: Float[Tensor, "C D"]
    counts: Float[Tensor, " C"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "D rank"]
    scale: float

    def whiten(self, rows: Float[Tensor, "N D"], strength: float) -> Float[Tensor, "N D"]:
        """r A of each row: the part outside the scatter stays as it is."""
        shrunk = self.values / (self.values + strength * self.scale)
        return rows - ((rows @ self.right) * shrunk) @ self.right.T


def fit_gaussian(images: Images, classes: int) -> Gaussian:
    """Means and scatter of a draw in which every class has an image."""
    x = images.embeddings.double()
    counts = torch.bincount(images.labels, minlength=classes).double()
    means = x.new_zeros(classes, x.shape[1]).index_add_(0, images.labels, x) / counts[:, None]
    values, _, right = decompose(x - means[images.labels])
    return Gaussian(x, images.labels, means, counts, values, right, mean_square(x - x.mean(0)))


def discriminant(gaussian: Gaussian, strength: float) -> Scores:
    """The scores of any image, r times those of the formula."""
    weight = gaussian.whiten(gaussian.means, strength)
    return linear(weight, -(weight * gaussian.means).sum(1) / 2)


def discriminant_without(gaussian: Gaussian, strength: float) -> Float[Tensor, "B C"]:
    """The scores of each image by the fit without it, but for what is the same for all its classes.

    With d = x - mu_c, n images in the class and u_k the way from the mean of class k: u_k A' u_k = u_k A u_k +
    (u_k A d)^2 / ((n - 1) / n - d A d), and u_c = d n / (n - 1). The only image of a class has no such score.
    """
    x, means, ridge = gaussian.images, gaussian.means, strength * gaussian.scale
    away = x - means[gaussian.labels]
    of_images, of_means, of_away = (gaussian.whiten(rows, strength) for rows in (x, means, away))
    count = gaussian.counts[gaussian.labels]
    left = ((count - 1) / count).clamp_min(SMALLEST_LEFT)
    own = (of_away * away).sum(1)
    rest = (left * ridge - own).clamp_min(SMALLEST_LEFT * ridge)
    squares = (of_images * x).sum(1)[:, None] - 2 * of_images @ means.T + (of_means * means).sum(1)
    squares += ((of_away * x).sum(1)[:, None] - of_away @ means.T).square_() / rest[:, None]
    squares.scatter_(1, gaussian.labels[:, None], ((own + own.square() / rest) / left.square())[:, None])
    return squares / -2
