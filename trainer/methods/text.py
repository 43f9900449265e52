"""Classifiers that need no image: the cosine to a text embedding of each class, over a calibrated temperature.

`zero-shot` takes the first template ("a photo of a {class}"), `template-ensemble` the mean of all templates of the data
set (Radford et al. 2021, section 3.1.4; the same thing where there is one), `cupl` the mean of the reference prompts
(Pratt et al., "What does a platypus look like?", ICCV 2023). tau only matters for probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Task
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.text import TextSource, class_weights
from trainer.training import Info, judge


@dataclass
class TextPredictor:
    """Cosine to the text embedding of each class, over tau."""

    source: TextSource
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c) / tau for any classes."""
        return images.float() @ class_weights(text, self.source).T / self.tau


@dataclass(frozen=True)
class TextMethod:
    """`zero-shot`, `template-ensemble` or `cupl`."""

    name: str
    source: TextSource
    serves_new_classes: bool = True

    @property
    def needs(self) -> Needs:
        """What names the classes."""
        return "prompts" if self.uses_prompts else "text"

    @property
    def uses_prompts(self) -> bool:
        """Whether the prompts, not the template, name the classes."""
        return self.source == "prompts"

    def fit(self, task: Task, *, seed: int) -> TextPredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        start = prepare(task, seed=seed, source=self.source)
        val = start.selection.val
        score = None if val is None else judge(val.embeddings @ start.weights.T / start.tau, val.labels)
        info = start.info(n_parameters=0, val=score, class_text=self.source)
        return TextPredictor(self.source, start.tau, info=info)
