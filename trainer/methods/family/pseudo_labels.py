"""Pseudo-labels: CLIP labels images that nobody labelled, and learns from its own surest answers.

    fpl     the K surest images of each class, once
    ifpl    the same again and again, each time by the classifier that the last pseudo-labels taught
    grip    the same, with K growing until every image has a label

The choice is balanced: each class gets its K images, however rarely it is the likeliest. By the largest P(c|x) alone
the classes that zero-shot confuses would stay without, and what is learned would lean to the others further still.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.data import Images, Task, Unlabelled
from trainer.data.draws import Selection
from trainer.methods.base import Needs
from trainer.methods.common import Prepared, prepare
from trainer.methods.family.embeddings import Embeddings
from trainer.methods.family.waiting import WaitingPredictor, waits
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Schedule, Score, Trained, choose, epochs_within, refit

EACH = 16
"""K of fpl and ifpl, as published."""
BLOCK = 2**16
"""Shares that are gone through at once."""
ROUNDS = 10
"""Of ifpl and grip, as published."""
RATES, BATCH, STEPS = (0.0025, 0.025), 256, 100
"""Of Adam, in parts of 1 / sqrt(D), the size of the entries of a unit embedding: about 1e-4 and 1e-3 in CLIP's
space. Without a label to choose by, the first: on real CLIP features with few images a class the second learns wrong
pseudo-labels by heart.
"""


def surest(shares: Float[Tensor, "B C"], each: int) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """The `each` images of every class with the largest shares, no image twice: their rows, ascending, and labels.

    Through all shares from the largest down: an image goes to the first class that asks for it and still has room. Of
    fewer images than are asked for every one is taken.
    """
    count, classes = shares.shape
    order = shares.flatten().argsort(descending=True, stable=True).cpu().numpy()
    given, room = np.full(count, -1), np.full(classes, each)
    for start in range(0, len(order), BLOCK):
        rows, labels = np.divmod(order[start : start + BLOCK], classes)
        open_yet = (given[rows] < 0) & (room[labels] > 0)
        for row, label in zip(rows[open_yet].tolist(), labels[open_yet].tolist(), strict=True):
            if given[row] < 0 and room[label]:
                given[row] = label
                room[label] -= 1
        if not room.any() or bool((given >= 0).all()):
            break
    taken = np.flatnonzero(given >= 0)
    found = (torch.from_numpy(each_of).to(shares.device) for each_of in (taken, given[taken]))
    return next(found), next(found)


class SelfTaught(Embeddings):
    """Free class embeddings, learned from labelled and from pseudo-labelled images; the two sets weigh the same.

    Args:
        labelled: how many of the images, the first ones, are labelled.
    """

    def __init__(
        self, start: Float[Tensor, "C D"], tau: float, labelled: int, images: Images
    ) -> None:  # fmt: skip
        super().__init__(start, len(start), tau, images)
        guessed = len(images) - labelled
        share = 0.5 if labelled and guessed else 1.0
        sizes = torch.tensor([labelled] * labelled + [guessed] * guessed, device=images.device)
        self.weights = share * len(images) / sizes

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy, each image by its weight."""
        each = cross_entropy(self(batch.embeddings), batch.labels, reduction="none")
        return {"loss": (each * self.weights[rows]).mean()}


def taught(
    start: Float[Tensor, "C D"], tau: float, shots: Images, guessed: Images, *, val: Images | None, seed: int,
    make: Callable[..., Any] = SelfTaught,
) -> Trained:  # fmt: skip
    """Class embeddings learned from `start` on shots and pseudo-labelled images, up to the best validation epoch.

    Args:
        make: `SelfTaught`, or a learner with the same arguments.
    """
    both = Images.join(shots, guessed) if len(shots) else guessed
    epochs = epochs_within(both, batch=BATCH, most_steps=STEPS)
    learner = partial(make, start, tau, len(shots))
    rates = [rate / math.sqrt(start.shape[1]) for rate in RATES]
    candidates = [Candidate(Schedule("adam", rate, epochs, BATCH, warmup_epochs=1), learner) for rate in rates]
    return choose(candidates, Selection(both, val, False, ""), seed=seed)


