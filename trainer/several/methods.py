"""What `multitask` and `meta` compare: AAPE over several data sets, its controls, and methods that learn alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape import Start
from trainer.data import ClassText, Task
from trainer.methods import CLASSIFIERS, Predictor, Registry
from trainer.methods.aape import AAPE, AAPEPredictor
from trainer.methods.base import Method, Needs
from trainer.several.joint import JointLearner, Starts, learn_jointly
from trainer.several.meta import learn_start
from trainer.several.tasks import SeveralTask
from trainer.training import Info


@dataclass
class SeveralPredictor:
    """A predictor of each data set.

    Attributes:
        parts: data set -> its predictor.
        own: the data set that the run is of.
        names: data set -> the classes that it was fitted on.
    """

    parts: dict[str, Predictor]
    own: str
    names: dict[str, tuple[str, ...]]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def of(self, dataset: str) -> Predictor:
        """The predictor of a data set."""
        return self.parts[dataset]

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores by the predictor of the data set whose classes these are.

        Raises:
            UserError: they are no data set's.
        """
        for name, part in self.parts.items():
            if self.names[name] == text.names:
                return part.logits(images, text)
        raise UserError(f"fitted on the classes of {', '.join(self.parts)}, and these {len(text)} are of none of them")


def _several(
    task: SeveralTask, parts: Mapping[str, Predictor], started: float, **chosen: float | str
) -> SeveralPredictor:
    """With the records of the own data set's predictor, where it has one."""
    own = parts[task.own]
    info: Info = {**own.info, **chosen, "fit_seconds": time.perf_counter() - started}
    names = {name: task.tasks[name].text.names for name in parts}
    return SeveralPredictor(dict(parts), task.own, names, list(own.history), info)


@dataclass(frozen=True)
class LearnsAAPE:
    """A name, and AAPE with these settings: what is learnt over several data sets."""

    name: str
    settings: TrainParams

    @property
    def method(self) -> AAPE:
        """What is learnt."""
        return AAPE.variant("aape", self.settings)

    @property
    def needs(self) -> Needs:
        """As AAPE."""
        return self.method.needs

    @property
    def uses_prompts(self) -> bool:
        """As AAPE."""
        return self.method.uses_prompts


@dataclass(frozen=True)
class MVLPT(LearnsAAPE):
    """Multitask vision-language prompt tuning: one h and g over all data sets, then adapted to each.

    Attributes:
        adapts: whether each set's shots alone come last; else all are served by what was learnt together.
        alone: the control: the same steps twice, on each set alone.
    """

    adapts: bool = True
    alone: bool = False
    serves_new_classes: bool = False

    def fit(self, task: SeveralTask, *, seed: int) -> SeveralPredictor:
        """Learn over all sets, then on each."""
        started = time.perf_counter()
        if self.alone:
            parts = {name: self._parts({name: each}, seed)[name] for name, each in task.tasks.items()}
        else:
            parts = self._parts(task.tasks, seed)
        return _several(task, parts, started)

    def _parts(self, tasks: Mapping[str, Task], seed: int) -> dict[str, AAPEPredictor]:
        starts = Starts.of(tasks, self.settings, seed=seed)
        joint = learn_jointly(starts, seed=seed)
        learner = joint.learner
        assert isinstance(learner, JointLearner)
        classifier = learner.classifier.requires_grad_(False)
        if self.adapts:
            return {name: self.method.fit_from(Start(classifier), each, seed=seed) for name, each in tasks.items()}
        found = {}
        for (name, start), part in zip(starts.prepared.items(), learner.learners, strict=True):
            count = sum(p.numel() for p in classifier.parameters())
            info = start.info(n_parameters=count, val=None, **joint.info) | {"class_text": start.source}
            found[name] = AAPEPredictor(classifier, part.tau, start.source, self.settings, joint.history, info)
        return found


