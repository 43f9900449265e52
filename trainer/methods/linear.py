"""Classifiers on image features alone, for the classes they were fitted on: nearest centroid, logistic regression."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stages.errors import UserError
from trainer.aape.losses import calibrate_tau
from trainer.data import ClassText, Images, Task, check_task
from trainer.selection import split_for_selection

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""C of logistic regression, tried from strong to weak regularisation, each starting where the last one ended."""
DEFAULT_STRENGTH = 100.0
"""C where nothing can be held out: within a point of the best on unit features with 1 to 16 shots."""
ITERATIONS = 100


@dataclass
class LinearPredictor:
    """x W^T + b for a fixed list of classes."""

    names: tuple[str, ...]
    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, "C"]
    history: list[dict[str, float]] = field(default_factory=list)
    info: dict[str, float | str | int] = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of the fitted classes.

        Raises:
            UserError: `text` names other classes.
        """
        if text.names != self.names:
            raise UserError(
                f"this classifier was fitted on {len(self.names)} classes and cannot serve {len(text.names)} others: "
                "use a method that reads class text (aape, zero-shot, cupl)"
            )
        return images.float() @ self.weight.T + self.bias


@dataclass(frozen=True)
class NearestCentroid:
    """The class whose mean training embedding has the largest cosine; tau for probabilities from validation images."""

    name: str = "nearest-centroid"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Mean the shots of each class."""
        check_task(task)
        started = time.perf_counter()
        split = split_for_selection(task, seed=seed)
        judges = task.train if split.val is None else split.val
        tau = calibrate_tau(judges.embeddings.float() @ _centroids(split.train, len(task.text)).T, judges.labels)
        weight = _centroids(task.train, len(task.text)) / tau
        return LinearPredictor(
            task.text.names,
            weight,
            weight.new_zeros(len(weight)),
            info={
                "tau": tau,
                "selection": split.note,
                "n_parameters": weight.numel(),
                "fit_seconds": time.perf_counter() - started,
            },
        )


def _centroids(images: Images, classes: int) -> Float[Tensor, "C D"]:
    sums = images.embeddings.new_zeros(classes, images.embeddings.shape[1], dtype=torch.float32)
    return normalize(sums.index_add_(0, images.labels.long(), images.embeddings.float()), dim=-1)


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression by L-BFGS, CLIP's linear-probe protocol; C is chosen on validation images.

    The objective is scikit-learn's: C * sum of the negative log-likelihoods + ||W||^2 / 2, the bias free.
    """

    name: str = "logistic"
    uses_prompts: bool = False
    serves_new_classes: bool = False
    strengths: tuple[float, ...] = STRENGTHS

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Choose C, then fit on all shots."""
        check_task(task)
        started = time.perf_counter()
        classes = len(task.text)
        split = split_for_selection(task, seed=seed)
        chosen = DEFAULT_STRENGTH
        best: tuple[float, float] | None = None
        weight = bias = None
        start: tuple[Tensor, Tensor] | None = None
        for strength in self.strengths if split.val is not None else ():
            start = fit_logistic(split.train, classes, strength=strength, start=start)
            assert split.val is not None
            logits = split.val.embeddings.float() @ start[0].T + start[1]
            accuracy = float((logits.argmax(1) == split.val.labels).float().mean())
            loss = float(cross_entropy(logits, split.val.labels))
            if best is None or (accuracy, -loss) > best:
                best, chosen, (weight, bias) = (accuracy, -loss), strength, start
        if weight is None or bias is None or split.held_out:
            weight, bias = fit_logistic(task.train, classes, strength=chosen)
        return LinearPredictor(
            task.text.names,
            weight,
            bias,
            info={
                "C": chosen,
                "selection": split.note,
                "n_parameters": weight.numel() + bias.numel(),
                "fit_seconds": time.perf_counter() - started,
            },
        )


def fit_logistic(
    images: Images, classes: int, *, strength: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C"]]:
    """Weight and bias at the minimum of scikit-learn's objective divided by C * B, from `start` or from zero."""
    x, y = images.embeddings.float(), images.labels.long()
    if start is None:
        start = (x.new_zeros(classes, x.shape[1]), x.new_zeros(classes))
    weight, bias = (value.clone().requires_grad_() for value in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x @ weight.T + bias, y) + weight.square().sum() / (2 * strength * len(y))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
