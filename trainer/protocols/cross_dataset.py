"""Cross-data-set (in every peer of the paper): train on one data set, test on others with what was learned as it is.

The others have classes of their own, named by their own text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from stages.numbers import Shots
from stages.params import EvaluationParams
from stages.stores.artifacts import NO_LLM
from trainer.data.features import Features
from trainer.methods import Predictor
from trainer.protocols.base import (
    AVERAGE,
    OWN,
    Protocol,
    Score,
    TestSplits,
    mean,
    mend_others,
    predict,
    same_weights,
    share_right,
)


@dataclass(frozen=True)
class CrossDataset(Protocol):
    """Accuracy on each target, their average, and on the source itself."""

    name: ClassVar[str] = "cross-dataset"
    headline: ClassVar[tuple[str, ...]] = (OWN, AVERAGE)
    serves_new_classes: ClassVar[bool] = True
    own_settings: ClassVar[tuple[str, ...]] = ("targets",)

    targets: tuple[Features, ...]

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """The settings' targets, without any all other data sets."""
        return [name for name in asked.targets or datasets if name != dataset]

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Features]) -> Self:
        """With the targets."""
        return cls(shots, key, tuple(others), up_to=asked.up_to)

    @property
    def title(self) -> str:
        """Name, shots and targets."""
        return f"{super().title}, tested on {', '.join(target.dataset for target in self.targets)}"

    def unfit(self, features: Features) -> str | None:
        """Nothing to test on."""
        same_weights(features, self.targets)
        if bare := [target.dataset for target in self.targets if not target.has_templates]:
            return f"no class text is embedded of {', '.join(bare)}"
        return None if self.targets else f"it tests on other data sets: {mend_others(features, '--targets')}"

    def caveats(self, features: Features) -> list[str]:
        """Targets without a prompt source are served by their templates."""
        return [
            f"{target.dataset} has no prompts of {source}: its templates stand in"
            for target in self.targets
            for source in features.sources
            if source not in target.text
        ]

    def score(
        self, predictor: Predictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on the test split of every target, each among its own classes."""
        found = {}
        for each in (features, *self.targets):
            test = tests.of(each).images
            text = each.text[source] if source in each.text else each.text[NO_LLM].named_by_template()
            found[each.dataset] = share_right(predict(predictor, test, text), test.labels)
        own = found.pop(features.dataset)
        return Score({OWN: own, **found, AVERAGE: mean(list(found.values()))})
