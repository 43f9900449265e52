"""A small task that can be learned: classes are directions, images and prompts scatter around them."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task

WIDTH = 24


def unit(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def small_text(classes: int = 6, prompts: int = 5, *, seed: int = 0) -> ClassText:
    """Text near the classes' directions; the last class has fewer prompts than the others."""
    centres = unit(classes, WIDTH, seed=seed)
    template = normalize(centres + 0.9 * unit(classes, WIDTH, seed=seed + 1), dim=-1)
    each = normalize(centres[:, None] + 0.8 * unit(classes, prompts, WIDTH, seed=seed + 2), dim=-1)
    mask = torch.ones(classes, prompts, dtype=torch.bool)
    mask[-1, 2:] = False
    return ClassText(tuple(f"class {i}" for i in range(classes)), template, each * mask[..., None], mask)


def small_images(classes: int = 6, shots: int = 8, *, seed: int = 0, draw: int = 10) -> Images:
    centres = unit(classes, WIDTH, seed=seed)
    scattered = centres[:, None] + 0.9 * unit(classes, shots, WIDTH, seed=seed + draw)
    return Images(normalize(scattered, dim=-1).flatten(0, 1), torch.arange(classes).repeat_interleave(shots))


def small_task(classes: int = 6, shots: int = 8, *, val: bool = True, seed: int = 0) -> Task:
    images = small_images(classes, 4 if val else 1, seed=seed, draw=11)
    return Task(
        small_text(classes, seed=seed),
        small_images(classes, shots, seed=seed),
        images if val else images.take(torch.arange(0)),
    )
