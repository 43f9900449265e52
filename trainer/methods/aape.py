"""AAPE and the controls that every table shows beside it: the same settings, each with one field changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape.classifier import Classifier
from trainer.aape.fit import fit
from trainer.data import ClassText, Task, check_task
from trainer.text import TextSource, class_weights

VARIANTS: dict[str, dict[str, Any]] = {
    "aape": {},
    "aape-literal": {"head": "literal"},
    "aape-no-distill": {"lambda_": 0.0},
    "aape-no-image": {"image": False},
    "aape-h-only": {"head": "none", "lr_grid": [0.005, 0.002]},
}
"""Fields that a variant changes: g as literally written, no L_distill, h(x) = 0, and h(x) itself as query (table 5).
These are the controls of every table.
"""
STUDIES: dict[str, dict[str, Any]] = {
    "aape-full": {"head": "full", "lr_grid": [0.02, 0.005]},
    "aape-mean": {"aggregator": "mean"},
    "aape-mlp": {"aggregator": "mlp"},
    "aape-random": {"aggregator": "random"},
    "aape-query-image": {"query": "image"},
    "aape-query-mean-image": {"query": "mean+image"},
    "aape-joint": {"detach": False},
    "aape-learnt-tau": {"tau": "learnt"},
    "aape-distill-class": {"distill_by": "class", "batch": 0},
    "aape-adamw": {"optimizer": "adamw", "lr_grid": [3e-3, 1e-3, 3e-4]},
}
"""Variants for studies, known by name and no part of `all`: g as one full layer, the aggregators of table 4, what the
attention's query sees, the aggregator trained beside h, and other ways to train.
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
    info: dict[str, float | str | int] = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) / tau for any classes.

        Raises:
            UserError: the images have another width than the classifier was trained on.
        """
        weights = class_weights(text, self.class_text)
        if images.shape[1] != weights.shape[1]:
            raise UserError(
                f"the images are {images.shape[1]} wide and the class text {weights.shape[1]}: "
                "embed both with the same encoder"
            )
        cosines: Tensor = self.classifier(images, weights)
        return cosines.div_(self.tau)


@dataclass(frozen=True)
class AAPE:
    """AAPE or one of its variants.

    Args:
        name: a key of VARIANTS or STUDIES.
        settings: the `train:` section; the variant's own fields override it.
    """

    name: str
    settings: TrainParams
    serves_new_classes: bool = True

    @classmethod
    def variant(cls, name: str, settings: TrainParams) -> AAPE:
        """The variant of this name under these settings."""
        fields = dict((VARIANTS | STUDIES)[name])
        if fields.get("head", settings.head) != "residual":
            fields["max_steps"] = max(settings.max_steps, FROM_SCRATCH_STEPS)
        return cls(name, settings.model_copy(update=fields))

    @property
    def uses_prompts(self) -> bool:
        """Whether prompts enter through L_distill or name the classes."""
        return self.settings.distills or self.settings.class_text in ("auto", "prompts")

    def fit(self, task: Task, *, seed: int) -> AAPEPredictor:
        """Learn aggregator, h and g on the shots.

        Raises:
            UserError: a task that cannot be learned from, every learning rate diverges, or the memory is too small.
        """
        check_task(task)
        try:
            fitted = fit(task, self.settings, seed=seed)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"out of memory on {task.train.embeddings.device}: lower train.batch (now "
                f"{self.settings.batch or 'the whole set'}) or train.hidden (now {self.settings.hidden}), use fewer "
                "prompts a class, or another --device"
            ) from error
        return AAPEPredictor(
            fitted.classifier, fitted.tau, fitted.class_text, self.settings, history=fitted.history, info=fitted.info
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's own, a GPU's, or that of torch's allocator on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
