"""AAPE, the controls that every table shows beside it, and its class-wise form: the same settings, each with a field
changed.

Any other choice is a setting of the `train:` section: a recipe in `studies/` varies them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape import AAPELearner, Classifier, Learners, Start, distills, rates, schedule
from trainer.aape.classwise import MULTIPLES, STRENGTHS, Choice, Residuals, choose_residuals
from trainer.data import ClassText, Task, check_width
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.common import Prepared, prepare
from trainer.text import TextSource, class_weights
from trainer.training import Candidate, Info, Trained, choose, refit

VARIANTS: dict[str, dict[str, Any]] = {
    "aape": {},
    "aape-literal": {"head": "literal"},
    "aape-no-distill": {"lambda": 0.0},
    "aape-no-image": {"image": False},
    "aape-h-only": {"head": "none", "lr_grid": [0.005, 0.002]},
    "aape-classwise": {"classwise": True},
}
"""Fields that a variant changes: g as literally written, no L_distill, h(x) = 0, and h(x) itself as query (table 5),
which are the controls of every table; and a residual of each class's own, which is not the paper's.
"""
FROM_SCRATCH_STEPS = 2000
"""Steps of a variant that does not start at zero-shot: on validation images both still improved after the
residual had stopped. h(x) alone also needs lower rates.
"""


@dataclass
class AAPEPredictor:
    """h and g with the temperature; serves any classes whose text is given, no LLM and no aggregator needed.

    Attributes:
        names: the fitted classes, in the order of the rows of `own`.
        own: the residual of each; None where the method has none.
    """

    classifier: Classifier
    tau: float
    class_text: TextSource
    settings: TrainParams
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)
    names: tuple[str, ...] = ()
    own: Float[Tensor, "fitted D"] | None = None

    def class_weights(self, text: ClassText) -> tuple[Float[Tensor, "C D"], Float[Tensor, "C D"]]:
        """w_c, which g reads, and what its residual is added to: w_c and, of a fitted class, its own residual."""
        weights = class_weights(text, self.class_text)
        if self.own is None:
            return weights, weights
        if text.names == self.names:
            return weights, weights + self.own
        row = {name: i for i, name in enumerate(self.names)}
        fitted = torch.tensor([row.get(name, -1) for name in text.names], device=weights.device)
        base = weights.clone()
        base[fitted >= 0] += self.own[fitted[fitted >= 0]]
        return weights, base

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) / tau for any classes.

        Raises:
            UserError: the images have another width than the classifier was trained on.
        """
        weights, base = self.class_weights(text)
        check_width(images.shape[1], weights.shape[1], "the images are", "the class text")
        cosines: Tensor = self.classifier(images, weights, base)
        return cosines.div_(self.tau)


@dataclass(frozen=True)
class AAPE:
    """AAPE or one of its variants.

    Args:
        name: a key of VARIANTS, or of a system that is AAPE with other settings.
        settings: the `train:` section; the variant's own fields override it.
    """

    name: str
    settings: TrainParams
    serves_new_classes: bool = True

    @classmethod
    def variant(cls, name: str, settings: TrainParams, **changed: Any) -> AAPE:
        """The variant of this name under these settings, with what VARIANTS or `changed` says."""
        fields = settings.model_dump(by_alias=True) | VARIANTS.get(name, changed)
        if fields["head"] != "residual":
            fields["max_steps"] = max(settings.max_steps, FROM_SCRATCH_STEPS)
        return cls(name, TrainParams.model_validate(fields))

    @property
    def needs(self) -> Needs:
        """Prompts, unless the settings leave them out."""
        return "prompts" if self.uses_prompts else "text"

    @property
    def uses_prompts(self) -> bool:
        """Whether prompts enter through L_distill or name the classes."""
        return distills(self.settings) or self.settings.class_text in ("auto", "prompts")

    def fit(self, task: Task, *, seed: int) -> AAPEPredictor:
        """Learn aggregator, h and g on the shots.

        Raises:
            UserError: a task that cannot be learned from, every learning rate diverges, or the memory is too small.
        """
        return self.fit_from(None, task, seed=seed)

    def fit_from(self, start: Start | None, task: Task, *, seed: int) -> AAPEPredictor:
        """Likewise, from h and g that were learnt before; None begins at the seed's start values."""
        try:
            return self._fit(task, seed, start)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"out of memory on {task.train.embeddings.device}: lower train.batch (now "
                f"{self.settings.batch or 'the whole set'}) or train.hidden (now {self.settings.hidden}), use fewer "
                "prompts a class, or another --device"
            ) from error

    def _fit(self, task: Task, seed: int, begin: Start | None) -> AAPEPredictor:
        settings = self.settings
        known = settings.tau if isinstance(settings.tau, float) else None
        task = replace(task, train=task.train.centre_crops())
        start = prepare(task, seed=seed, source=settings.class_text, tau=known)
        learners = Learners(task.text, start.weights, start.tau, settings, seed, start=begin)
        grid = rates(settings, tau=start.tau)
        candidates = [Candidate(schedule(settings, start.train, lr=lr), learners) for lr in grid]
        best = choose(candidates, start.selection, seed=seed + 2)
        choice = self._choose_own(best, start)
        best = refit(best, start.train, start.selection, seed=seed + 2)
        learner = best.learner
        assert isinstance(learner, AAPELearner)
        if learner.joint is not None:
            learners.note(learner.joint.constant(start.train), start.train)
        classifier = learner.classifier.requires_grad_(False).eval()
        count = sum(parameter.numel() for parameter in classifier.parameters())
        chosen, val, own = best.info | {"class_text": start.source} | learners.notes, best.val, None
        if choice is not None:
            own = Residuals(start.train, classifier, start.weights, learner.tau)(choice.strength, choice.multiple)
            chosen |= {"strength": choice.strength, "multiple": choice.multiple}
            if val is not None:
                chosen |= at_end(strength=(choice.strength, STRENGTHS), multiple=(choice.multiple, MULTIPLES))
                val = choice.accuracy, -choice.loss
            count += own.numel()
        info = start.info(n_parameters=count, val=val, **chosen) | {"tau": learner.tau}
        names = () if own is None else start.names
        return AAPEPredictor(classifier, learner.tau, start.source, settings, best.history, info, names, own)

    def _choose_own(self, best: Trained, start: Prepared) -> Choice | None:
        """How the classes' own residuals are made, with the classifier that was learned while choosing; None: not."""
        if not self.settings.classwise or self.settings.head != "residual":
            return None
        selection, learner = start.selection, best.learner
        if selection.val is None:
            return Choice()
        assert isinstance(learner, AAPELearner)
        residuals = Residuals(selection.train, learner.classifier, start.weights, learner.tau)
        return choose_residuals(residuals, learner.classifier, start.weights, selection.val)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, a GPU's, or that of torch's allocator on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
