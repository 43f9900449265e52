"""TaskRes: a free residual on each class's text embedding, scaled by 0.5 (Yu et al., arXiv 2211.10277)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import Images, Task
from trainer.data.draws import mean_shots
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Learner, Schedule, choose, refit

SCALE = 0.5
RATE = 2e-3
"""As released for all data sets but ImageNet, which had 2e-4."""
BATCH = 256
WEIGHT_DECAY = 5e-4


def epochs(shots: int) -> int:
    """Published lengths: 100 for 1 to 4 shots, 200 for more."""
    return 100 if shots <= 4 else 200


class _Residual(Learner):
    """t' = t + 0.5 x with x = 0 at the start; logits are cos(image, t') / tau."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, images: Images) -> None:
        super().__init__()
        self.text, self.tau = weights, tau
        self.residual = nn.Parameter(torch.zeros_like(weights))

    def weight(self) -> Float[Tensor, "C D"]:
        return normalize(self.text + SCALE * self.residual, dim=-1) / self.tau

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return images @ self.weight().T


@dataclass(frozen=True)
class TaskRes:
    """Task residual tuning (Yu, Lu, Jin, Chen, Wang, "Task Residual for Tuning Vision-Language Models", CVPR 2023).

    Adam, cosine with one warm-up epoch, batches of 256 as released; the epoch by validation. A class without
    training images has no residual, so only the fitted classes are served.
    """

    name: str = "taskres"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn the residuals."""
        start = prepare(task, seed=seed)
        length = epochs(mean_shots(start.train.labels))
        schedule = Schedule("adam", RATE, length, BATCH, weight_decay=WEIGHT_DECAY, warmup_epochs=1)
        candidate = Candidate(schedule, partial(_Residual, start.weights, start.tau), {"scale": SCALE})
        best = refit(choose([candidate], start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Residual)
        weight = best.learner.weight().detach()
        info = start.info(n_parameters=weight.numel(), val=best.val, **best.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), best.history, info)
