"""The front door for Python: scikit-learn classifiers over embeddings, and the stores of `pipeline` as arrays.

    from aape import AAPEPlusClassifier
    clf = AAPEPlusClassifier(random_state=1).fit(X, y, class_names=names, templates=T, prompts=P)

It re-exports and adapts `trainer`, and nothing imports it. No encoder, language model, DVC or database is loaded.
"""

from typing import Any

from aape import estimators
from aape.classes import Classes
from aape.estimators import CLASSES, AAPEClassifier, MethodClassifier, classifier, load

__all__ = [
    "AAPEClassifier",
    "Classes",
    "MethodClassifier",
    "classifier",
    "load",
    *(c.__name__ for c in CLASSES.values()),
]


def __getattr__(name: str) -> Any:
    return getattr(estimators, name)
