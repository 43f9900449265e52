"""Training-free unsupervised prompts: the surest images that nobody labelled become a cache beside zero-shot.

    p(x) = softmax(x . w / tau) + alpha sum_i a_i(x) onehot(y_i),    a(x) = softmax over i of s_i(x)
    s_i(x) = x . f_i / tau_f  -  KL(z(x) | z(f_i))

f_i are the cached images, y_i what zero-shot took them for, z its probabilities. What is cached is surest twice: of
each class the images with the largest probability, and of those the ones nearest to their mean. Two images are alike
where their embeddings are and where zero-shot says the same of both. `tfup-t` learns the class embeddings from the
cache, while the mean of all predictions is held near even.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task, Unlabelled
from trainer.methods.base import Needs
from trainer.methods.common import class_sums, one_hot, prepare
from trainer.methods.family.pseudo_labels import SelfTaught, surest, taught, taught_on_all
from trainer.methods.family.waiting import WaitingPredictor, waits
from trainer.methods.linear import LinearPredictor, require_fitted
from trainer.text import label_free_tau
from trainer.training import Info, judge

SURE, KEPT = 16, 8
"""Images a class with the largest probability, and how many of those stay, the nearest to their mean."""
ALPHA = 0.25
"""Where no label is there to choose it by. Sets with many images a class bear more, those with a handful no more."""
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
EVEN = 1.0
"""Weight of the entropy of the mean prediction."""
BATCH = 256
SMALLEST = 1e-12


def representative(shares: Float[Tensor, "U C"], images: Unlabelled) -> Images:
    """Of each class the KEPT images nearest to the mean of its SURE surest ones, under that class as their label."""
    sure = images.labelled(*surest(shares, SURE))
    classes = shares.shape[1]
    means = normalize(class_sums(sure, classes), dim=-1)
    near = (sure.embeddings * means[sure.labels]).sum(1)
    kept = [
        rows[near[rows].topk(min(KEPT, len(rows))).indices]
        for rows in ((sure.labels == label).nonzero()[:, 0] for label in range(classes))
    ]
    return sure.take(torch.cat(kept).sort().values)


def divergence(first: Float[Tensor, "B C"], second: Float[Tensor, "M C"]) -> Float[Tensor, "B M"]:
    """KL(first | second) of every pair of rows of probabilities, in nats."""
    own: Tensor = torch.special.xlogy(first, first).sum(1, keepdim=True)
    return own - first @ second.clamp_min(SMALLEST).log().T


@dataclass
class UnsupervisedCache:
    """Zero-shot probabilities, plus those of the cached images that are alike; logits are their logarithm."""

    names: tuple[str, ...]
    weights: Float[Tensor, "C D"]
    tau: float
    keys: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    alpha: float
    tau_keys: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Logarithms of the sum of both kinds of probabilities, of the fitted classes."""
        require_fitted(self.names, text)
        return self.scores(images.float())

    @torch.no_grad()
    def scores(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """The same without a look at which classes are asked for."""
        plain, cached = self.both(images)
        return ((plain + self.alpha * cached) / (1 + self.alpha)).clamp_min(SMALLEST).log()

    def both(self, images: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Probabilities by zero-shot, and by the cache."""
        plain = (images @ self.weights.T / self.tau).softmax(1)
        own = (self.keys @ self.weights.T / self.tau).softmax(1)
        alike = (images @ self.keys.T / self.tau_keys - divergence(plain, own)).softmax(1)
        return plain, alike @ one_hot(self.labels, len(self.weights))


@dataclass(kw_only=True)
class WaitingCache(WaitingPredictor):
    """The surest of the images that are judged in the cache, or what `tfup-t` learns from it."""

    trains: bool

    def learned(self, images: Unlabelled, shots: Images, tau: float) -> Float[Tensor, "B C"]:
        """Scores with the cache, or by what was learned from it."""
        guessed = representative((images.embeddings @ self.weights.T / tau).softmax(1), images)
        if not self.trains:
            return filled(self.names, self.weights, tau, shots, guessed).scores(images.embeddings)
        make = partial(EvenlyTaught, images.embeddings)
        trained = taught(self.weights, tau, shots, guessed, val=None, seed=self.seed, make=make)
        with torch.no_grad():
            found: Tensor = trained.learner(images.embeddings)
        return found


class EvenlyTaught(SelfTaught):
    """Learned from the cache, with the mean prediction of all unlabelled images held near even.

    Args:
        seen: the unlabelled images, of which each step draws some.
    """

    def __init__(self, seen: Float[Tensor, "U D"], start: Tensor, tau: float, labelled: int, images: Images) -> None:
        super().__init__(start, tau, labelled, images)
        self.seen = seen

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy, less EVEN times the entropy of the mean prediction."""
        drawn = torch.randint(len(self.seen), (min(BATCH, len(self.seen)),), generator=rng).to(self.seen.device)
        mean = self(self.seen[drawn]).softmax(1).mean(0)
        even = -torch.special.entr(mean).sum()
        found = super().losses(rows, batch, rng)
        return {"loss": found["loss"] + EVEN * even, "even": even}


def filled(
    names: tuple[str, ...], weights: Float[Tensor, "C D"], tau: float, shots: Images, guessed: Images
) -> UnsupervisedCache:
    """The cache of these images; its temperature lets cosines between images spread as CLIP's with text do."""
    keys = Images.join(shots.centre_crops(), guessed.centre_crops()) if len(shots) else guessed
    cosines = keys.embeddings @ keys.embeddings.T
    tau_keys = label_free_tau(cosines.fill_diagonal_(float(cosines.median())))
    return UnsupervisedCache(names, weights, tau, keys.embeddings, keys.labels, ALPHA, tau_keys)


@dataclass(frozen=True)
class TrainingFree:
    """TFUP and TFUP-T (Long et al., "Training-Free Unsupervised Prompt for Vision-Language Models", arXiv 2404.16339).

    Shots, where there are any, stand in the cache with their labels, and alpha is chosen by validation, 0 among the
    values. Deviations: the paper's constants of the similarities fit CLIP alone, here both levels are of one scale
    (`trainer.text.label_free_tau`); TFUP-T trains adapters behind both towers, here the class embeddings are learned.

    Args:
        trains: False is the training-free form.
    """

    name: str
    trains: bool
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False
    reads_unlabelled: bool = True
    waits: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> Any:
        """Fill the cache, or wait for the images that are judged."""
        start = prepare(task, seed=seed)
        if task.transductive:
            return WaitingCache(trains=self.trains, **waits(start, seed=seed, n_parameters=0))
        assert task.unlabelled is not None
        seen, selection = task.unlabelled, start.selection
        guessed = representative((seen.embeddings.float() @ start.weights.T / start.tau).softmax(1), seen)
        if self.trains:
            make = partial(EvenlyTaught, seen.embeddings.float())
            trained = taught(
                start.weights, start.tau, selection.train, guessed, val=selection.val, seed=seed, make=make
            )
            score = None if selection.val is None else trained.score
            if selection.held_out:
                trained = taught_on_all(start, guessed, trained, seed=seed, make=make)
            assert isinstance(trained.learner, EvenlyTaught)
            weight = trained.learner.unit().detach() / start.tau
            info = start.info(n_parameters=weight.numel(), val=score, pseudo_labels=len(guessed), **trained.info)
            return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), trained.history, info)
        found, score = filled(start.names, start.weights, start.tau, selection.train, guessed), None
        if selection.val is not None:
            plain, cached = found.both(selection.val.embeddings)
            tried = [(judge((plain + a * cached).clamp_min(SMALLEST).log(), selection.val.labels), a) for a in ALPHAS]
            score, alpha = max(tried)
            found = filled(start.names, start.weights, start.tau, start.train, guessed)
            found.alpha = alpha
        found.info = start.info(
            n_parameters=found.keys.numel(), val=score, alpha=found.alpha, pseudo_labels=len(guessed)
        )
        return found


TFUP, TFUP_T = TrainingFree("tfup", trains=False), TrainingFree("tfup-t", trains=True)
