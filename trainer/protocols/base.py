"""What a protocol is: it builds the task that methods learn from, and scores what they learned.

Most protocols judge classifiers. One that judges something else says so by `reads` (what it needs of a data set) and
`registry` (the methods that learn it); its tasks and predictors are then its own, and everything else is the same: the
plan, finished fits, seeds, records, checkpoints.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, overload

from jaxtyping import Int
from torch import Tensor

from stages import ImageStore, ManifestStore, TextStore, UserError
from stages.numbers import Shots, amount
from stages.params import EvaluationParams
from stages.stores.artifacts import Store, partition_values
from stages.training import TrainParams
from trainer.checkpoint import read_provenance
from trainer.data import ClassText, Images, Task
from trainer.data.captions import CaptionFeatures
from trainer.data.draws import few_shot, left_over
from trainer.data.features import Features, Split, StoredFeatures
from trainer.data.pairs import Pairs
from trainer.methods import CLASSIFIERS, Registry
from trainer.multilabel.features import LabelFeatures, LabelSplit
from trainer.runs.scoring import predict, scores

__all__ = [
    "AVERAGE", "OWN", "Protocol", "Reads", "Score", "Sheet", "TestSplits", "from_elsewhere", "mean", "mend_others",
    "only_classes", "predict", "same_weights", "scores", "share_right",
]  # fmt: skip

OWN, AVERAGE = "source", "average"
"""Metrics of protocols with several test splits: on the data set that was trained on, and the mean of the others."""


Reads = Literal["classes", "labels", "captions", "questions"]
"""What a protocol needs of a data set."""


class Sheet(NamedTuple):
    """Lines on single test examples, for a CSV file of the run.

    Attributes:
        columns: of the rows; protocol, method and seed stand before them.
        rows: a line each.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[str | int | float | None, ...]]


@dataclass(frozen=True)
class Score:
    """The outcome of one run on the test split.

    Attributes:
        metrics: metric name -> fraction of 1, or a number on a scale of its own (`trainer.metrics.OWN_SCALE`).
        predictions: predicted label of each test image, where the protocol judges all of them; else None.
        within: where it judges all of them, each among a part of the classes, the label predicted so.
        sheets: file name -> lines that the run keeps of the first seed.
        notes: lines that every output repeats.
    """

    metrics: dict[str, float]
    predictions: Int[Tensor, " B"] | None = None
    within: Int[Tensor, " B"] | None = None
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class TestSplits:
    """The test splits, each read once; `trainer.runs.run` makes this when everything is fitted, and not before.

    Attributes:
        views: whether a method looks at augmented views.
    """

    views: bool = False
    _read: dict[tuple[type, str, int | None], Any] = field(default_factory=dict)

    @overload
    def of(self, features: Features) -> Split: ...
    @overload
    def of(self, features: CaptionFeatures) -> Pairs: ...
    @overload
    def of(self, features: LabelFeatures) -> LabelSplit: ...
    def of(self, features: Features | CaptionFeatures | LabelFeatures) -> Split | Pairs | LabelSplit:
        """The test split of a data set; with folds, whose fits did not see what they are judged on, all its images."""
        key = type(features), features.dataset, getattr(features, "folds", None)
        if key not in self._read:
            self._read[key] = features.test(views=self.views) if isinstance(features, Features) else features.test()
        found: Split | Pairs | LabelSplit = self._read[key]
        return found


