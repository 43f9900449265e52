"""AAPE and the controls that every table shows beside it: the same settings, each with one field changed.

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
from trainer.aape import AAPELearner, Classifier, Learners, distills, rates, schedule
from trainer.data import ClassText, Task, check_width
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.text import TextSource, class_weights
from trainer.training import Candidate, Info, choose, refit

VARIANTS: dict[str, dict[str, Any]] = {
    "aape": {},
    "aape-literal": {"head": "literal"},
    "aape-no-distill": {"lambda": 0.0},
    "aape-no-image": {"image": False},
    "aape-h-only": {"head": "none", "lr_grid": [0.005, 0.002]},
}
"""Fields that a variant changes: g as literally written, no L_distill, h(x) = 0, and h(x) itself as query (table 5).
These are the controls of every table.
"""
FROM_SCRATCH_STEPS = 2000
"""Steps of a variant that does not start at zero-shot: on validation images both still improved after the
residual had stopped. h(x) alone also needs lower rates.
"""


@dataclass
class AAPEPredictor:
    """h and g with the temperature; serves any classes whose text is given, no LLM and no aggregator needed."""

    classifier: Classifier
    tau: float
    class_text: TextSource
    settings: TrainParams
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) / tau for any classes.

        Raises:
            UserError: the images have another width than the classifier was trained on.
        """
        weights = class_weights(text, self.class_text)
        check_width(images.shape[1], weights.shape[1], "the images are", "the class text")
        cosines: Tensor = self.classifier(images, weights)
        return cosines.div_(self.tau)


@dataclass(frozen=True)
class AAPE:
    """AAPE or one of its variants.

    Args:
        name: a key of VARIANTS.
        settings: the `train:` section; the variant's own fields override it.
    """

    name: str
    settings: TrainParams
    serves_new_classes: bool = True

    @classmethod
    def variant(cls, name: str, settings: TrainParams) -> AAPE:
        """The variant of this name under these settings."""
        fields = settings.model_dump(by_alias=True) | VARIANTS[name]
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
        try:
            return self._fit(task, seed)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"out of memory on {task.train.embeddings.device}: lower train.batch (now "
                f"{self.settings.batch or 'the whole set'}) or train.hidden (now {self.settings.hidden}), use fewer "
                "prompts a class, or another --device"
            ) from error

    def _fit(self, task: Task, seed: int) -> AAPEPredictor:
        settings = self.settings
        known = settings.tau if isinstance(settings.tau, float) else None
        task = replace(task, train=task.train.centre_crops())
        start = prepare(task, seed=seed, source=settings.class_text, tau=known)
        learners = Learners(task.text, start.weights, start.tau, settings, seed)
        grid = rates(settings, tau=start.tau)
        candidates = [Candidate(schedule(settings, start.train, lr=lr), learners) for lr in grid]
        best = choose(candidates, start.selection, seed=seed + 2)
        best = refit(best, start.train, start.selection, seed=seed + 2)
        learner = best.learner
        assert isinstance(learner, AAPELearner)
        if learner.joint is not None:
            learners.note(learner.joint.constant(start.train), start.train)
        classifier = learner.classifier.requires_grad_(False).eval()
        count = sum(parameter.numel() for parameter in classifier.parameters())
        chosen = best.info | {"class_text": start.source} | learners.notes
        info = start.info(n_parameters=count, val=best.val, **chosen) | {"tau": learner.tau}
        return AAPEPredictor(classifier, learner.tau, start.source, settings, best.history, info)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, a GPU's, or that of torch's allocator on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
