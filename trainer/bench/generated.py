"""Tasks made by seed: classes are directions; images, templates and prompts scatter around them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task

IMAGE_NOISE, TEMPLATE_NOISE, PROMPT_NOISE = 4.0, 3.0, 3.0
"""Length of what is added to a unit direction: zero-shot is then clearly worse than what can be learned."""


def made_task(*, classes: int, shots: int, prompts: int, width: int, device: torch.device) -> tuple[Task, Images]:
    """A task without validation images, and as many unseen images as it has training images."""
    rng = torch.Generator().manual_seed(0)

    def around(centres: Float[Tensor, "C D"], count: int, noise: float) -> Float[Tensor, "C count D"]:
        away = torch.randn(classes, count, width, generator=rng)
        return normalize(centres[:, None] + noise * normalize(away, dim=-1), dim=-1).to(device)

    centres = normalize(torch.randn(classes, width, generator=rng), dim=-1)
    text = ClassText(
        tuple(f"class {i}" for i in range(classes)),
        around(centres, 1, TEMPLATE_NOISE)[:, 0],
        around(centres, prompts, PROMPT_NOISE),
        torch.ones(classes, prompts, dtype=torch.bool, device=device),
    )
    labels = torch.arange(classes, device=device).repeat_interleave(shots)
    train, unseen = (Images(around(centres, shots, IMAGE_NOISE).flatten(0, 1), labels) for _ in range(2))
    return Task(text, train, train.take(labels[:0])), unseen
