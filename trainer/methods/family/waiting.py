"""What a method of unlabelled images is in `transductive`: zero-shot, until the images come that are to be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Unlabelled
from trainer.methods.common import Prepared
from trainer.methods.linear import require_fitted
from trainer.text import label_free_tau
from trainer.training import Info

SAW = "images of the test split, no labels"
"""What a method says of itself in the tables that adapts to the images that are judged."""

Learn = Callable[[Unlabelled, float], Float[Tensor, "B C"]]
"""Images without labels or views, and tau -> their scores, after learning from them."""


@dataclass
class WaitingPredictor:
    """Zero-shot, until it sees images without labels: `split_logits` learns from all of them, then judges them.

    Attributes:
        calibrated: whether tau comes from labelled images; else it is found on those that come.
    """

    names: tuple[str, ...]
    weights: Float[Tensor, "C D"]
    tau: float
    calibrated: bool
    learn: Learn
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Zero-shot scores of the fitted classes."""
        require_fitted(self.names, text)
        return images.float() @ self.weights.T / self.tau

    def split_logits(self, images: Unlabelled, text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of all images, after learning from them without their labels."""
        require_fitted(self.names, text)
        seen = Unlabelled(images.embeddings.float())
        return self.learn(seen, self.tau if self.calibrated else label_free_tau(seen.embeddings @ self.weights.T))


def waiting(start: Prepared, learn: Learn, *, n_parameters: int) -> WaitingPredictor:
    """The predictor of a task whose unlabelled images are still to come."""
    info = start.info(n_parameters=n_parameters, val=None, saw=SAW)
    return WaitingPredictor(start.names, start.weights, start.tau, len(start.train) > 0, learn, info=info)
