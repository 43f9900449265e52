"""Domain generalisation (protocol 3 of the paper): the same classes in other kinds of pictures, nothing learned anew.

Such as ImageNet-V2, -Sketch, -A and -R after ImageNet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from stages import UserError
from stages.numbers import Shots
from stages.params import EvaluationParams
from trainer.data.features import Features
from trainer.methods import Predictor
from trainer.protocols.base import AVERAGE, OWN, Protocol, Score, TestSplits, mean, predict, same_weights, share_right


@dataclass(frozen=True)
class DomainGeneralization(Protocol):
    """Accuracy on each shifted variant, their average, and on the source itself."""

    name: ClassVar[str] = "domain-generalization"
    headline: ClassVar[tuple[str, ...]] = (OWN, AVERAGE)
    own_settings: ClassVar[tuple[str, ...]] = ("shifts",)

    shifts: tuple[Features, ...]

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """The settings' variants of this data set."""
        return list(asked.shifts.get(dataset, []))

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Features]) -> Self:
        """With the variants."""
        return cls(shots, key, tuple(others), up_to=asked.up_to)

    @property
    def title(self) -> str:
        """Name, shots and variants."""
        return f"{super().title}, tested on {', '.join(shift.dataset for shift in self.shifts)}"

    def unfit(self, features: Features) -> str | None:
        """Nothing to test on. A variant with classes that the source does not have is refused."""
        same_weights(features, self.shifts)
        for shift in self.shifts:
            self._columns(features, shift)
        if self.shifts:
            return None
        return f"it tests on shifted variants: name those of {features.dataset!r} with --shifts"

    def score(
        self, predictor: Predictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on the test split of every variant, among the classes that it has."""
        text = features.text[source]
        test = tests.of(features).images
        own = share_right(predict(predictor, test, text), test.labels)
        found = {}
        for shift in self.shifts:
            test = tests.of(shift).images
            predictions = predict(predictor, test, text, columns=self._columns(features, shift))
            found[shift.dataset] = share_right(predictions, test.labels)
        return Score({OWN: own, **found, AVERAGE: mean(list(found.values()))})

    def _columns(self, features: Features, shift: Features) -> list[int]:
        """The source's label of each class of the variant."""
        position = {name: label for label, name in enumerate(features.class_names)}
        strange = [name for name in shift.class_names if name not in position]
        if strange:
            raise UserError(
                f"{shift.dataset} is no variant of {features.dataset}: {len(strange)} of its classes are none of "
                f"{features.dataset}'s (first: {strange[0]!r}); class names must be the same"
            )
        return [position[name] for name in shift.class_names]
