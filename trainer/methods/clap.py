"""CLAP: a linear probe held near the class texts, each by how much zero-shot knows of it (Silva-Rodriguez et al.,
CVPR 2024).

loss = cross entropy of cos(x, w_c) / tau + mean over c of lambda_c |w_c - t_c|^2, w = t at the start. lambda_c is
zero-shot's mean probability of class c on its own shots: nothing is tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import class_totals, prepare
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Learner, Schedule, choose, epochs_within, refit

LENGTH = 9.0
"""The release works on CLIP's text embeddings as they come: 8 to 10 long in ViT-B/32. Rate and pull depend on it."""
LR, EPOCHS, BATCH = 0.1, 300, 256
STEPS = 1000
"""Most steps of a run."""


def multipliers(
    zero_shot: Float[Tensor, "B C"], labels: Int[Tensor, " B"]
) -> Float[Tensor, " C"]:  # fmt: skip
    """lambda: the mean probability that zero-shot gives each class's shots for their own class."""
    own = zero_shot.softmax(1).gather(1, labels[:, None])
    return class_totals(own, labels, zero_shot.shape[1])[:, 0] / labels.bincount(minlength=zero_shot.shape[1])


class _Held(Learner):
    """Class weights that start at the class texts, and the pull back to them."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, images: Images) -> None:
        super().__init__()
        self.text, self.tau = LENGTH * weights, tau
        self.pull = multipliers(images.embeddings @ weights.T / tau, images.labels)
        self.own = nn.Parameter(self.text.clone())

    def weight(self) -> Float[Tensor, "C D"]:
        return normalize(self.own, dim=-1) / self.tau

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy, and the distance to the texts."""
        task = super().losses(rows, batch, rng)["loss"]
        away = (self.pull * (self.own - self.text).square().sum(1)).mean()
        return {"loss": task + away, "loss_task": task}

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return images @ self.weight().T


@dataclass(frozen=True)
class CLAP:
    """CLAP (Silva-Rodriguez, Hajimiri, Ben Ayed, Dolz, "A Closer Look at the Few-Shot Adaptation of Large
    Vision-Language Models", CVPR 2024, arXiv 2312.12730), the form without outer steps that is released.

    SGD, rate 0.1, momentum 0.9, batches of 256, one warm-up epoch, cosine, 300 epochs but at most 1,000 steps; the
    epoch by validation, as of every trained method here (the release takes the last). Only the fitted classes are
    served.
    """

    name: str = "clap"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn the class weights."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS, wanted=EPOCHS)
        schedule = Schedule("sgd", LR, epochs, BATCH, warmup_epochs=1)
        candidate = Candidate(schedule, partial(_Held, start.weights, start.tau))
        best = refit(choose([candidate], start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Held)
        weight = best.learner.weight().detach()
        info = start.info(n_parameters=weight.numel(), val=best.val, **best.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), best.history, info)
