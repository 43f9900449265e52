"""GDA: Gaussian discriminant analysis beside the zero-shot classifier, in closed form (Wang et al., ICLR 2024).

logits = cos(x, text) / tau + alpha (x W^T + b), W = Mu P, b_c = log(1 / C) - mu_c P mu_c / 2, P the precision of the
images around their class means. New classes get their means and precision from the training images nearest to their
text, as in the release. Without text the Gaussian scores stand alone, and only the fitted classes are served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from trainer.data import ClassText, Images, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.blend import best_blend
from trainer.methods.common import all_views, class_sums, prepare
from trainer.text import class_weights
from trainer.training import Info

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
DEFAULT_ALPHA = 0.1
"""What the release starts from."""
NEIGHBOURS, TEXT_COPIES = 64, 16
"""A new class's mean is taken over this many nearest training images and this many copies of its text."""


def class_means(images: Images, classes: int) -> Float[Tensor, "C D"]:
    """mu_c, not normalised."""
    counts = torch.bincount(images.labels, minlength=classes)
    return class_sums(images, classes) / counts[:, None]


def precision(centred: Float[Tensor, "B D"]) -> Float[Tensor, "D D"]:
    """The empirical ridge-type estimator of Kubokawa and Srivastava: D ((B - 1) S + tr(S) I)^-1, S the covariance.

    One image a class shows no spread: then tr(S) = 1 is assumed, the most that unit vectors can have, and P = D I.
    Computed with the smaller of B and D: with fewer images than entries by Woodbury's identity.
    """
    count, width = centred.shape
    x = centred - centred.mean(0)
    trace = x.square().sum() / max(count - 1, 1)
    ridge = torch.where(trace > 0, trace, torch.ones_like(trace))
    eye = torch.eye(width, device=x.device)
    if count >= width:
        factor: Tensor = torch.linalg.cholesky(x.T @ x + ridge * eye)
        return torch.cholesky_inverse(factor) * width
    inner: Tensor = torch.linalg.solve(x @ x.T + ridge * torch.eye(count, device=x.device), x)
    return (eye - x.T @ inner) * (width / ridge)


def discriminant(means: Float[Tensor, "C D"], projected: Float[Tensor, "C D"]) -> tuple[Tensor, Tensor]:
    """W and b for equally likely classes, given the means and Mu P."""
    return projected, -math.log(len(means)) - (projected * means).sum(1) / 2


def synthesised_means(images: Float[Tensor, "B D"], text: Float[Tensor, "C D"]) -> Float[Tensor, "C D"]:
    """Means of classes without images: their nearest training images and copies of their text."""
    near = nearest_images(images, text)
    return (near.sum(1) + TEXT_COPIES * text) / (near.shape[1] + TEXT_COPIES)


def nearest_images(images: Float[Tensor, "B D"], text: Float[Tensor, "C D"]) -> Float[Tensor, "C near D"]:
    """The training images with the largest cosine to each class text."""
    count = min(NEIGHBOURS, len(images))
    return images[(text @ images.T).topk(count, dim=1).indices]


def through_synthesised_precision(
    means: Float[Tensor, "C D"], near: Float[Tensor, "C near D"], text: Float[Tensor, "C D"]
) -> Float[Tensor, "C D"]:
    """Mu P with P the mean over classes of the precision of each class's neighbours around its text.

    No D x D matrix is made: (A^T A + r I)^-1 = (I - A^T (A A^T + r I)^-1 A) / r for the K x D matrix A of a class.
    """
    classes, count, width = near.shape
    total = torch.zeros_like(means)
    for neighbours, own in zip(near, text, strict=True):
        a = neighbours - own
        ridge = (a.square().sum() / max(count - 1, 1)).clamp_min(torch.finfo(a.dtype).tiny)
        inner = torch.linalg.solve(a @ a.T + ridge * torch.eye(count, device=a.device), a)
        total += (means - (means @ a.T) @ inner) / ridge
    return width / classes * total


@dataclass
class GDAPredictor:
    """Zero-shot cosines over tau, plus the Gaussian scores.

    Attributes:
        means: mu_c of the fitted classes.
        precision: P of the fitted classes.
        images: the training images, all their views, from which new classes are synthesised.
    """

    names: tuple[str, ...]
    means: Float[Tensor, "C D"]
    precision: Float[Tensor, "D D"]
    images: Float[Tensor, "B D"]
    alpha: float
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes.

        All fitted: as fitted. All new: means and precision synthesised, as published. Both at once, which the paper
        does not treat: new means are synthesised and the fitted precision serves all, so that scores are comparable.
        """
        x = images.float()
        if not text.is_text:
            if text.names != self.names:
                raise UserError("this classifier was fitted without class text and serves none but its own classes")
            weight, bias = discriminant(self.means, self.means @ self.precision)
            return self.alpha * (x @ weight.T + bias)
        weights = class_weights(text, "ensemble")
        weight, bias = self._gaussian(text.names, weights)
        return x @ weights.T / self.tau + self.alpha * (x @ weight.T + bias)

    def _gaussian(self, names: tuple[str, ...], weights: Float[Tensor, "C D"]) -> tuple[Tensor, Tensor]:
        row = {name: i for i, name in enumerate(self.names)}
        known = torch.tensor([row.get(name, -1) for name in names], device=weights.device)
        images = self.images.float()
        means = synthesised_means(images, weights)
        if bool((known < 0).all()):
            near = nearest_images(images, weights)
            return discriminant(means, through_synthesised_precision(means, near, weights))
        means = torch.where((known >= 0)[:, None], self.means[known], means)
        return discriminant(means, means @ self.precision)


@dataclass(frozen=True)
class GDA:
    """GDA (Wang, Liang, Sheng, He, Wang, Tan, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", 2024).

    alpha by validation. New classes are served from the training images nearest to their text.
    """

    name: str = "gda"
    needs: Needs = "images"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> GDAPredictor:
        """Estimate means and precision, choose alpha."""
        start = prepare(task, seed=seed, needs=self.needs)
        selection, classes = start.selection, len(start.names)
        means, spread = _estimate(selection.train, classes)
        alpha, val = DEFAULT_ALPHA, None
        if selection.val is not None:
            x = selection.val.embeddings
            zero_shot = x @ start.weights.T / start.tau if task.text.is_text else x.new_zeros(len(x), classes)
            weight, bias = discriminant(means, means @ spread)
            added = x @ weight.T + bias
            _, alpha, val = best_blend(zero_shot, lambda _: added, [None], ALPHAS, selection.val.labels)
        if selection.held_out:
            means, spread = _estimate(start.train, classes)
        ends = {} if val is None else at_end(alpha=(alpha, ALPHAS))
        info = start.info(n_parameters=means.numel() + classes, val=val, alpha=alpha, **ends)
        images = all_views(task.train).embeddings
        return GDAPredictor(start.names, means, spread, images, alpha, start.tau, info=info)


def _estimate(images: Images, classes: int) -> tuple[Float[Tensor, "C D"], Float[Tensor, "D D"]]:
    images = all_views(images)
    means = class_means(images, classes)
    return means, precision(images.embeddings - means[images.labels])
