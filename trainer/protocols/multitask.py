"""Several data sets of one encoder: one h and g over all, adapted to each; or a start for one that was held out.

`multitask` judges every data set by what was learnt over all of them. `meta` leaves the run's own data set out while a
start is learnt over the others, and judges few-shot learning from there. A data set that is learnt with lends its shots
and its validation images; no test image of any is read before everything is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from stages import UserError
from stages.numbers import Shots, amount
from stages.params import EvaluationParams
from stages.stores.artifacts import NO_LLM
from stages.text import counted
from trainer.data import ClassText, Task
from trainer.data.draws import few_shot
from trainer.data.features import Features
from trainer.methods import Predictor, Registry
from trainer.metrics import accuracy, confusion_matrix, macro_accuracy
from trainer.protocols.base import (
    AVERAGE,
    Protocol,
    Score,
    TestSplits,
    mean,
    mend_others,
    predict,
    share_right,
)
from trainer.several.methods import META, MULTITASK, SeveralPredictor
from trainer.several.tasks import SeveralTask


@dataclass(frozen=True)
class Multitask(Protocol):
    """Accuracy on each data set, and their average.

    Attributes:
        sets: the other data sets.
        listed: whether they are those that the settings list, since none was named.
    """

    name: ClassVar[str] = "multitask"
    headline: ClassVar[tuple[str, ...]] = (AVERAGE,)
    learns_from_others: ClassVar[bool] = True
    own_settings: ClassVar[tuple[str, ...]] = ("together",)

    sets: tuple[Features, ...]
    listed: bool = False

    @classmethod
    def registry(cls) -> Registry:
        """Methods over several data sets, and some that learn on each alone."""
        return MULTITASK

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """Those that are learnt together, without any all that the settings list."""
        return [name for name in asked.together or datasets if name != dataset]

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Features]) -> Self:
        """With the other data sets."""
        return cls(shots, key, tuple(others), not asked.together, up_to=asked.up_to)

    @property
    def title(self) -> str:
        """Name, shots and data sets."""
        return f"{super().title}, together with {', '.join(each.dataset for each in self.sets)}"

    def unfit(self, features: Features) -> str | None:
        """No other data set, or no text; one of another encoder is refused."""
        for other in self.sets:
            if (other.width, other.encoder_fingerprint) != (features.width, features.encoder_fingerprint):
                raise UserError(
                    f"{self.name}: {features.dataset!r} is embedded by {features.encoder} ({features.width} wide) and "
                    f"{other.dataset!r} by {other.encoder} ({other.width} wide), or by other weights of it: one h and "
                    "g serves one space; name data sets of the same encoder with --together"
                )
        if bare := [each.dataset for each in (features, *self.sets) if not (each.has_templates or each.sources)]:
            return f"no class text is embedded of {', '.join(bare)}"
        return None if self.sets else f"it learns over several data sets: {mend_others(features, '--together')}"

    def caveats(self, features: Features) -> list[str]:
        """Where the other data sets come from; those without the prompt source that is learnt with."""
        names = ", ".join(each.dataset for each in self.sets)
        others = counted(len(self.sets), "other data set")
        return [
            *[f"{self.name}: learnt with the {others} that the settings list: {names} (--together names others)"]
            * self.listed,
        ] + [
            f"{each.dataset} has no prompts of {source}: {(each.sources or ('its template',))[0]} stands in"
            for each in self.sets
            for source in features.sources
            if source not in each.text
        ]

    def remarks(self, features: Features, tests: TestSplits) -> list[str]:
        """Test splits that lack classes, of every data set that is judged."""
        return [line for each in self.judged(features) for line in Protocol.remarks(self, each, tests)]

    def judged(self, features: Features) -> tuple[Features, ...]:
        """The data sets whose test splits are read."""
        return (features, *self.sets)

    def served(self, predictor: SeveralPredictor) -> Predictor:
        """The predictor of the run's own data set."""
        return predictor.of(predictor.own)

    def task(self, features: Features, source: str, *, seed: int) -> SeveralTask:
        """The shots of every data set, drawn alike."""
        tasks = {}
        for each in (features, *self.sets):
            train, val = few_shot(each, self.shots, seed=seed, up_to=self.up_to)
            tasks[each.dataset] = Task(_text(each, source), train, val)
        found = SeveralTask(tasks, features.dataset)
        found.check()
        return found

    def score(
        self, predictor: SeveralPredictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge each data set on its test split, by its own predictor."""
        found = {}
        for each in self.judged(features):
            test = tests.of(each).images
            predictions = predict(predictor.of(each.dataset), test, _text(each, source))
            found[each.dataset] = share_right(predictions, test.labels)
        return Score(found | {AVERAGE: mean(list(found.values()))})


@dataclass(frozen=True)
class Meta(Multitask):
    """Accuracy on the data set that was held out while a start was learnt over the others."""

    name: ClassVar[str] = "meta"
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    @classmethod
    def registry(cls) -> Registry:
        """Starts learnt elsewhere, and their control."""
        return META

    @property
    def title(self) -> str:
        """Name, shots and data sets."""
        learnt = ", ".join(each.dataset for each in self.sets)
        return f"{self.name}, {amount(self.shots, up_to=self.up_to)}, from a start learnt on {learnt}"

    def judged(self, features: Features) -> tuple[Features, ...]:
        """The held-out one alone."""
        return (features,)

    def score(
        self, predictor: SeveralPredictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on every test image of the held-out data set."""
        test = tests.of(features).images
        predictions = predict(predictor.of(features.dataset), test, features.text[source])
        confusion = confusion_matrix(labels=test.labels, predictions=predictions, classes=len(features.class_names))
        return Score({"accuracy": accuracy(confusion), "macro_accuracy": macro_accuracy(confusion)})


def _text(features: Features, source: str) -> ClassText:
    """The classes of a data set by this prompt source, by its own main one, or by its templates as prompts."""
    if source in features.text:
        return features.text[source]
    return features.text[features.sources[0]] if features.sources else features.text[NO_LLM].named_by_template()
