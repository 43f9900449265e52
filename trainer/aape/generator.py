"""The prompt generator h(x) (section 3.3): two bias-free layers with a bottleneck of 32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.training import uniform


class Generator(nn.Module):
    """h(x) = U2 relu(U1 x): 2 D hidden parameters, 32,768 at D = 512 as published.

    Args:
        width: D.
        hidden: entries of the bottleneck.
        rng: source of the start values.
    """

    def __init__(self, *, width: int, hidden: int, rng: torch.Generator) -> None:
        super().__init__()
        self.down = uniform(hidden, width, rng=rng)
        self.up = uniform(width, hidden, rng=rng)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The generated prompt embedding of each image; not normalised."""
        return torch.relu(images @ self.down.T) @ self.up.T
