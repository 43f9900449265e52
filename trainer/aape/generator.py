"""The prompt generator h(x) (section 3.3): two bias-free layers with a bottleneck of 32; and a chain of them."""

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


class Chain(nn.Module):
    """h_1(x) = G_1(x), then step by step h_j(x) = (1 - s_j) h_{j-1}(x) + s_j G_j(x + h_{j-1}(x)); h is the last.

    G_j is a generator, s_j(x) = sigmoid(gate_j . x + bias_j) how much of step j this image takes: half at the start.
    Chain of thought prompt tuning (Ge et al., arXiv 2304.07919): each prompt goes on from the one before, and a
    controller that sees the image weighs the steps. There the steps are biases of context tokens before a text encoder.

    Args:
        steps: generators, two at least; one is `Generator`.
    """

    def __init__(self, *, width: int, hidden: int, steps: int, rng: torch.Generator) -> None:
        super().__init__()
        self.down = uniform(steps, hidden, width, rng=rng)
        self.up = uniform(steps, width, hidden, rng=rng)
        self.gate = nn.Parameter(torch.zeros(steps - 1, width))
        self.bias = nn.Parameter(torch.zeros(steps - 1))

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The generated prompt embedding of each image after the last step; not normalised."""
        h = torch.relu(images @ self.down[0].T) @ self.up[0].T
        shares = torch.sigmoid(images @ self.gate.T + self.bias)
        for step, share in enumerate(shares.unbind(1), 1):
            made = torch.relu((images + h) @ self.down[step].T) @ self.up[step].T
            h = torch.lerp(h, made, share[:, None])
        return h


def build_generator(*, width: int, hidden: int, steps: int, rng: torch.Generator) -> Generator | Chain:
    """h at its start values: one generator, or a chain."""
    if steps == 1:
        return Generator(width=width, hidden=hidden, rng=rng)
    return Chain(width=width, hidden=hidden, steps=steps, rng=rng)
