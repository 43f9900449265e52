"""CLIP-Adapter: a bottleneck on the image embedding, blended with the embedding (Gao et al., arXiv 2110.04544)."""

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
from trainer.text import class_weights
from trainer.training import Candidate, Info, Learner, Schedule, choose, epochs_within, refit, uniform

REDUCTION = 4
SETTINGS = ((0.2, 0.5), (0.6, 0.5), (0.6, 0.05))
"""Ratio and rate. The ratios are the published ones, of general and of fine-grained data sets; the smaller one needs
the larger rate. The rates are ours: CoOp's 0.002 hardly moves the adapter where tau is larger than CLIP's.
"""
BATCH = 32
STEPS = 1000
"""Most steps of a run: CoOp's 200 epochs would be ten times as many for 100 classes of 16 shots."""
WEIGHT_DECAY = 5e-4


class Adapter(nn.Module):
    """x' = ratio relu(U2 relu(U1 x)) + (1 - ratio) x, normalised."""

    def __init__(self, *, width: int, hidden: int, ratio: float, rng: torch.Generator) -> None:
        super().__init__()
        self.ratio = ratio
        self.down = uniform(hidden, width, rng=rng)
        self.up = uniform(width, hidden, rng=rng)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Adapted unit embeddings."""
        adapted = torch.relu(torch.relu(images @ self.down.T) @ self.up.T)
        return normalize(self.ratio * adapted + (1 - self.ratio) * images, dim=-1)


class _Scored(Learner):
    """The adapter before the cosine classifier of the class texts."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, ratio: float, seed: int, images: Images) -> None:
        super().__init__()
        width = weights.shape[1]
        rng = torch.Generator().manual_seed(seed)
        self.adapter = Adapter(width=width, hidden=max(1, width // REDUCTION), ratio=ratio, rng=rng)
        self.adapter.to(weights.device)
        self.weights, self.tau = weights, tau

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        logits: Tensor = self.adapter(images) @ self.weights.T / self.tau
        return logits


@dataclass
class AdapterPredictor:
    """Cosine of the adapted image to each class's text, over tau."""

    adapter: Adapter
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes: the adapter acts on images, text stays free."""
        adapted: Tensor = self.adapter(images.float())
        return adapted @ class_weights(text, "ensemble").T / self.tau


@dataclass(frozen=True)
class ClipAdapter:
    """CLIP-Adapter (Gao, Geng, Zhang, Ma, Fang, Zhang, Li, Qiao, "CLIP-Adapter", arXiv 2110.04544), visual adapter.

    SGD with CoOp's schedule; ratio, rate and epoch by validation. New classes are served by their text: the adapter
    acts on images alone.
    """

    name: str = "clip-adapter"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> AdapterPredictor:
        """Learn the adapter."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        candidates = [
            Candidate(
                Schedule("sgd", lr, epochs, BATCH, weight_decay=WEIGHT_DECAY, warmup_epochs=1),
                partial(_Scored, start.weights, start.tau, ratio, seed),
                {"ratio": ratio},
            )
            for ratio, lr in SETTINGS
        ]
        best = refit(choose(candidates, start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Scored)
        adapter = best.learner.adapter.requires_grad_(False)
        count = sum(parameter.numel() for parameter in adapter.parameters())
        info = start.info(n_parameters=count, val=best.val, **best.info)
        return AdapterPredictor(adapter, start.tau, best.history, info)
