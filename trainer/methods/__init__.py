"""Every method by its name; all see the same features, the same shots and the same selection rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from stages.errors import UserError, nearest
from stages.training import TrainParams
from trainer.methods.aape import AAPE, VARIANTS
from trainer.methods.aape_plus import AAPEPlus
from trainer.methods.base import Method, Predictor
from trainer.methods.clip_adapter import ClipAdapter
from trainer.methods.cross_modal import CrossModal
from trainer.methods.gda import GDA
from trainer.methods.linear import LogisticRegression, NearestCentroid
from trainer.methods.lp_plus_plus import LPPlusPlus
from trainer.methods.taskres import TaskRes
from trainer.methods.text import TextMethod
from trainer.methods.tip_adapter import TipAdapter

__all__ = ["GROUPS", "METHODS", "Method", "Predictor", "methods"]

METHODS: dict[str, Callable[[TrainParams], Method]] = {
    **{name: partial(AAPE.variant, name) for name in VARIANTS},
    "aape-plus": lambda _: AAPEPlus(),
    "aape-plus-no-text": lambda _: AAPEPlus.without_text(),
    "zero-shot": lambda _: TextMethod("zero-shot", "template"),
    "template-ensemble": lambda _: TextMethod("template-ensemble", "ensemble"),
    "cupl": lambda _: TextMethod("cupl", "prompts"),
    "nearest-centroid": lambda _: NearestCentroid(),
    "logistic": lambda _: LogisticRegression(),
    "tip-adapter": lambda _: TipAdapter("tip-adapter", trains_keys=False),
    "tip-adapter-f": lambda _: TipAdapter("tip-adapter-f", trains_keys=True),
    "clip-adapter": lambda _: ClipAdapter(),
    "taskres": lambda _: TaskRes(),
    "cross-modal": lambda _: CrossModal(),
    "lp++": lambda _: LPPlusPlus(),
    "gda": lambda _: GDA(),
}
"""A method by name, made from the `train:` settings."""
GROUPS: dict[str, Sequence[str]] = {
    "all": list(METHODS),
    "standard": [
        "aape", "aape-no-distill", "aape-no-image", "aape-literal", "aape-plus", "aape-plus-no-text",
        "zero-shot", "cupl", "nearest-centroid", "logistic", "tip-adapter-f", "gda",
    ],
}  # fmt: skip
"""Names that stand for several methods. `standard`: AAPE, AAPE+, their controls, the text alone and four baselines."""


def methods(names: Sequence[str], *, settings: TrainParams) -> list[Method]:
    """The methods of these names or groups, each once, in this order.

    Raises:
        UserError: an unknown name; lists the known ones and suggests the nearest.
    """
    chosen: dict[str, Method] = {}
    for name in names:
        if name not in METHODS and name not in GROUPS:
            raise UserError(f"unknown method {name!r}; {nearest(name, [*METHODS, *GROUPS])}", exit_code=2)
        for each in GROUPS.get(name, [name]):
            chosen.setdefault(each, METHODS[each](settings))
    return list(chosen.values())
