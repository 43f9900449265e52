"""The methods of several classes an image, by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stages.training import TrainParams
from trainer.multilabel.closed import AAPEPlusLabels, LogisticLabels, RidgeLabels, TextLabels
from trainer.multilabel.finish import LabelMethod
from trainer.multilabel.trained import LMPT, AAPELabels, TaI

LABEL_METHODS: dict[str, Callable[[TrainParams], LabelMethod]] = {
    "aape": lambda settings: AAPELabels("aape", settings),
    "aape-no-distill": lambda settings: AAPELabels("aape-no-distill", settings, distill=False),
    "aape-plus": lambda _: AAPEPlusLabels(),
    "aape-plus-no-text": lambda _: AAPEPlusLabels("aape-plus-no-text", text=False),
    "zero-shot": lambda _: TextLabels("zero-shot", "ensemble"),
    "cupl": lambda _: TextLabels("cupl", "prompts"),
    "tai": lambda _: TaI(),
    "tai-shuffled": lambda _: TaI("tai-shuffled", shuffled=True),
    "logistic": lambda _: LogisticLabels(),
    "ridge": lambda _: RidgeLabels(),
    "class-embeddings": lambda _: LMPT("class-embeddings", "plain"),
    "lmpt-no-embedding-loss": lambda _: LMPT("lmpt-no-embedding-loss", "balanced"),
    "lmpt": lambda _: LMPT(),
}
"""A method by name, made from the `train:` settings."""
LABEL_GROUPS: dict[str, Sequence[str]] = {
    "all": tuple(LABEL_METHODS),
    "standard": tuple(LABEL_METHODS),
    "family": (
        "tai", "tai-shuffled", "lmpt", "lmpt-no-embedding-loss", "class-embeddings", "zero-shot", "cupl", "logistic",
        "aape", "aape-no-distill", "aape-plus",
    ),
}  # fmt: skip
"""Names that stand for several methods."""
