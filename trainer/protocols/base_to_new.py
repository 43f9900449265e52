"""Base-to-new: learn the first half of the classes by index, test on both halves (protocol 1 of the paper, as CoOp).

`base` and `new` judge each half among its own classes; `h` is their harmonic mean; `generalized` judges all test
images among all classes at once.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from trainer.data import ClassText, Images, Task
from trainer.data.draws import few_shot
from trainer.data.features import Features
from trainer.methods import Predictor
from trainer.metrics import harmonic_mean
from trainer.protocols.base import Protocol, Score, TestSplits, only_classes, predict, share_right


def halves(classes: int) -> tuple[range, range]:
    """Labels of the base and of the new classes; base has one more where the number is odd, as in CoOp."""
    middle = (classes + 1) // 2
    return range(middle), range(middle, classes)


@dataclass(frozen=True)
class BaseToNew(Protocol):
    """Base, new, their harmonic mean, and generalised accuracy."""

    name: ClassVar[str] = "base-to-new"
    headline: ClassVar[tuple[str, ...]] = ("base", "new", "h")

    def unfit(self, features: Features) -> str | None:
        """With fewer than three classes there is one base class, and nothing to learn."""
        if len(features.class_names) < 3:
            return f"{len(features.class_names)} classes leave one in the base half, and a classifier needs two"
        return None

    def caveats(self, features: Features) -> list[str]:
        """A single new class cannot be told apart from anything: its accuracy would be 1 whatever the method."""
        if len(features.class_names) < 4:
            return [
                f"{features.dataset} has {len(features.class_names)} classes: with one new class `new` would always be "
                "1, so only base and generalized are measured"
            ]
        return []

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The base half, `shots` images a class."""
        train, val = few_shot(features, self.shots, seed=seed, up_to=self.up_to)
        base, _ = halves(len(features.class_names))
        return Task(text=self.text(features, source), train=only_classes(train, base), val=only_classes(val, base))

    def text(self, features: Features, source: str) -> ClassText:
        """That of the base half."""
        return features.text[source].select(list(halves(len(features.class_names))[0]))

    def left_over(self, features: Features, *, seed: int) -> Images:
        """Those of the base half."""
        return only_classes(super().left_over(features, seed=seed), halves(len(features.class_names))[0])

    def score(
        self, predictor: Predictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on each half; a method that cannot serve new classes gets `base` alone."""
        base, new = halves(len(features.class_names))
        text = features.text[source]
        test = tests.of(features).images

        def among(labels: range) -> Int[Tensor, " M"]:
            """The labels predicted for the images of these classes."""
            return labels.start + predict(predictor, only_classes(test, labels), text.select(list(labels)))

        def share(predicted: Int[Tensor, " M"], labels: range) -> float:
            return share_right(predicted - labels.start, only_classes(test, labels).labels)

        of_base, within = among(base), None
        metrics = {"base": share(of_base, base)}
        if new_classes:
            if len(new) > 1:
                of_new = among(new)
                metrics["new"] = share(of_new, new)
                metrics["h"] = harmonic_mean(metrics["base"], metrics["new"])
                within = torch.empty_like(test.labels)
                within[test.labels < new.start], within[test.labels >= new.start] = of_base, of_new
            metrics["generalized"] = share(among(range(len(features.class_names))), range(len(features.class_names)))
        return Score(metrics, within=within)
