"""Cross-modal linear probe: class texts are further training samples (Lin et al., arXiv 2301.06267)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainer.data import Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Learner, Schedule, choose, refit

RATES = (1e-3, 1e-4)
"""The published sweep of AdamW's rate."""
WEIGHT_DECAY = 0.01
BATCH = 16
"""Images a step, beside as many texts: the published batch of 32."""
ITERATIONS = 3200
"""A quarter of the published 12,800, of which the best came early on validation images."""
WARMUP = 50


class _Linear(Learner):
    """x W^T / tau with W at the text embeddings first; each step takes as many texts, drawn by seed, as images."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, images: Images) -> None:
        super().__init__()
        self.weight, self.tau = nn.Parameter(weights.clone()), tau
        self.texts = Images(weights, torch.arange(len(weights), device=weights.device))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return images @ self.weight.T / self.tau

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy of images and texts."""
        drawn = torch.randint(len(self.texts), (len(batch),), generator=rng).to(batch.labels.device)
        more = self.texts.take(drawn)
        both = Images(torch.cat([batch.embeddings, more.embeddings]), torch.cat([batch.labels, more.labels]))
        return super().losses(rows, both, rng)


@dataclass(frozen=True)
class CrossModal:
    """Cross-modal adaptation, linear probe (Lin, Yu, Kuang, Pathak, Ramanan, "Multimodality Helps Unimodality", 2023).

    A bias-free linear layer that starts at the text weights; half of each batch are class texts; AdamW, cosine. Rate
    and epoch by validation. Only the fitted classes are served.
    """

    name: str = "cross-modal"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn the layer."""
        start = prepare(task, seed=seed)
        epochs = max(1, round(ITERATIONS / -(-len(start.train) // BATCH)))
        candidates = [
            Candidate(
                Schedule("adamw", lr, epochs, BATCH, weight_decay=WEIGHT_DECAY, warmup_steps=WARMUP),
                partial(_Linear, start.weights, start.tau),
            )
            for lr in RATES
        ]
        best = refit(choose(candidates, start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Linear)
        weight = best.learner.weight.detach() / start.tau
        info = start.info(n_parameters=weight.numel(), val=best.val, **best.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), best.history, info)
