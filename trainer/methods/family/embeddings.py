"""What the systems share that learn the class embeddings themselves: the embeddings, and their choice."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import Images
from trainer.methods.common import Prepared, class_sums
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Learner, Trained, choose, refit

BATCH = 256
STEPS = 300
"""Most steps of a run."""


class Embeddings(Learner):
    """One free embedding a class: logits are cos(x, e_c) / tau.

    Args:
        start: unit text embeddings; None begins at the mean of each class's images.
    """

    def __init__(self, start: Float[Tensor, "C D"] | None, classes: int, tau: float, images: Images) -> None:
        super().__init__()
        self.tau = tau
        self.own = nn.Parameter(normalize(class_sums(images, classes), dim=-1) if start is None else start.clone())

    def unit(self) -> Float[Tensor, "C D"]:
        """e_c / |e_c|."""
        return normalize(self.own, dim=-1)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """cos(x, e_c) / tau."""
        return images @ (self.unit() / self.tau).T


def chosen(candidates: Sequence[Candidate], start: Prepared, *, seed: int) -> Trained:
    """The best candidate on the images to choose by, trained on all shots."""
    return refit(choose(candidates, start.selection, seed=seed), start.train, start.selection, seed=seed)


def served(best: Trained, start: Prepared) -> LinearPredictor:
    """The learned embeddings as a linear classifier of the fitted classes."""
    assert isinstance(best.learner, Embeddings)
    weight = best.learner.unit().detach() / start.tau
    info = start.info(n_parameters=weight.numel(), val=best.val, **best.info)
    return LinearPredictor(start.names, weight, weight.new_zeros(len(weight)), best.history, info)
