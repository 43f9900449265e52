"""Classifiers without learning: the class whose text embedding is nearest to the image.

`zero-shot` uses the template ("a photo of a {class}"), `cupl` the normalised mean of the reference prompts (Pratt et
al., "What does a platypus look like?", ICCV 2023). The temperature only matters for probabilities.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.aape.fit import class_weights
from trainer.aape.losses import calibrate_tau
from trainer.data import ClassText, Task, check_task


@dataclass
class TextPredictor:
    """Cosine to the text embedding of each class, over tau."""

    source: str
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: dict[str, float | str | int] = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c) / tau for any classes."""
        return images.float() @ class_weights(text, self.source).T / self.tau


@dataclass(frozen=True)
class TextMethod:
    """`zero-shot` or `cupl`."""

    name: str
    source: Literal["template", "prompts"]
    serves_new_classes: bool = True

    @property
    def uses_prompts(self) -> bool:
        """Whether the prompts, not the template, name the classes."""
        return self.source == "prompts"

    def fit(self, task: Task, *, seed: int) -> TextPredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        check_task(task)
        started = time.perf_counter()
        cosines = task.train.embeddings.float() @ class_weights(task.text, self.source).T
        tau = calibrate_tau(cosines, task.train.labels)
        info: dict[str, float | str | int] = {
            "tau": tau,
            "class_text": self.source,
            "n_parameters": 0,
            "fit_seconds": time.perf_counter() - started,
        }
        return TextPredictor(self.source, tau, info=info)
