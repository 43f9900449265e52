"""Label noise: few-shot learning with a share of wrong labels, judged on the clean test split.

Training and validation images are mislabelled alike, since whoever labelled the one labelled the other: nothing that a
method sees tells it which labels are right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch

from stages.numbers import Shots, amount, most
from stages.params import EvaluationParams
from stages.text import counted
from trainer.data import Images, Task
from trainer.data.features import Features
from trainer.protocols.few_shot import FewShot

TOLD = 0.02
"""A share that rounding moves by this much is told."""


@dataclass(frozen=True)
class LabelNoise(FewShot):
    """Accuracy and macro accuracy after learning from wrong labels; the labels of the test split are right.

    Attributes:
        noise: share of the images of each class, rounded down, that get another class's label, drawn by seed.
    """

    name: ClassVar[str] = "label-noise"

    noise: float

    @classmethod
    def several(cls, asked: EvaluationParams) -> Mapping[str, EvaluationParams]:
        """One run a share; with several the key tells which."""
        if not isinstance(asked.noise, list):
            return {"": asked}
        return {f"-{share:g}": asked.model_copy(update={"noise": share}) for share in asked.noise_shares}

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Features]) -> Self:
        """With the settings' share of wrong labels."""
        return cls(shots, key, asked.noise_shares[0], up_to=asked.up_to)

    @property
    def title(self) -> str:
        """Name, shots and share; where rounding alters the share of a fixed number of shots, what it came to."""
        asked, done = f"{100 * self.noise:g} %", self._done
        if abs(done - self.noise) < TOLD:
            return f"{super().title}, {asked} of the labels wrong"
        return f"{super().title}, {100 * done:.3g} % of the training labels wrong ({asked} of a class, rounded down)"

    @property
    def _done(self) -> float:
        """Share of wrong training labels where every class has as many images; else what was asked for."""
        if not isinstance(self.shots, int) or self.shots < 1 or self.up_to:
            return self.noise
        return int(self.noise * self.shots) / self.shots

    def caveats(self, features: Features) -> list[str]:
        """Too few shots for the share to be anything, or to be what was asked for."""
        if not self.noise:
            return []
        counts = features.train.images.labels.bincount(minlength=len(features.class_names)).tolist()
        used = [int(min(count, most(self.shots))) for count in counts]
        clean = [count for count in used if int(self.noise * count) == 0]
        if not clean:
            wrong, total = sum(int(self.noise * count) for count in used), sum(used)
            if abs(wrong / total - self.noise) < TOLD:
                return []
            return [f"{self.key}: {100 * self.noise:g} % of the images of a class, rounded down, are "
                    f"{100 * wrong / total:.0f} % of all {counted(total, 'training image')}"]  # fmt: skip
        share = f"{100 * self.noise:g} % of {amount(self.shots, up_to=self.up_to)} is less than one image"
        if len(clean) == len(counts):
            return [f"{share} a class: no label is wrong"]
        return [f"{share} in {len(clean)} of {len(counts)} classes: no label of theirs is wrong"]

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The few-shot task with some labels wrong."""
        clean = super().task(features, source, seed=seed)
        classes = len(features.class_names)
        return Task(
            text=clean.text,
            train=wrong_labels(clean.train, self.noise, classes=classes, seed=seed),
            val=wrong_labels(clean.val, self.noise, classes=classes, seed=seed + 1),
        )

    def left_over(self, features: Features, *, seed: int) -> Images:
        """With as many wrong labels."""
        clean = super().left_over(features, seed=seed)
        return wrong_labels(clean, self.noise, classes=len(features.class_names), seed=seed + 2)


def wrong_labels(images: Images, noise: float, *, classes: int, seed: int) -> Images:
    """Give `noise` of each class's images (rounded down) the label of another class, drawn evenly among the others."""
    rng = np.random.default_rng([seed, classes])
    labels = images.labels.cpu().numpy().copy()
    for label in range(classes):
        own = np.flatnonzero(images.labels.cpu().numpy() == label)
        chosen = rng.permutation(own)[: int(noise * len(own))]
        labels[chosen] = (label + rng.integers(1, classes, size=len(chosen))) % classes
    return images.labelled(torch.as_tensor(labels, device=images.labels.device))
