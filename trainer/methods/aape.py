"""AAPE and the controls that every table shows beside it: the same settings, each with one field changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from trainer.aape.classifier import Classifier
from trainer.aape.fit import class_weights, fit
from trainer.aape.settings import AAPESettings
from trainer.data import ClassText, Task, check_task

VARIANTS: dict[str, dict[str, Any]] = {
    "aape": {},
    "aape-literal": {"head": "literal"},
    "aape-no-distill": {"lambda_": 0.0},
    "aape-no-image": {"image": False},
    "aape-h-only": {"head": "none", "lr_grid": [0.005, 0.002]},
}
"""Fields that a variant changes: g as literally written, no L_distill, h(x) = 0, and h(x) itself as query (table 5)."""
FROM_SCRATCH_STEPS = 2000
"""Steps of a variant that does not start at zero-shot: on validation images both still improved after the
residual had stopped. h(x) alone also needs lower rates.
"""


@dataclass
class AAPEPredictor:
    """h and g with the temperature; serves any classes whose text is given, no LLM and no aggregator needed."""

    classifier: Classifier
    tau: float
    class_text: str
    settings: AAPESettings
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
        cosines: Tensor = self.classifier(images.float(), weights)
        return cosines / self.tau


@dataclass(frozen=True)
class AAPE:
    """AAPE or one of its variants.

    Args:
        name: a key of VARIANTS.
        settings: the `train:` section; the variant's own fields override it.
    """

    name: str
    settings: AAPESettings
    serves_new_classes: bool = True

    @classmethod
    def variant(cls, name: str, settings: AAPESettings) -> AAPE:
        """The variant of this name under these settings."""
        fields = dict(VARIANTS[name])
        if fields.get("head", settings.head) != "residual":
            fields["max_steps"] = max(settings.max_steps, FROM_SCRATCH_STEPS)
        return cls(name, settings.model_copy(update=fields))

    @property
    def uses_prompts(self) -> bool:
        """Whether prompts enter through L_distill or name the classes."""
        return self.settings.distills or self.settings.class_text != "template"

    def fit(self, task: Task, *, seed: int) -> AAPEPredictor:
        """Learn aggregator, h and g on the shots."""
        check_task(task)
        fitted = fit(task, self.settings, seed=seed)
        return AAPEPredictor(
            fitted.classifier, fitted.tau, fitted.class_text, self.settings, history=fitted.history, info=fitted.info
        )
