"""Every method by its name; all see the same features, the same shots and the same selection rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stages.errors import UserError, nearest
from stages.training import TrainParams
from trainer.methods.aape import AAPE, VARIANTS
from trainer.methods.aape_plus import AAPEPlus
from trainer.methods.ape import APE
from trainer.methods.awt import AWT
from trainer.methods.base import Method, Predictor
from trainer.methods.clap import CLAP
from trainer.methods.clip_adapter import ClipAdapter
from trainer.methods.cross_modal import CrossModal
from trainer.methods.family import FAMILY, WITH_MORE
from trainer.methods.gda import GDA
from trainer.methods.linear import LogisticRegression, NearestCentroid
from trainer.methods.lp_plus_plus import LPPlusPlus
from trainer.methods.proker import ProKeR
from trainer.methods.taskres import TaskRes
from trainer.methods.text import ShuffledCuPL, TextMethod
from trainer.methods.timo import TIMO
from trainer.methods.tip_adapter import TipAdapter

__all__ = [
    "CLASSIFIERS",
    "FITS_ALONE",
    "GROUPS",
    "METHODS",
    "Method",
    "Predictor",
    "Registry",
    "check_names",
    "methods",
]

METHODS: dict[str, Callable[[TrainParams], Method]] = {
    **{name: partial(AAPE.variant, name) for name in VARIANTS},
    "aape-plus": lambda _: AAPEPlus(),
    "aape-plus-no-text": lambda _: AAPEPlus.without_text(),
    "zero-shot": lambda _: TextMethod("zero-shot", "template"),
    "template-ensemble": lambda _: TextMethod("template-ensemble", "ensemble"),
    "cupl": lambda _: TextMethod("cupl", "prompts"),
    "cupl-shuffled": lambda _: ShuffledCuPL(),
    "awt": lambda _: AWT(),
    "nearest-centroid": lambda _: NearestCentroid(),
    "logistic": lambda _: LogisticRegression(),
    "tip-adapter": lambda _: TipAdapter("tip-adapter", trains_keys=False),
    "tip-adapter-f": lambda _: TipAdapter("tip-adapter-f", trains_keys=True),
    "clip-adapter": lambda _: ClipAdapter(),
    "taskres": lambda _: TaskRes(),
    "cross-modal": lambda _: CrossModal(),
    "lp++": lambda _: LPPlusPlus(),
    "gda": lambda _: GDA(),
    "timo": lambda _: TIMO(),
    "proker": lambda _: ProKeR(),
    "ape": lambda _: APE("ape", trains=False),
    "ape-t": lambda _: APE("ape-t", trains=True),
    "clap": lambda _: CLAP(),
    **FAMILY,
}
"""A method by name, made from the `train:` settings."""
FITS_ALONE = tuple(name for name in METHODS if name not in WITH_MORE)
"""The methods that a few labelled images are enough for."""
GROUPS: dict[str, Sequence[str]] = {
    "all": [name for name in METHODS if name not in FAMILY],
    "family": ["zero-shot", "cupl", "logistic", "aape", "aape-no-distill", "aape-plus", *FAMILY],
    "standard": [
        "aape", "aape-no-distill", "aape-no-image", "aape-literal", "aape-plus", "aape-plus-no-text",
        "zero-shot", "cupl", "nearest-centroid", "logistic", "tip-adapter-f", "gda",
    ],
}  # fmt: skip
"""Names that stand for several methods. `all`: AAPE, AAPE+, their controls and the baselines. `family`: the
neighbouring systems of `trainer/methods/family` and what they are compared with, a group of its own: `--methods
all,family` is everything. `standard`: AAPE, AAPE+, their controls, the text alone and four baselines.
"""


@dataclass(frozen=True)
class Registry:
    """The methods that a protocol can judge.

    Attributes:
        methods: name -> what makes it of the `train:` settings.
        groups: names that stand for several methods.
    """

    methods: Mapping[str, Callable[[TrainParams], Any]]
    groups: Mapping[str, Sequence[str]]

    @property
    def names(self) -> list[str]:
        """Methods, then groups."""
        return [*self.methods, *self.groups]

    def make(self, names: Sequence[str], *, settings: TrainParams) -> list[Any]:
        """The methods of these names or groups, each once, in this order; names that it does not have are left out."""
        wanted = [each for name in names for each in self.groups.get(name, [name] if name in self.methods else [])]
        return [self.methods[name](settings) for name in dict.fromkeys(wanted)]


CLASSIFIERS = Registry(METHODS, GROUPS)


def methods(names: Sequence[str], *, settings: TrainParams) -> list[Method]:
    """The classifiers of these names or groups, each once, in this order.

    Raises:
        UserError: an unknown name; lists the known ones and suggests the nearest.
    """
    check_names(names, [CLASSIFIERS])
    return CLASSIFIERS.make(names, settings=settings)


def check_names(names: Sequence[str], registries: Sequence[Registry]) -> None:
    """Refuse a name that none of these registries has.

    Raises:
        UserError: an unknown name; lists the known ones and suggests the nearest.
    """
    known = list(dict.fromkeys(name for registry in registries for name in registry.names))
    for name in names:
        if name not in known:
            raise UserError(f"unknown method {name!r}; {nearest(name, known)}", exit_code=2)