@dataclass(frozen=True)
class Protocol(ABC):
    """One way of testing, settled in all its numbers.

    Attributes:
        name: as on the command line.
        headline: the metrics that pictures show, in this order.
        serves_new_classes: only methods that can serve classes they never saw can be tested so.
        judges_all: whether it judges every test image among the classes that were learned.
        reads: what it needs of a data set.
        learns_from_others: whether its tasks are of several data sets, those of `tests_on` too.
        own_settings: those of `evaluation` that only some protocols read, of which this is one.
        by_shots: whether it is run once for each number of shots that is asked for.
        without_shots: whether that number may be 0.
        gives_unlabelled: when methods get images without labels beside the labelled ones; None: never.
        long_fits: whether a fit takes minutes, so that it is worth a process of its own.
        shots: training images a class; "all" where all training images are used.
        key: as in tables and metrics.json; unlike `name` it tells several numbers of shots apart.
        up_to: whether a class with fewer images than shots gives what it has.
    """

    name: ClassVar[str]
    headline: ClassVar[tuple[str, ...]]
    serves_new_classes: ClassVar[bool] = False
    judges_all: ClassVar[bool] = False
    reads: ClassVar[Reads] = "classes"
    learns_from_others: ClassVar[bool] = False
    own_settings: ClassVar[tuple[str, ...]] = ()
    by_shots: ClassVar[bool] = True
    without_shots: ClassVar[bool] = False
    gives_unlabelled: ClassVar[Literal["beforehand", "judging"] | None] = None
    long_fits: ClassVar[bool] = False

    shots: Shots
    key: str
    up_to: bool = field(default=False, kw_only=True)

    @classmethod
    def registry(cls) -> Registry:
        """The methods that it can judge."""
        return CLASSIFIERS

    def methods(self, names: Sequence[str], features: Any, *, settings: TrainParams) -> list[Any]:
        """Those of these names that it can judge, each once, in this order."""
        return self.registry().make(names, settings=settings)

    def lacking(self, names: Sequence[str], features: Any, *, settings: TrainParams) -> list[str]:
        """Lines on those of groups that `methods` leaves out, since the data set lacks something."""
        return []

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """Names of the data sets that are tested on beside the one that is trained on.

        Args:
            dataset: the one that is trained on.
            datasets: all that the settings list.
        """
        return []

    @classmethod
    def several(cls, asked: EvaluationParams) -> Mapping[str, EvaluationParams]:
        """End of the key -> settings that it is run under: one, unless a setting of its own has several values."""
        return {"": asked}

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Any]) -> Self:
        """The protocol with all that it takes from the settings; `others` are the data sets of `tests_on`."""
        return cls(shots, key, up_to=asked.up_to)

    @property
    def gives_labels(self) -> bool:
        """Whether a task holds labelled images."""
        return True

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, {amount(self.shots, up_to=self.up_to)}"

    def unfit(self, features: Any) -> str | None:
        """Why this data set cannot be tested so, and what would mend it; None where it can.

        Raises:
            UserError: the data sets do not belong together.
        """
        return None

    def caveats(self, features: Any) -> list[str]:
        """Lines on what this protocol cannot measure on this data set."""
        return []

    def remarks(self, features: Any, tests: TestSplits) -> list[str]:
        """Lines on the test split, when it may be read."""
        classes = len(features.class_names)
        empty = int((tests.of(features).images.labels.bincount(minlength=classes) == 0).sum())
        return [f"{features.dataset} has no test image of {empty} of its {classes} classes"] if empty else []

    def seeded(self, seed: int) -> Self:
        """The protocol as it judges the fit of one seed."""
        return self

    def served(self, predictor: Any) -> Any:
        """What a checkpoint keeps of a predictor."""
        return predictor

    def task(self, features: Any, source: str, *, seed: int) -> Any:
        """The task of one seed, with no test image in it: all classes, `shots` images each."""
        train, val = few_shot(features, self.shots, seed=seed, up_to=self.up_to)
        return Task(text=self.text(features, source), train=train, val=val)

    def text(self, features: Any, source: str) -> ClassText:
        """The classes of its task."""
        found: ClassText = features.text[source]
        return found

    def left_over(self, features: Features, *, seed: int) -> Images:
        """Labelled images of the task's classes that are in neither its train nor its val, and in no test split."""
        return left_over(features, self.shots, seed=seed, up_to=self.up_to)

    @abstractmethod
    def score(self, predictor: Any, features: Any, source: str, tests: TestSplits, *, new_classes: bool) -> Score:
        """Judge a predictor on the test splits; `new_classes` says whether it can serve classes it never saw."""


def only_classes(images: Images, labels: range) -> Images:
    """The images of a range of classes, labels counted from the range's start."""
    keep = (images.labels >= labels.start) & (images.labels < labels.stop)
    taken = images.take(keep.nonzero()[:, 0])
    return taken.labelled(taken.labels - labels.start)


def share_right(predictions: Int[Tensor, " B"], labels: Int[Tensor, " B"]) -> float:
    """Accuracy; NaN without images."""
    return float((predictions == labels).double().mean())


def mean(values: Sequence[float]) -> float:
    """NaN of none."""
    return math.fsum(values) / len(values) if values else math.nan


_SERVED: tuple[type[Store], ...] = (ImageStore, TextStore)


def embedded_beside(cache: Path, dataset: str, encoder: str) -> list[str]:
    """Other data sets of one class an image that the cache holds with images and text embedded by this encoder."""
    return [
        name
        for name in partition_values(cache, TextStore, "dataset")
        if name != dataset
        and all(encoder in partition_values(cache, kind, "encoder", dataset=name) for kind in _SERVED)
        and (manifest := ManifestStore(cache, name)).exists()
        and manifest.provenance().class_names
        and not manifest.is_multi_label
    ]


def mend_others(features: Features, option: str) -> str:
    """What to do where other data sets are needed and none is named: those that are embedded by the same encoder."""
    store = features.store
    there = embedded_beside(store.cache, features.dataset, store.partitions["encoder"])
    if not there:
        return f"name others with {option}, once {store.cache} holds some that are embedded by {features.encoder}"
    return f"name some with {option} (there are: {', '.join(there)})"


def same_weights(features: StoredFeatures, others: Sequence[StoredFeatures]) -> None:
    """Refuse data sets that were embedded with other weights.

    Raises:
        UserError: names both.
    """
    for other in others:
        if other.encoder_fingerprint != features.encoder_fingerprint:
            raise UserError(
                f"{features.dataset!r} and {other.dataset!r} were embedded with different weights of "
                f"{features.encoder}: embed both again"
            )


def from_elsewhere(features: StoredFeatures, places: Mapping[str, object]) -> None:
    """Refuse a checkpoint that was learnt on the data set itself: with folds it has seen the test images too.

    Raises:
        UserError: names it.
    """
    for place in places.values():
        if isinstance(place, Path) and read_provenance(place).get("dataset") == features.dataset:
            raise UserError(
                f"evaluation.learnt_on: {place} was learnt on {features.dataset!r} itself, the test images perhaps "
                "among what it has seen: name the checkpoint of another data set",
                exit_code=2,
            )
