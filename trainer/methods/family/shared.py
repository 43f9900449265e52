"""One learned prompt for all classes: the class names stay as they are, and one shift moves their texts together.

    logits = cos(x, t_c + v) / tau,  loss = cross entropy,  v = 0 at first

This is what remains of CoOp's context tokens (Zhou et al., IJCV 2022) when the text encoder is not there. It stands
here for the question why prompt tuning is robust to noisy labels (Wu et al., ICCV 2023): their first answer is the
class names that nothing moves, so that wrong labels pull on D numbers and not on D numbers a class, as in `cones`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.family.embeddings import BATCH, STEPS, chosen
from trainer.text import class_weights
from trainer.training import Candidate, Info, Learner, Schedule, epochs_within

RATES = (1e-3, 1e-2)
"""Of Adam, as `cones`."""


class Shared(Learner):
    """The shift in training."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, images: Images) -> None:
        super().__init__()
        self.text, self.tau = weights, tau
        self.shift = nn.Parameter(weights.new_zeros(weights.shape[1]))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """cos(x, t_c + v) / tau."""
        return images @ (normalize(self.text + self.shift, dim=-1) / self.tau).T


@dataclass
class SharedPredictor:
    """cos(x, t_c + v) / tau for any classes."""

    shift: Float[Tensor, " D"]
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of any classes whose text is given."""
        weights = normalize(class_weights(text, "ensemble") + self.shift, dim=-1)
        return images.float() @ weights.T / self.tau


@dataclass(frozen=True)
class SharedShift:
    """One shift of all class texts: CoOp (Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", IJCV
    2022, arXiv 2109.01134, the context that all classes share), without its text encoder.

    Rate and epoch by validation; Adam, CoOp's epochs, at most 300 steps. Deviation: sixteen tokens before an encoder
    move each class in its own direction; here the direction is one.
    """

    name: str = "shared-shift"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> SharedPredictor:
        """Learn the shift."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        made = partial(Shared, start.weights, start.tau)
        candidates = [Candidate(Schedule("adam", rate, epochs, BATCH, warmup_epochs=1), made) for rate in RATES]
        best = chosen(candidates, start, seed=seed)
        assert isinstance(best.learner, Shared)
        shift = best.learner.shift.detach()
        info = start.info(n_parameters=shift.numel(), val=best.val, **best.info)
        return SharedPredictor(shift, start.tau, best.history, info)