@dataclass(frozen=True)
class FromOthers(LearnsAAPE):
    """A start of h and g learnt over the other data sets, then AAPE's own steps on this one.

    Attributes:
        kind: `meta` a meta-learnt start with gates (GRAM), `plain` without gates (FOMAML), `joint` h and g learnt over
            the others together (the transferable start of MVLPT), `none` the control without one.
    """

    kind: str = "none"
    serves_new_classes: bool = False

    def fit(self, task: SeveralTask, *, seed: int) -> SeveralPredictor:
        """Learn the start on the others alone, then descend on this set's shots."""
        started = time.perf_counter()
        start, chosen = self._start(task, seed)
        found = self.method.fit_from(start, task.tasks[task.own], seed=seed)
        return _several(task, {task.own: found}, started, **chosen)

    def _start(self, task: SeveralTask, seed: int) -> tuple[Start | None, dict[str, float | str]]:
        if self.kind == "none":
            return None, {}
        starts = Starts.of(task.others, self.settings, seed=seed)
        about: dict[str, float | str] = {"learnt_on": ", ".join(task.others)}
        if self.kind == "joint":
            learner = learn_jointly(starts, seed=seed).learner
            assert isinstance(learner, JointLearner)
            return Start(learner.classifier.requires_grad_(False)), about
        meta = learn_start(starts, seed=seed, regulated=self.kind == "meta")
        about["meta_round"] = meta.round
        if meta.start.gates is not None:
            entries = torch.cat([value.flatten() for value in meta.start.gates.values()])
            about |= {"gate_mean": float(entries.mean()), "gate_least": float(entries.min())}
        return meta.start, about


@dataclass(frozen=True)
class Each:
    """A method that learns on each data set alone.

    Attributes:
        inner: the method.
        others: whether on the other data sets too.
    """

    inner: Method
    others: bool

    @property
    def name(self) -> str:
        """The inner one's."""
        return self.inner.name

    @property
    def needs(self) -> Needs:
        """The inner one's."""
        return self.inner.needs

    @property
    def uses_prompts(self) -> bool:
        """The inner one's."""
        return self.inner.uses_prompts

    @property
    def serves_new_classes(self) -> bool:
        """What is judged are the fitted classes."""
        return False

    def fit(self, task: SeveralTask, *, seed: int) -> SeveralPredictor:
        """Fit on each."""
        started = time.perf_counter()
        tasks = task.tasks if self.others else {task.own: task.tasks[task.own]}
        return _several(task, {name: self.inner.fit(each, seed=seed) for name, each in tasks.items()}, started)


REFERENCES = ("aape", "aape-plus", "gda", "zero-shot")
"""Methods that both protocols show beside their own."""


def _each(name: str, *, others: bool) -> Callable[[TrainParams], Each]:
    return lambda settings: Each(CLASSIFIERS.methods[name](settings), others)


_MULTITASK: dict[str, Callable[[TrainParams], MVLPT | Each]] = {
    "multitask": lambda settings: MVLPT("multitask", settings),
    "multitask-shared": lambda settings: MVLPT("multitask-shared", settings, adapts=False),
    "multitask-alone": lambda settings: MVLPT("multitask-alone", settings, alone=True),
    **{name: _each(name, others=True) for name in REFERENCES},
}
_META: dict[str, Callable[[TrainParams], FromOthers | Each]] = {
    "meta-start": lambda settings: FromOthers("meta-start", settings, "meta"),
    "meta-start-plain": lambda settings: FromOthers("meta-start-plain", settings, "plain"),
    "joint-start": lambda settings: FromOthers("joint-start", settings, "joint"),
    "aape": lambda settings: FromOthers("aape", settings, "none"),
    **{name: _each(name, others=False) for name in REFERENCES if name != "aape"},
}
MULTITASK = Registry(_MULTITASK, dict.fromkeys(("all", "standard", "family"), tuple(_MULTITASK)))
META = Registry(_META, dict.fromkeys(("all", "standard", "family"), tuple(_META)))
"""What each protocol can judge; every group stands for all."""
