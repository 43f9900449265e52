"""Few-shot: k images a class, all classes, the whole test split (protocol 2 of the paper)."""

from trainer.data import Images, Task
from trainer.features import Features, few_shot
from trainer.methods import Predictor
from trainer.metrics import accuracy, confusion_matrix, macro_accuracy
from trainer.protocols.base import Score, predict


class FewShot:
    """Accuracy and macro accuracy over all classes."""

    name = "few-shot"

    def caveat(self, features: Features) -> str | None:
        """None: every data set can be tested so."""
        return None

    def task(self, features: Features, source: str, *, shots: int, seed: int) -> Task:
        """All classes, `shots` images each."""
        train, val = few_shot(features, shots, seed=seed)
        return Task(text=features.text[source], train=train, val=val)

    def score(self, predictor: Predictor, features: Features, source: str, test: Images, *, new_classes: bool) -> Score:
        """Judge on every test image."""
        predictions = predict(predictor, test, features.text[source])
        confusion = confusion_matrix(labels=test.labels, predictions=predictions, classes=len(features.class_names))
        metrics = {"accuracy": accuracy(confusion), "macro_accuracy": macro_accuracy(confusion)}
        return Score(metrics, predictions, confusion)
