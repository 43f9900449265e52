"""Few-shot: k images a class, all classes, the whole test split (protocol 2 of the paper)."""

from dataclasses import dataclass
from typing import ClassVar

from trainer.data.features import Features
from trainer.methods import Predictor
from trainer.metrics import accuracy, confusion_matrix, macro_accuracy
from trainer.protocols.base import Protocol, Score, TestSplits, predict


@dataclass(frozen=True)
class FewShot(Protocol):
    """Accuracy and macro accuracy over all classes."""

    name: ClassVar[str] = "few-shot"
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    judges_all: ClassVar[bool] = True

    def score(
        self, predictor: Predictor, features: Features, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Judge on every test image."""
        test = tests.of(features).images
        predictions = predict(predictor, test, features.text[source])
        confusion = confusion_matrix(labels=test.labels, predictions=predictions, classes=len(features.class_names))
        return Score({"accuracy": accuracy(confusion), "macro_accuracy": macro_accuracy(confusion)}, predictions)
