"""The front door for Python: scikit-learn classifiers over embeddings, and the stores of `pipeline` as arrays.

    from aape import AAPEPlusClassifier
    clf = AAPEPlusClassifier(random_state=1).fit(X, y, class_names=names, templates=T, prompts=P)

It re-exports and adapts `trainer`, and nothing imports it. No encoder, language model, DVC or database is loaded.
"""

from aape.base import Classifier
from aape.classes import Classes
from aape.estimators import CLASSES, AAPEClassifier, AAPEPlusClassifier, MethodClassifier, classifier, load
from aape.stores import StoredFeatures, StoredImages, open_features
from aape.writing import write_features

__all__ = [
    "AAPEClassifier",
    "AAPEPlusClassifier",
    "Classes",
    "MethodClassifier",
    "StoredFeatures",
    "StoredImages",
    "classifier",
    "load",
    "open_features",
    "write_features",
    *sorted({made.__name__ for made in CLASSES.values()} - {"AAPEClassifier", "AAPEPlusClassifier"}),
]


def __getattr__(name: str) -> type[Classifier]:
    """The generated classes, which a type checker does not see otherwise."""
    for made in CLASSES.values():
        if made.__name__ == name:
            return made
    raise AttributeError(f"module 'aape' has no attribute {name!r}")
