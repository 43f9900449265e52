"""One h and g learnt over several data sets: every step takes equally many images of each.

loss = mean over data sets of AAPE's loss on that set, each with its own class text, temperature and p^a; h and g are
the same parameters in all. After "Multitask Vision-Language Prompt Tuning" (Shen et al., WACV 2024), where a prompt in
front of the text encoder is shared; cached features have no such tokens, and what is shared here is AAPE's generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.training import TrainParams
from trainer.aape import AAPELearner, Classifier, Learners, rates
from trainer.data import Images, Task
from trainer.data.draws import Selection
from trainer.methods.common import Prepared, prepare
from trainer.training import Candidate, Learner, Schedule, Score, Trained, choose, epochs_within, refit, together


@dataclass(frozen=True)
class Batch:
    """Some images of each data set: position of the set, rows in its images, what was drawn."""

    parts: tuple[tuple[int, Int[Tensor, " B"], Images], ...]


@dataclass(frozen=True)
class Mixture:
    """The images of several data sets, each as often as the others: row i is of set i mod K."""

    parts: tuple[Images, ...]

    def __len__(self) -> int:
        return len(self.parts) * max(map(len, self.parts))

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.parts[0].device

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> Batch:
        """The images of these rows, set by set."""
        found = []
        for place, images in enumerate(self.parts):
            own = rows[rows % len(self.parts) == place] // len(self.parts) % len(images)
            if len(own):
                found.append((place, own, images.draw(own, rng)))
        return Batch(tuple(found))


@dataclass(frozen=True)
class MixedSelection:
    """What a choice is made on: images of all sets.

    Attributes:
        val: those of each set; None where a set has none.
        held_out: whether some were taken out of the shots.
    """

    train: Mixture
    val: Mixture | None
    held_out: bool


class JointLearner(Learner):
    """Learners of several data sets that share h and g.

    Args:
        parts: one a data set; their classifiers are replaced by the first one's.
    """

    by_likelihood = True

    def __init__(self, parts: Sequence[AAPELearner]) -> None:
        super().__init__()
        for part in parts[1:]:
            part.classifier = parts[0].classifier
        self.parts = nn.ModuleList(parts)
        self.most = min(part.most for part in parts)

    @property
    def classifier(self) -> Classifier:
        """h and g."""
        found: Classifier = self.learners[0].classifier
        return found

    @property
    def learners(self) -> list[AAPELearner]:
        """One a data set."""
        return [part for part in self.parts if isinstance(part, AAPELearner)]

    def groups(self) -> list[dict[str, object]]:
        """Those of the first set, and what the others have beside h and g."""
        first, *others = self.learners
        shared = {id(each) for each in self.classifier.parameters()}
        own = [p for part in others for p in part.parameters() if p.requires_grad and id(p) not in shared]
        return [*first.groups(), *([{"params": own}] if own else [])]

    def losses(self, rows: Int[Tensor, " B"], batch: Batch, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The mean over the images of the batch, which are equally many of each set."""
        found: dict[str, Tensor] = {}
        for place, own, images in batch.parts:
            for name, value in self.learners[place].losses(own, images, rng).items():
                share = len(own) / len(rows)
                found[name] = found.get(name, torch.zeros_like(value)) + value * share
        return found

    def measure(self, val: Mixture) -> Score:
        """The mean over the data sets."""
        found = [part.measure(images) for part, images in zip(self.learners, val.parts, strict=True)]
        return together([(score, 1 / len(found)) for score in found])

    def settle(self) -> None:
        """As each of them."""
        for part in self.learners:
            part.settle()


@dataclass
class Starts:
    """Data sets prepared: class text, temperature, images to learn from and to choose by.

    Attributes:
        prepared: one a data set.
        learners: what makes the learner of each for its images.
    """

    prepared: dict[str, Prepared]
    learners: dict[str, Learners]
    settings: TrainParams

    @classmethod
    def of(cls, tasks: Mapping[str, Task], settings: TrainParams, *, seed: int) -> Starts:
        """Prepare each as AAPE does for itself."""
        known = settings.tau if isinstance(settings.tau, float) else None
        prepared, learners = {}, {}
        for name, task in tasks.items():
            plain = replace(task, train=task.train.centre_crops())
            start = prepared[name] = prepare(plain, seed=seed, source=settings.class_text, tau=known)
            learners[name] = Learners(plain.text, start.weights, start.tau, settings, seed)
        return cls(prepared, learners, settings)

    @property
    def tau(self) -> float:
        """The mean temperature, which learning rates follow."""
        return math.exp(sum(math.log(each.tau) for each in self.prepared.values()) / len(self.prepared))

    @property
    def selection(self) -> MixedSelection:
        """The images of all sets that choices are made on."""
        found: list[Selection] = [each.selection for each in self.prepared.values()]
        vals = [each.val for each in found if each.val is not None]
        return MixedSelection(
            Mixture(tuple(each.train for each in found)),
            Mixture(tuple(vals)) if len(vals) == len(found) else None,
            any(each.held_out for each in found),
        )

    @property
    def train(self) -> Mixture:
        """All shots."""
        return Mixture(tuple(each.train for each in self.prepared.values()))

    def learner(self, images: Mixture) -> JointLearner:
        """One learner over these images, at the seed's start values."""
        made = [make(own) for make, own in zip(self.learners.values(), images.parts, strict=True)]
        return JointLearner(made)

    def schedule(self, images: Mixture, *, lr: float) -> Schedule:
        """As long as AAPE's own on one data set: the same batches, no more of them than `max_steps`."""
        settings = self.settings
        batch = min(settings.batch or len(images), len(images))
        longest = max(images.parts, key=len)
        classes = int(longest.labels.max()) + 1
        labels = torch.cat([longest.labels + k * classes for k in range(len(images.parts))])
        whole = Images(longest.embeddings.new_zeros(len(labels), 1), labels)
        wanted = None if settings.epochs == "auto" else settings.epochs
        epochs = epochs_within(
            whole, batch=batch, most_steps=settings.max_steps, wanted=wanted, warmup=settings.warmup_epochs
        )
        return Schedule(
            settings.optimizer, lr, epochs, batch, weight_decay=settings.weight_decay, momentum=settings.momentum,
            warmup_epochs=settings.warmup_epochs, warmup_lr=settings.warmup_lr, cosine="epoch",
        )  # fmt: skip


def learn_jointly(starts: Starts, *, seed: int) -> Trained:
    """h and g learnt over all sets; the learner is a `JointLearner`.

    Raises:
        UserError: every learning rate diverges.
    """
    selection = starts.selection
    grid = rates(starts.settings, tau=starts.tau)
    candidates = [Candidate(starts.schedule(selection.train, lr=lr), starts.learner) for lr in grid]
    best = choose(candidates, selection, seed=seed + 2)
    return refit(best, starts.train, selection, seed=seed + 2)
