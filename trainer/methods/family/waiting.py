"""What a method of unlabelled images is in `transductive`: zero-shot, until the images come that are to be judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.data import ClassText, Images, Unlabelled
from trainer.methods.common import Prepared
from trainer.methods.linear import require_fitted
from trainer.text import label_free_tau
from trainer.training import Info

SAW = "images of the test split, no labels"
"""What a method says of itself in the tables that adapts to the images that are judged."""


@dataclass(kw_only=True)
class WaitingPredictor(ABC):
    """Zero-shot, until it sees images without labels: `split_logits` learns from all of them, then judges them.

    Attributes:
        shots, labels: the labelled images; where there are some, tau comes from them, else from the images that come.
    """

    names: tuple[str, ...]
    weights: Float[Tensor, "C D"]
    tau: float
    seed: int
    shots: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @abstractmethod
    def learned(self, images: Unlabelled, shots: Images, tau: float) -> Float[Tensor, "B C"]:
        """Scores of these images, after learning from them without their labels."""

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Zero-shot scores of the fitted classes."""
        require_fitted(self.names, text)
        return images.float() @ self.weights.T / self.tau

    def split_logits(self, images: Unlabelled, text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of all images, after learning from them without their labels."""
        require_fitted(self.names, text)
        seen = Unlabelled(images.embeddings.float())
        tau = self.tau if len(self.shots) else label_free_tau(seen.embeddings @ self.weights.T)
        return self.learned(seen, Images(self.shots, self.labels), tau)


def waits(start: Prepared, *, seed: int, n_parameters: int) -> dict[str, Any]:
    """The fields of a predictor whose unlabelled images are still to come."""
    return {
        "names": start.names, "weights": start.weights, "tau": start.tau, "seed": seed,
        "shots": start.train.embeddings, "labels": start.train.labels,
        "info": start.info(n_parameters=n_parameters, val=None, saw=SAW),
    }  # fmt: skip
