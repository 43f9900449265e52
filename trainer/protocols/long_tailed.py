"""Long-tailed: many shots of a few classes, few of most; judged on the whole test split, and by head, middle and tail.

Class c of C has k IF^(-rank / (C - 1)) shots, rounded, at least one (the exponential profile of the long-tailed CIFAR
and COCO sets), ranks drawn by seed: no class is rare in every run. The draw is the few-shot one, cut: the shots of a
class are its first ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch

from stages import UserError
from stages.numbers import Shots
from stages.params import EvaluationParams
from trainer.data import Images, Task
from trainer.data.draws import MOST_TO_CHOOSE_BY
from trainer.data.features import Features
from trainer.data.long_tail import head_medium_tail, long_tail, tail_of
from trainer.methods import Predictor
from trainer.protocols.base import Score, TestSplits
from trainer.protocols.few_shot import FewShot


@dataclass(frozen=True)
class LongTailed(FewShot):
    """Accuracy over all test images, and the mean over the classes of all, of the head, the middle and the tail.

    Attributes:
        imbalance: IF, shots of the largest class over those of the smallest.
        seed: whose order of the classes head, middle and tail are of.
    """

    name: ClassVar[str] = "long-tailed"
    headline: ClassVar[tuple[str, ...]] = ("macro_accuracy", "tail")
    own_settings: ClassVar[tuple[str, ...]] = ("imbalance",)

    imbalance: float = 16.0
    seed: int = 0

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Features]) -> Self:
        """With the settings' imbalance.

        Raises:
            UserError: all images are asked for, which have no tail of their own.
        """
        if shots == "all":
            raise UserError(f"--shots all: {cls.name} draws a tail from a number of shots: --shots 16", exit_code=2)
        return cls(shots, key, up_to=True, imbalance=asked.imbalance)

    @property
    def title(self) -> str:
        """Name, shots of the head and imbalance."""
        return f"{self.name}, {tail_of(self.shots, self.imbalance)}"

    def seeded(self, seed: int) -> Self:
        """With the order of the classes of this seed."""
        return replace(self, seed=seed)

    def _tail(self, classes: int, seed: int) -> tuple[list[int], list[int]]:
        assert self.shots != "all"
        return long_tail(self.shots, self.imbalance, classes, seed=seed)

    def caveats(self, features: Features) -> list[str]:
        """How many shots there are in all."""
        counts, _ = self._tail(len(features.class_names), 0)
        return [f"{self.key}: {max(counts)} to {min(counts)} shots a class, {sum(counts)} in all; its order by seed"]

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The few-shot task, each class cut to its place in the tail; to choose by, never more than its shots."""
        whole = super().task(features, source, seed=seed)
        counts, _ = self._tail(len(features.class_names), seed)
        val = first_of_each(whole.val, [min(count, MOST_TO_CHOOSE_BY) for count in counts])
        return Task(whole.text, first_of_each(whole.train, counts), val)

    def score(
        self, predictor: Predictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on every test image; a class without one is no part of the means."""
        found = super().score(predictor, features, source, tests, new_classes=new_classes)
        assert found.predictions is not None
        labels, classes = tests.of(features).images.labels, len(features.class_names)
        right = labels[found.predictions == labels].bincount(minlength=classes).double()
        recall = (right / labels.bincount(minlength=classes)).cpu()
        _, order = self._tail(classes, self.seed)
        parts = {
            part: float(recall[own].nanmean()) for part, own in head_medium_tail(order).items() if own
        }  # fmt: skip
        return replace(found, metrics=found.metrics | parts)


def first_of_each(images: Images, counts: Sequence[int]) -> Images:
    """The first `counts` images of each class, in their order."""
    seen = [0] * len(counts)
    rows = []
    for row, label in enumerate(images.labels.tolist()):
        seen[label] += 1
        if seen[label] <= counts[label]:
            rows.append(row)
    return images.take(torch.tensor(rows, dtype=torch.long, device=images.device))
