"""The rows of captioning and VQA: the prefix alone, with AAPE in it, its control, and the language model alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.language import LanguageParams
from stages.training import TrainParams
from trainer.aape.captions import CaptionAAPE, fit_captions
from trainer.data.pairs import CaptionTask
from trainer.language.model import LanguageModelName, find_language_model, load_language_model
from trainer.language.prefix import Prefix, Second, fit_prefix, require_language
from trainer.methods import Registry
from trainer.training import Info

AT = "@"
"""Between a method and where its h, or all of it, was learned: `prefix-aape@coco`."""


@dataclass(frozen=True)
class PrefixMethod:
    """The map from image vectors to a language model's input embeddings, learnt on captions.

    Args:
        name: as on the command line and in tables.
        second: what one more embedding is mapped from.
        settings: `train:`, for the map and for h.
        language: the model, found.
        place: a name of the task's `elsewhere`, where h was learned; None: on the same images as the map.
        tuned: h goes on learning on the images of the data set itself.
        whole: the map too is learned at `place`, and nothing here.
    """

    name: str
    second: Second
    settings: TrainParams
    language: LanguageModelName
    place: str | None = None
    tuned: bool = False
    whole: bool = False

    @property
    def learns(self) -> bool:
        """Whether it is fitted on images of the data set itself."""
        return not self.whole

    def fit(self, task: CaptionTask, *, seed: int) -> Prefix:
        """Learn h where it is needed, then the map.

        Raises:
            UserError: see `trainer.language.prefix.fit_prefix`.
        """
        there = None if self.place is None else task.elsewhere[self.place]
        if self.whole:
            if isinstance(there, Prefix):
                require_language(there, self.language, where=self.name)
                return there
            if not isinstance(there, CaptionTask):
                raise UserError(f"{self.name}: {self.place} holds no map to a language model: give its data set's name")
            task, there = there, None
        aape = self._aape(task, there, seed) if self.second == "aape" else None
        return fit_prefix(
            task.train, task.val, self.settings.language, self.language, second=self.second, aape=aape, seed=seed
        )

    def _aape(self, task: CaptionTask, there: Any, seed: int) -> CaptionAAPE:
        """h: of elsewhere, of here, or of elsewhere and then of here."""
        start: CaptionAAPE | None = None
        if there is not None:
            start = fit_captions(there, self.settings, seed=seed) if isinstance(there, CaptionTask) else there
        if start is not None and not self.tuned:
            return start
        return fit_captions(task, self.settings, seed=seed, start=start)


@dataclass
class Words:
    """No image: the language model answers from the question alone.

    Attributes:
        entries: of an input embedding.
    """

    entries: int
    language: str
    language_fingerprint: str
    settings: LanguageParams
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def prefix(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B prefix entries"]:
        """Nothing: a prefix of length 0."""
        return torch.zeros(len(x), 0, self.entries, device=x.device)


@dataclass(frozen=True)
class NoImage:
    """The control of VQA: many questions are answered by language alone."""

    settings: TrainParams
    language: LanguageModelName
    name: str = "no-image"
    learns: bool = False

    def fit(self, task: CaptionTask, *, seed: int) -> Words:
        """Nothing to fit."""
        language = load_language_model(self.language, task.device)
        return Words(language.width, self.language.name, self.language.fingerprint, self.settings.language, seed)


ROWS: dict[str, Second] = {"prefix": "none", "prefix-aape": "aape", "prefix-twice": "image"}
"""Methods by what their last embedding is mapped from."""


def _found(settings: TrainParams) -> LanguageModelName:
    return find_language_model(settings.language.llm, precision=settings.language.precision)


def _maker(name: str) -> Callable[[TrainParams], PrefixMethod]:
    return lambda settings: PrefixMethod(name, ROWS[name], settings, _found(settings))


PREFIX_METHODS: dict[str, Callable[[TrainParams], Any]] = {name: _maker(name) for name in ROWS}
"""A method by name, made from the `train:` settings."""
VQA_METHODS: dict[str, Callable[[TrainParams], Any]] = {
    **PREFIX_METHODS,
    "no-image": lambda settings: NoImage(settings, _found(settings)),
}


def registry(methods: dict[str, Callable[[TrainParams], Any]]) -> Registry:
    """All of them are the standard."""
    return Registry(methods, {"all": tuple(methods), "standard": tuple(methods)})


def with_places(
    methods: Sequence[Any], places: Sequence[str], *, tunable: Sequence[str], learns_here: bool
) -> list[Any]:
    """Each method, and behind it what it becomes with each place where something was learned.

    Args:
        tunable: places whose h can go on learning here.
        learns_here: whether the data set has images to learn from; without any the map is learned at the place too.
    """
    found: list[Any] = []
    for method in methods:
        if not isinstance(method, PrefixMethod):
            found.append(method)
            continue
        if learns_here:
            found.append(method)
        for place in places:
            if not learns_here:
                found.append(replace(method, name=f"{method.name}{AT}{place}", place=place, whole=True))
            elif method.second == "aape":
                found.append(replace(method, name=f"{method.name}{AT}{place}", place=place))
                if place in tunable:
                    found.append(replace(method, name=f"{method.name}-tuned{AT}{place}", place=place, tuned=True))
    return found
