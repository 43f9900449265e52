"""LP++: a linear probe whose weights are w_c + alpha_c t_c (Huang et al., CVPR 2024, arXiv 2404.02285).

Nothing is tuned: the step sizes follow from the Lipschitz constants of the two blocks (w and alpha), and both start at
approximate minima of the loss. Only the epoch is chosen on validation images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.data import Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import class_sums, prepare
from trainer.methods.linear import LinearPredictor
from trainer.training import CHUNK, Candidate, Learner, Schedule, Score, choose, judge, refit, together

EPOCHS = 300
MOMENTUM = 0.9
ALPHA_EVERY = 10
"""Steps of w for one of alpha."""
ENTRIES = 2**22
"""Scores of a part of the images (float32: 16 MB)."""
ROUNDING = 1e-4
"""Share of a score that another order of summing changes, at most."""
BLEND = 2.5
"""alpha starts at 2.5 / tau times the mean cosine of a shot and its own class text: 250 at CLIP's tau of 0.01."""


def step_sizes(images: Float[Tensor, "B D"], cosines: Float[Tensor, "B C"]) -> tuple[float, float]:
    """Steps of w and of alpha (eq. 10 and 11): 4 B over the largest eigenvalue of X^T X, and B over four times the
    largest sum of squared cosines of one class text.
    """
    largest = torch.linalg.matrix_norm(images, ord=2).square()
    return float(4 * len(images) / largest), float(len(images) / (4 * cosines.square().sum(0).max()))


def start_values(
    images: Images, cosines: Float[Tensor, "B C"], tau: float
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """Start values (eq. 15): w the sums of the classes' shots, alpha one value for all classes."""
    classes = cosines.shape[1]
    own = cosines.gather(1, images.labels[:, None])[:, 0]
    sums = own.new_zeros(classes).index_add_(0, images.labels, own)
    mean = (sums / torch.bincount(images.labels, minlength=classes)).mean()
    return class_sums(images, classes), (BLEND / tau * mean).expand(classes).clone()


class _Probe(Learner):
    """x (w + alpha t)^T + b, with the step sizes that the images give."""

    def __init__(self, text: Float[Tensor, "C D"], tau: float, images: Images) -> None:
        super().__init__()
        cosines = images.embeddings @ text.T
        self.text, self.steps = text, step_sizes(images.embeddings, cosines)
        self.most = max(1, ENTRIES // len(text))
        weight, alpha = start_values(images, cosines, tau)
        self.own, self.alpha = nn.Parameter(weight), nn.Parameter(alpha)
        self.bias = nn.Parameter(torch.zeros_like(alpha))
        self.rivals: Tensor | None = None

    def groups(self) -> list[dict[str, Any]]:
        """Momentum on w and its bias, a plain step of alpha every tenth."""
        of_weight, of_alpha = self.steps
        alpha = {"params": [self.alpha], "share": of_alpha, "every": ALPHA_EVERY, "momentum": 0.0}
        return [{"params": [self.own, self.bias], "share": of_weight}, alpha]

    def weight(self) -> Float[Tensor, "C D"]:
        return self.own + self.alpha[:, None] * self.text

    def may_beat(self, val: Images, best: Score) -> bool:
        """Whether enough images may be right.

        Each is compared with what it was last mistaken for, at the cost of two products of vectors: where that still
        lies in front of its own class, by more than rounding, it is wrong whatever the other classes score.
        """
        if self.rivals is None:
            return True
        weight, x = self.weight(), val.embeddings
        own, other = ((x * weight[labels]).sum(1) + self.bias[labels] for labels in (val.labels, self.rivals))
        wrong = int((other - own > ROUNDING * (1 + own.abs())).sum())
        return len(val) - wrong > best[0] * len(val) - 0.5

    def measure(self, val: Images) -> Score:
        """How good it is; notes what images are mistaken for."""
        parts, found = zip(val.embeddings.split(CHUNK), val.labels.split(CHUNK), strict=True), []  # type: ignore[no-untyped-call]
        taken_for = []
        for x, y in parts:
            logits = self(x)
            taken_for.append(logits.argmax(1))
            found.append((judge(logits, y), len(y) / len(val)))
        most = torch.cat(taken_for)
        before = val.labels if self.rivals is None else self.rivals
        self.rivals = torch.where(most == val.labels, before, most)
        return together(found)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return images @ self.weight().T + self.bias


@dataclass(frozen=True)
class LPPlusPlus:
    """LP++ (Huang, Shakeri, Dolz, Boudiaf, Bahig, Ben Ayed, "LP++: A Surprisingly Strong Linear Probe", CVPR 2024).

    Full batches, 300 epochs, as released. Only the fitted classes are served.
    """

    name: str = "lp++"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn w, its bias and alpha."""
        start = prepare(replace(task, train=task.train.centre_crops()), seed=seed)
        # an epoch is a single step, and with few shots the best come early: each is measured, as released
        schedule = Schedule("sgd", 1.0, EPOCHS, len(start.train), momentum=MOMENTUM, cosine="off", evaluations=EPOCHS)
        candidate = Candidate(schedule, partial(_Probe, start.weights, start.tau))
        best = refit(choose([candidate], start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Probe)
        weight, bias = best.learner.weight().detach(), best.learner.bias.detach()
        count = weight.numel() + 2 * len(weight)
        info = start.info(n_parameters=count, val=best.val, epoch=best.epoch)
        return LinearPredictor(task.text.names, weight, bias, best.history, info)
