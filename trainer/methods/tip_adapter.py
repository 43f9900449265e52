"""Tip-Adapter: the shots as a key-value cache beside the zero-shot classifier (Zhang et al., arXiv 2207.09519).

logits = cos(x, text) / tau + alpha exp(-beta (1 - x K^T)) L, with K the shots' embeddings (of several views their mean)
and L their labels. Tip-Adapter-F trains K. The cache knows the classes by name; a class that it has no image of keeps
its zero-shot score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from trainer.data import ClassText, Images, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.blend import best_blend
from trainer.methods.common import Prepared, class_totals, columns, mean_view, prepare
from trainer.text import class_weights
from trainer.training import WORST, Candidate, Info, Learner, Schedule, Score, Trained, choose, refit

ALPHA, BETA = 1.17, 1.0
"""The released defaults, which stay where nothing can be held out."""
TRAIN_AT = ((ALPHA, BETA), (10.0, 5.0))
"""alpha and beta while keys are trained: as released, and for spaces where the cosines between images are small."""
ALPHAS = tuple(round(10 ** (step / 10), 4) for step in range(-10, 41))
BETAS = tuple(round(10 ** (step / 10), 4) for step in range(-20, 24))
"""Published ranges go from 0.1 to 50 for both; alpha needs more where the cosines between images are small, and more
again where beta is: then the cache is a sum of cosines, and alpha times beta its weight.
"""
LR, EPS, EPOCHS, BATCH, WEIGHT_DECAY = 1e-3, 1e-4, 20, 256, 0.01


def cache_scores(
    affinity: Float[Tensor, "M B"], labels: Int[Tensor, " M"], classes: int, *, beta: float
) -> Float[Tensor, "B C"]:
    """What the cache adds for alpha = 1, from the cosines of its keys with the images."""
    return class_totals(torch.exp(beta * (affinity - 1)), labels, classes).T


def search(
    zero_shot: Float[Tensor, "B C"],
    affinity: Float[Tensor, "M B"],
    cached: Int[Tensor, " M"],
    labels: Int[Tensor, " B"],
) -> tuple[float, float, Score]:
    """alpha and beta with the best score on validation images.

    Args:
        cached: labels of the keys.
    """
    added = partial(_added, affinity, cached, zero_shot.shape[1])
    beta, alpha, score = best_blend(zero_shot, added, BETAS, ALPHAS, labels)
    return alpha, beta, score


def _added(affinity: Tensor, cached: Tensor, classes: int, beta: float) -> Tensor:
    return cache_scores(affinity, cached, classes, beta=beta)


@dataclass
class CachePredictor:
    """Zero-shot cosines over tau, plus the cache."""

    names: tuple[str, ...]
    keys: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    alpha: float
    beta: float
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes; the cache adds to those of its own names."""
        x = images.float()
        logits = x @ class_weights(text, "ensemble").T / self.tau
        known = columns(self.names, text)[self.labels]
        kept = known >= 0
        return logits + self.alpha * cache_scores(self.keys[kept] @ x.T, known[kept], len(text), beta=self.beta)


class _Cache(Learner):
    """The cache with keys that learn, starting at the shots."""

    def __init__(self, weights: Float[Tensor, "C D"], tau: float, alpha: float, beta: float, images: Images) -> None:
        super().__init__()
        self.weights, self.tau, self.alpha, self.beta = weights, tau, alpha, beta
        self.labels = images.labels
        self.keys = nn.Parameter(mean_view(images).clone())

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        added = cache_scores(self.keys @ images.T, self.labels, len(self.weights), beta=self.beta)
        return images @ self.weights.T / self.tau + self.alpha * added


@dataclass(frozen=True)
class TipAdapter:
    """Tip-Adapter and Tip-Adapter-F (Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP", ECCV 2022).

    alpha and beta are searched on the validation images, in -F after the training. -F: AdamW, rate 1e-3, 20 epochs,
    cosine, batches of 256 as released; the epoch, and the alpha and beta to train with, by validation.

    Args:
        trains_keys: False is the training-free form.
    """

    name: str
    trains_keys: bool
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> CachePredictor:
        """Fill the cache, choose alpha and beta, and train the keys where asked."""
        start = prepare(task, seed=seed)
        if not self.trains_keys:
            alpha, beta, val = _search(start, mean_view(start.selection.train))
            keys = mean_view(start.train)
            info = start.info(n_parameters=keys.numel(), val=val, alpha=alpha, beta=beta, **_ends(val, alpha, beta))
            return CachePredictor(start.names, keys, start.train.labels, alpha, beta, start.tau, info=info)
        tried = TRAIN_AT if start.selection.val is not None else TRAIN_AT[:1]
        found = [self._train(start, *at, seed=seed) for at in tried]
        best, alpha, beta, val = max(found, key=lambda each: each[3] or WORST)
        best = refit(best, start.train, start.selection, seed=seed)
        assert isinstance(best.learner, _Cache)
        keys = best.learner.keys.detach()
        chosen = {**best.info, "alpha": alpha, "beta": beta, **_ends(val, alpha, beta)}
        info = start.info(n_parameters=keys.numel(), val=val, **chosen)
        return CachePredictor(
            start.names, keys, start.train.labels, alpha, beta, start.tau, history=best.history, info=info
        )

    def _train(
        self, start: Prepared, alpha: float, beta: float, *, seed: int
    ) -> tuple[Trained, float, float, Score | None]:
        """Keys trained with this alpha and beta, then the alpha and beta that suit them best and their score."""
        schedule = Schedule("adamw", LR, EPOCHS, BATCH, weight_decay=WEIGHT_DECAY, eps=EPS)
        learner = partial(_Cache, start.weights, start.tau, alpha, beta)
        candidate = Candidate(schedule, learner, {"train_alpha": alpha, "train_beta": beta})
        trained = choose([candidate], start.selection, seed=seed)
        assert isinstance(trained.learner, _Cache)
        return trained, *_search(start, trained.learner.keys.detach())


def _ends(val: Score | None, alpha: float, beta: float) -> dict[str, str]:
    return {} if val is None else at_end(alpha=(alpha, ALPHAS), beta=(beta, BETAS))


def _search(start: Prepared, keys: Float[Tensor, "M D"]) -> tuple[float, float, Score | None]:
    """alpha and beta for these keys, which stand for the images to learn from; the defaults without validation."""
    selection = start.selection
    if selection.val is None:
        return ALPHA, BETA, None
    x = selection.val.embeddings
    return search(x @ start.weights.T / start.tau, keys @ x.T, selection.train.labels, selection.val.labels)