def round_size(turn: int, *, rounds: int, each: int | None, images: int, classes: int) -> int:
    """Images a class in a round, counted from 1: `each`, or evenly more up to all images where that is None."""
    return max(1, -(-images // classes) * turn // rounds) if each is None else each


def self_taught(
    weights: Float[Tensor, "C D"], tau: float, shots: Images, unlabelled: Unlabelled, *, val: Images | None,
    rounds: int, each: int | None, seed: int,
) -> tuple[Trained, Images]:  # fmt: skip
    """The classifier of the last round, and the pseudo-labelled images that taught it.

    Args:
        weights: unit class text, which labels in the first round and which every round begins at.
        each: see `round_size`.
    """
    now, seen = weights, unlabelled.embeddings.float()
    for turn in range(1, rounds + 1):
        size = round_size(turn, rounds=rounds, each=each, images=len(unlabelled), classes=len(weights))
        guessed = unlabelled.labelled(*surest((seen @ now.T / tau).softmax(1), size))
        trained = taught(weights, tau, shots, guessed, val=val, seed=seed)
        assert isinstance(trained.learner, SelfTaught)
        now = trained.learner.unit().detach()
    return trained, guessed


@dataclass(kw_only=True)
class TransductivePredictor(WaitingPredictor):
    """Pseudo-labels of the images that are judged; the best epoch by validation images, where there are some."""

    rounds: int
    each: int | None
    val: Float[Tensor, "kept D"] | None = None
    val_labels: Int[Tensor, " kept"] | None = None

    def learned(self, images: Unlabelled, shots: Images, tau: float) -> Float[Tensor, "B C"]:
        """Scores by the last round's classifier."""
        val = None if self.val is None or self.val_labels is None else Images(self.val, self.val_labels)
        trained, _ = self_taught(
            self.weights, tau, shots, images, val=val, rounds=self.rounds, each=self.each, seed=self.seed
        )
        with torch.no_grad():
            found: Tensor = trained.learner(images.embeddings)
        return found


@dataclass(frozen=True)
class PseudoLabels:
    """FPL, IFPL and GRIP (Menghini, Delworth, Bach, "Enhancing CLIP with CLIP: Exploring Pseudolabeling for
    Limited-Label Prompt Tuning", NeurIPS 2023, arXiv 2306.01669).

    K = 16; 10 rounds; every round learns from the start; shots and pseudo-labels weigh the same. With validation images
    each round keeps its best epoch, as every method does. Deviations: the paper learns textual or visual prompts, here
    the class embeddings are learned; a class asks for the next image where another has a better claim to it, the paper
    lets one image stand for several classes or leaves a class short.
    """

    name: str
    rounds: int
    each: int | None
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False
    reads_unlabelled: bool = True
    waits: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> LinearPredictor | TransductivePredictor:
        """Label, learn, and label again; where the images come when they are judged, do so then."""
        start = prepare(task, seed=seed)
        if task.transductive:
            val = None if start.selection.held_out else start.selection.val
            return TransductivePredictor(
                rounds=self.rounds, each=self.each, val=None if val is None else val.embeddings,
                val_labels=None if val is None else val.labels,
                **waits(start, seed=seed, n_parameters=start.weights.numel()),
            )  # fmt: skip
        assert task.unlabelled is not None
        selection = start.selection
        trained, guessed = self_taught(
            start.weights, start.tau, selection.train, task.unlabelled, val=selection.val, rounds=self.rounds,
            each=self.each, seed=seed,
        )  # fmt: skip
        if selection.held_out:
            trained = taught_on_all(start, guessed, trained, seed=seed)
        assert isinstance(trained.learner, SelfTaught)
        weight = trained.learner.unit().detach() / start.tau
        score: Score | None = None if selection.val is None else trained.score
        info = start.info(n_parameters=weight.numel(), val=score, pseudo_labels=len(guessed), **trained.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), trained.history, info)


def taught_on_all(
    start: Prepared, guessed: Images, trained: Trained, *, seed: int, make: Callable[..., Any] = SelfTaught
) -> Trained:
    """The same learned from all shots, where some were held out to choose its epoch."""
    both = Images.join(start.train, guessed)
    learner = partial(make, start.weights, start.tau, len(start.train))
    again = replace(trained, candidate=replace(trained.candidate, learner=learner))
    return refit(again, both, Selection(both, None, True, ""), seed=seed)


FPL, IFPL, GRIP = (
    PseudoLabels("fpl", 1, EACH), PseudoLabels("ifpl", ROUNDS, EACH), PseudoLabels("grip", ROUNDS, None),
)  # fmt: skip
