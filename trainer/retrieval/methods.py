"""The methods of retrieval: raw cosines, AAPE learnt from captions, a ridge map, and blends with the image itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from stages.training import TrainParams
from trainer.aape.captions import CaptionAAPE, calibrate_pair_tau, fit_captions, fit_captions_twice, pair_score
from trainer.data.pairs import CaptionTask, Pairs, select_pairs
from trainer.training import Info, Score

AT = "@"
"""Between a method and the data set that it was learnt on, where that is another one: `aape@coco`."""
STRENGTHS = tuple(10.0**k for k in range(-4, 3))
"""Ridge strengths that are tried, as a share of the mean eigenvalue of the images' covariance."""
SAME = 1e-12
"""Mean eigenvalue of the covariance of unit vectors below which they are one vector but for rounding."""
WEIGHTS = tuple(i / 20 for i in range(21))
"""Weights of the learnt query in a blend."""


class CaptionPredictor(Protocol):
    """A fitted method.

    Attributes:
        history: one record an epoch; empty where nothing is iterated.
        info: what was chosen.
    """

    history: list[dict[str, float]]
    info: Info

    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The query of each image, unit rows in the space of the captions."""
        ...


class CaptionMethod(Protocol):
    """A way to make queries of images.

    Attributes:
        name: as on the command line and in tables.
        learns: whether it is fitted on the images of the data set itself.
    """

    @property
    def name(self) -> str: ...

    @property
    def learns(self) -> bool: ...

    def fit(self, task: CaptionTask, *, seed: int) -> CaptionPredictor:
        """Fit on images with captions; the same seed gives the same predictor."""
        ...


@dataclass
class Raw:
    """The image embedding itself.

    Attributes:
        merges: whether each image's captions are matched as one, their mean.
    """

    merges: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The images."""
        return x.float()


@dataclass(frozen=True)
class RawCosines:
    """Nothing is learned: the encoder's own cosines (`zero-shot`).

    Args:
        merges: each image's captions stand in the gallery, and as a query, as one: their mean. Another question, and
            an easier one: whoever asks gives all captions at once.
    """

    name: str
    merges: bool = False
    learns: bool = False

    def fit(self, task: CaptionTask, *, seed: int) -> Raw:
        """Nothing to fit."""
        return Raw(self.merges)


REMEMBERED = 32
"""Fits that are remembered: those of several methods on the parts of a cross-validation."""
_LAST: dict[tuple[bytes, str, str | None, int], tuple[CaptionAAPE, CaptionAAPE]] = {}


@dataclass(frozen=True)
class FromCaptions:
    """AAPE learnt from captions, h(x) as the query as in the paper (protocol 5).

    Args:
        start: a place of the task's `elsewhere` whose h is gone on from; None starts anew.
    """

    name: str
    settings: TrainParams
    start: str | None = None
    learns: bool = True

    def fit(self, task: CaptionTask, *, seed: int) -> CaptionAAPE:
        """Learn aggregator and h."""
        return self.fit_twice(task, seed=seed)[1]

    def fit_twice(self, task: CaptionTask, *, seed: int) -> tuple[CaptionAAPE, CaptionAAPE]:
        """The fit without the images to choose by, and the fit; the last ones are remembered, for blends."""
        key = task.digest, self.settings.model_dump_json(), self.start, seed
        if key not in _LAST:
            _LAST[key] = self._fit(task, seed)
            while len(_LAST) > REMEMBERED:
                del _LAST[next(iter(_LAST))]
        return _LAST[key]

    def _fit(self, task: CaptionTask, seed: int) -> tuple[CaptionAAPE, CaptionAAPE]:
        start = None
        if self.start is not None:
            there = task.elsewhere[self.start]
            start = fit_captions(there, self.settings, seed=seed) if isinstance(there, CaptionTask) else there
        return fit_captions_twice(task, self.settings, seed=seed, start=start)


