"""ProGrad: a step of the task may not undo zero-shot (Zhu et al., ICCV 2023); the rule is `trainer/alignment.py`.

`prograd` learns one embedding a class with it, `aape-prograd` AAPE's h and g.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.training import TrainParams
from trainer.data import Images, Task
from trainer.methods.aape import AAPE
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.family.embeddings import BATCH, STEPS, Embeddings, chosen, served
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Schedule, epochs_within

SHARES = (1.0, 0.8)
"""Of what goes against zero-shot: the release drops all of it, and 0.8 on flowers, textures and satellite images with 8
and 16 shots.
"""
MOVES = (0.1, 1.0)
"""Rates, as about how far a first step of plain descent moves a logit: a logit is a cosine over tau, the mean loss of a
batch gives a class a C-th of its gradient, so the rate is this times C tau^2.
"""


class Aligned(Embeddings):
    """Free class embeddings that step nowhere against zero-shot.

    Args:
        share: of what goes against it, that is dropped; 0 is plain descent.
    """

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, share: float, images: Images) -> None:
        super().__init__(weights, len(weights), tau, images)
        self.text, self.aligned = weights, share

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy of the labels, and of zero-shot's probabilities: the general direction."""
        logits = self(batch.embeddings)
        zero_shot = (batch.embeddings @ self.text.T / self.tau).softmax(1)
        return {"loss": cross_entropy(logits, batch.labels), "loss_general": cross_entropy(logits, zero_shot)}


@dataclass(frozen=True)
class ProGrad:
    """ProGrad (Zhu, Niu, Han, Wu, Zhang, "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023, arXiv 2205.14865) on
    class embeddings.

    Share (1 or 0.8, the released ones) and rate by validation; SGD with momentum, CoOp's epochs, at most 300 steps.
    The softmax of both sides is that of the common tau (released: CLIP's own, a further temperature of 1). Deviations:
    the paper learns 16 context tokens that all classes share, through the text encoder; here every class has an
    embedding, and all of them are one tensor of the rule. Only the fitted classes are served.
    """

    name: str = "prograd"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn the class embeddings."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        scale = len(start.names) * start.tau**2
        candidates = [
            Candidate(
                Schedule("sgd", move * scale, epochs, BATCH, warmup_epochs=1),
                partial(Aligned, start.weights, start.tau, share),
                {"share": share},
            )
            for share in SHARES
            for move in MOVES
        ]
        return served(chosen(candidates, start, seed=seed), start)


def aape_prograd(settings: TrainParams) -> AAPE:
    """AAPE whose h and g step nowhere against zero-shot (`train.align` 1): lambda L_distill + L_task is the task."""
    return AAPE.variant("aape-prograd", settings, align=1.0)
