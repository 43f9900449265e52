"""Classifiers on image features alone, for the classes they were fitted on: nearest centroid, logistic regression."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stages.errors import UserError
from trainer.data import ClassText, Images, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.common import class_sums, prepare
from trainer.text import calibrate_tau
from trainer.training import Info, Score, judge

STEPS_A_DECADE = 8
RANGE = 6 * STEPS_A_DECADE
"""C from 1e-6 to 1e6 in 96 logarithmic steps; a C is 10 ** (step / 8)."""
COARSE = 2 * STEPS_A_DECADE
"""Between the seven first values."""
DEFAULT_STRENGTH = 100.0
"""C where nothing can be held out: within a point of the best on unit features with 1 to 16 shots."""
ITERATIONS = 1000


def require_fitted(names: tuple[str, ...], text: ClassText) -> None:
    """Refuse other classes than those that a classifier without class text was fitted on.

    Raises:
        UserError: `text` names others.
    """
    if text.names != names:
        raise UserError(
            f"this classifier was fitted on {len(names)} classes and cannot serve {len(text.names)} others: "
            "use a method that reads class text (aape, zero-shot, cupl)"
        )


@dataclass
class LinearPredictor:
    """x W^T + b for a fixed list of classes."""

    names: tuple[str, ...]
    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of the fitted classes.

        Raises:
            UserError: `text` names other classes.
        """
        require_fitted(self.names, text)
        return images.float() @ self.weight.T + self.bias


@dataclass(frozen=True)
class NearestCentroid:
    """The class whose mean training embedding has the largest cosine; tau for probabilities from validation images."""

    name: str = "nearest-centroid"
    needs: Needs = "images"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Mean the shots of each class."""
        start = prepare(task, seed=seed, needs=self.needs)
        selection, classes = start.selection, len(start.names)
        judges = selection.train if selection.val is None else selection.val
        cosines = judges.embeddings @ normalize(class_sums(selection.train, classes), dim=-1).T
        tau = calibrate_tau(cosines, judges.labels)
        weight = normalize(class_sums(start.train, classes), dim=-1) / tau
        val = None if selection.val is None else judge(cosines / tau, judges.labels)
        info = start.info(n_parameters=weight.numel(), val=val) | {"tau": tau}
        return LinearPredictor(task.text.names, weight, weight.new_zeros(classes), info=info)


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression by L-BFGS, CLIP's linear-probe protocol (Radford et al. 2021, appendix A.3).

    C is chosen on validation images from 96 values between 1e-6 and 1e6: seven values two decades apart, then the
    spacing is halved around the best one until it is an eighth of a decade. The objective is scikit-learn's:
    C * sum of the negative log-likelihoods + ||W||^2 / 2, the bias free.
    """

    name: str = "logistic"
    needs: Needs = "images"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Choose C, then fit on all shots."""
        start = prepare(task, seed=seed, needs=self.needs)
        selection, classes = start.selection, len(start.names)
        strength, val, fitted = DEFAULT_STRENGTH, None, None
        if selection.val is not None:
            strength, val, fitted = search_strength(selection.train, selection.val, classes)
        if fitted is None or selection.held_out:
            fitted = fit_logistic(start.train, classes, strength=strength)
        weight, bias = fitted
        ends = (
            {}
            if val is None
            else at_end(C=(strength, (10 ** (-RANGE / STEPS_A_DECADE), 1.0, 10 ** (RANGE / STEPS_A_DECADE))))
        )
        info = start.info(n_parameters=weight.numel() + bias.numel(), val=val, C=strength, **ends)
        return LinearPredictor(task.text.names, weight, bias, info=info)


def search_strength(
    train: Images, val: Images, classes: int
) -> tuple[float, Score, tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]]:
    """C by CLIP's parametric binary search, its validation score, and the weight and bias it gives.

    Each fit starts where the one with the nearest C ended.
    """
    fits: dict[int, tuple[Score, tuple[Tensor, Tensor]]] = {}

    def best() -> int:
        return max(fits, key=lambda step: (fits[step][0], -step))

    def measure(step: int) -> None:
        near = min(fits, key=lambda other: abs(other - step), default=None)
        start = None if near is None else fits[near][1]
        weight, bias = fit_logistic(train, classes, strength=10 ** (step / STEPS_A_DECADE), start=start)
        fits[step] = judge(val.embeddings @ weight.T + bias, val.labels), (weight, bias)

    for step in range(-RANGE, RANGE + 1, COARSE):
        measure(step)
    spacing = COARSE
    while spacing > 1:
        spacing //= 2
        peak = best()
        for step in (peak - spacing, peak + spacing):
            if abs(step) <= RANGE:
                measure(step)
    peak = best()
    return 10 ** (peak / STEPS_A_DECADE), *fits[peak]


def fit_logistic(
    images: Images, classes: int, *, strength: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """Weight and bias at the minimum of scikit-learn's objective divided by C * B, from `start` or from zero.

    The weights lie in the span of the images, so with fewer images than entries the descent runs in that span.
    """
    x, y = images.embeddings.float(), images.labels.long()
    basis = torch.linalg.qr(x.T).Q if x.shape[0] < x.shape[1] else None
    if basis is not None:
        x = x @ basis
    if start is None:
        weight, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    else:
        weight, bias = start[0] if basis is None else start[0] @ basis, start[1].clone()
    weight, bias = weight.clone().requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight.T + bias, y) + weight.square().sum() / (2 * strength * len(y))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight, bias = weight.detach(), bias.detach()
    return (weight if basis is None else weight @ basis.T), bias
