"""Steps that undo nothing of zero-shot: the part of the task's gradient against its direction is dropped (ProGrad).

The direction is the gradient of the cross entropy of zero-shot's probabilities and the learner's, which is that of
their KL divergence. Tensor by tensor, as released: with g = general / |general| and a = <task, g>,

    aligned = task - share min(a, 0) g

so that a step along -aligned leads no further from zero-shot, to first order, where share is 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def aligned(task: Float[Tensor, "*shape"], general: Float[Tensor, "*shape"], share: float) -> Float[Tensor, "*shape"]:
    """The task's gradient without this share of what goes against the general direction; as it is where there is none.

    Learners start at zero-shot, where the general gradient is 0 and points nowhere.
    """
    tiny = torch.finfo(general.dtype).tiny
    general = general / general.abs().max().clamp_min(tiny)  # squares of what rounding leaves near zero-shot are 0
    unit = general / torch.linalg.vector_norm(general).clamp_min(tiny)
    against: Tensor = (task * unit).sum().clamp_max(0)
    kept: Tensor = task - share * against * unit
    return kept


class General:
    """The general direction of one step, added up over the parts of its batch.

    Args:
        learner: whose parameters are stepped.
        share: of what goes against it, that is dropped.
    """

    def __init__(self, learner: nn.Module, share: float) -> None:
        self.share = share
        self.parameters = [each for each in learner.parameters() if each.requires_grad]
        self.sums: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, loss: Float[Tensor, ""]) -> None:
        """The gradient of one part's loss; the graph stays for the task's."""
        found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        self.sums = [
            old if new is None else new if old is None else old + new for old, new in zip(self.sums, found, strict=True)
        ]

    def align(self) -> None:
        """Drop from the gradients that the parameters hold now, and begin anew."""
        for parameter, general in zip(self.parameters, self.sums, strict=True):
            if parameter.grad is not None and general is not None:
                parameter.grad = aligned(parameter.grad, general, self.share)
        self.sums = [None] * len(self.parameters)
