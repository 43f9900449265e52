"""Base-to-new: learn the first half of the classes by index, test on both halves (protocol 1 of the paper, as CoOp).

`base` and `new` judge each half among its own classes; `h` is their harmonic mean; `generalized` judges all test
images among all classes at once.
"""

from trainer.data import Images, Task
from trainer.features import Features, few_shot
from trainer.methods import Predictor
from trainer.metrics import harmonic_mean
from trainer.protocols.base import Score, only_classes, predict


def halves(classes: int) -> tuple[range, range]:
    """Labels of the base and of the new classes; base has one more where the number is odd, as in CoOp."""
    middle = (classes + 1) // 2
    return range(middle), range(middle, classes)


class BaseToNew:
    """Base, new, their harmonic mean, and generalised accuracy."""

    name = "base-to-new"

    def caveat(self, features: Features) -> str | None:
        """A single new class cannot be told apart from anything: its accuracy would be 1 whatever the method."""
        if len(features.class_names) < 4:
            return (
                f"{features.dataset} has {len(features.class_names)} classes: with one new class `new` would always be "
                "1, so only base and generalized are measured"
            )
        return None

    def task(self, features: Features, source: str, *, shots: int, seed: int) -> Task:
        """The base half, `shots` images a class."""
        train, val = few_shot(features, shots, seed=seed)
        base, _ = halves(len(features.class_names))
        return Task(
            text=features.text[source].select(list(base)), train=only_classes(train, base), val=only_classes(val, base)
        )

    def score(self, predictor: Predictor, features: Features, source: str, test: Images, *, new_classes: bool) -> Score:
        """Judge on each half; a method that cannot serve new classes gets `base` alone."""
        base, new = halves(len(features.class_names))
        text = features.text[source]

        def accuracy_on(labels: range) -> float:
            images = only_classes(test, labels)
            right = predict(predictor, images, text.select(list(labels))) == images.labels
            return float(right.double().mean())

        metrics = {"base": accuracy_on(base)}
        if new_classes:
            if len(new) > 1:
                metrics["new"] = accuracy_on(new)
                metrics["h"] = harmonic_mean(metrics["base"], metrics["new"])
            metrics["generalized"] = accuracy_on(range(len(features.class_names)))
        return Score(metrics)