@dataclass(frozen=True)
class LearntElsewhere:
    """A method that is fitted on another data set, and serves this one as it is (zero-shot).

    Args:
        place: a name of the task's `elsewhere`.
    """

    of: Any
    place: str
    learns: bool = False

    @property
    def name(self) -> str:
        """The method and where it was learned."""
        return f"{self.of.name}{AT}{self.place}"

    def fit(self, task: CaptionTask, *, seed: int) -> Any:
        """Fit it there, or take what was learned there."""
        there = task.elsewhere[self.place]
        return self.of.fit(there, seed=seed) if isinstance(there, CaptionTask) else there


@dataclass
class LinearMap:
    """normalise((x - image_mean) map + text_mean)."""

    map: Float[Tensor, "D D"]
    image_mean: Float[Tensor, " D"]
    text_mean: Float[Tensor, " D"]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The mapped images, unit rows."""
        return normalize((x.float() - self.image_mean) @ self.map + self.text_mean, dim=-1)


@dataclass(frozen=True)
class Ridge:
    """A ridge map from image to the mean of its captions, in closed form; its strength is chosen by validation."""

    name: str = "ridge"
    learns: bool = True

    def fit(self, task: CaptionTask, *, seed: int) -> LinearMap:
        """Solve for each strength, and again on all images where some were held out."""
        return self.fit_twice(task, seed=seed)[1]

    def fit_twice(self, task: CaptionTask, *, seed: int) -> tuple[LinearMap, LinearMap]:
        """The fit without the images to choose by, and the fit."""
        began = time.perf_counter()
        selection = select_pairs(task, seed=seed)
        tau = calibrate_pair_tau(task.train, seed=seed)
        maps = list(solve(selection.train, STRENGTHS))
        scores = [_score(each, selection.val, tau) for each in maps]
        place = len(maps) // 2 if selection.val is None else scores.index(max(scores))
        before = fitted = maps[place]
        if selection.held_out:
            fitted = next(solve(task.train, [STRENGTHS[place]]))
        for each in (before, fitted):
            each.info |= {"strength": STRENGTHS[place], **_chosen(scores[place], selection.val)}
            each.info |= {"selection": selection.note, "n_parameters": each.map.numel()}
            each.info["fit_seconds"] = time.perf_counter() - began
        return before, fitted


def solve(pairs: Pairs, strengths: Sequence[float]) -> Iterator[LinearMap]:
    """(X'X + a I)^-1 X'T of centred images and means of captions, in float64, for each strength.

    a is the strength times the mean eigenvalue of X'X / B; images that are all the same teach no map, and get the mean
    of the captions. Fewer images than D are solved for in B x B, which gives the
    same map; more are added up tile by tile, in flat memory.
    """
    width, n = pairs.images.width, len(pairs)
    if n < width:
        x, t = pairs.images.all().double(), torch.cat([each.mean() for each in pairs.batches(1024)]).double()
        x_mean, t_mean = x.mean(0), t.mean(0)
        x, t = x - x_mean, t - t_mean
        values, vectors = torch.linalg.eigh(x @ x.T / n)
        left, right = x.T @ vectors / n, vectors.T @ t
    else:
        xx, xt = (torch.zeros(width, width, dtype=torch.float64, device=pairs.device) for _ in range(2))
        x_sum, t_sum = (torch.zeros(width, dtype=torch.float64, device=pairs.device) for _ in range(2))
        for batch in pairs.batches(1024):
            x, t = batch.images.double(), batch.mean().double()
            xx, xt, x_sum, t_sum = xx + x.T @ x, xt + x.T @ t, x_sum + x.sum(0), t_sum + t.sum(0)
        x_mean, t_mean = x_sum / n, t_sum / n
        values, vectors = torch.linalg.eigh(xx / n - torch.outer(x_mean, x_mean))
        left, right = vectors, vectors.T @ (xt / n - torch.outer(x_mean, t_mean))
    unit = values.clamp_min(0).sum() / width
    for strength in strengths:
        found = left @ (right / (values + strength * unit)[:, None]) if unit > SAME else torch.zeros_like(left @ right)
        yield LinearMap(found.float(), x_mean.float(), t_mean.float())


@dataclass
class Blended:
    """normalise((1 - weight) x + weight q(x)) of the query q of another method."""

    inner: Any
    weight: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The blended queries, unit rows."""
        return normalize((1 - self.weight) * x.float() + self.weight * self.inner.embed(x), dim=-1)


@dataclass(frozen=True)
class Blend:
    """This project's own: the image and a learnt query in one, with a weight that is chosen on validation images.

    Where images had to be held out of the training images for it, the weight is chosen with a query that was fitted
    without them, and holds for the one that is then fitted on all.

    Args:
        of: the method that makes the query.
    """

    name: str
    of: FromCaptions | Ridge
    learns: bool = True

    def fit(self, task: CaptionTask, *, seed: int) -> Blended:
        """Fit the query, then choose the weight."""
        began = time.perf_counter()
        selection = select_pairs(task, seed=seed)
        if selection.val is None:
            inner = self.of.fit(task, seed=seed)
            return Blended(inner, 0.5, inner.history, {**inner.info, "weight": 0.5})
        before, inner = self.of.fit_twice(task, seed=seed)
        tau = calibrate_pair_tau(task.train, seed=seed)
        found = [(_score(each, selection.val, tau), -each.weight) for each in (Blended(before, w) for w in WEIGHTS)]
        score, weight = max(found)
        info = {**inner.info, **_chosen(score, selection.val), "weight": -weight, "selection": selection.note}
        return Blended(inner, -weight, inner.history, info | {"fit_seconds": time.perf_counter() - began})


def _score(predictor: CaptionPredictor, val: Pairs | None, tau: float) -> Score:
    return (0.0, 0.0) if val is None else pair_score(predictor.embed, val, tau)


def _chosen(score: Score, val: Pairs | None) -> Info:
    return {} if val is None else {"val_likelihood": score[0], "val_loss": -score[1]}


VARIANTS: dict[str, dict[str, Any]] = {
    "aape": {},
    "aape-mean": {"aggregator": "mean"},
    "aape-no-distill": {"lambda": 0.0},
    "aape-chain": {"chain": 3},
}
"""Fields that a variant changes: p^a is the mean of the captions (table 4), no L_distill, and a chain of generators in
the place of h (`trainer.aape.generator.Chain`).
"""


def _aape(name: str, settings: TrainParams) -> FromCaptions:
    fields = settings.model_dump(by_alias=True) | VARIANTS[name]
    return FromCaptions(name, TrainParams.model_validate(fields))


CAPTION_METHODS: dict[str, Callable[[TrainParams], CaptionMethod]] = {
    "aape": lambda settings: _aape("aape", settings),
    "aape-mean": lambda settings: _aape("aape-mean", settings),
    "aape-no-distill": lambda settings: _aape("aape-no-distill", settings),
    "aape-chain": lambda settings: _aape("aape-chain", settings),
    "aape-blend": lambda settings: Blend("aape-blend", _aape("aape", settings)),
    "ridge": lambda _: Ridge(),
    "ridge-blend": lambda _: Blend("ridge-blend", Ridge()),
    "zero-shot": lambda _: RawCosines("zero-shot"),
    "caption-mean": lambda _: RawCosines("caption-mean", merges=True),
}
"""A method by name, made from the `train:` settings."""
GROUPS = {
    "all": tuple(name for name in CAPTION_METHODS if name != "aape-chain"),
    "family": ("zero-shot", "aape", "aape-no-distill", "aape-chain"),
    "standard": ("aape", "aape-no-distill", "aape-blend", "ridge", "ridge-blend", "zero-shot", "caption-mean"),
}
"""Names that stand for several methods."""


def elsewhere(method: CaptionMethod, place: str, *, fitted: bool) -> list[CaptionMethod]:
    """What a method becomes with another data set: fitted there and served as it is, and for AAPE also gone on from.

    Args:
        fitted: the place is no data set but an h that was fitted there.
    """
    if isinstance(method, FromCaptions) and method.name == "aape":
        tuned = FromCaptions(f"aape-tuned{AT}{place}", method.settings, start=place)
        return [LearntElsewhere(method, place), tuned]
    return [LearntElsewhere(method, place)] if isinstance(method, Ridge) and not fitted else []
