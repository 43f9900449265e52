"""Which images to label next: those that speak for most of the pool's doubt.

Greedy facility location (Wei, Iyer, Bilmes, ICML 2015). An image i of the pool is covered by a labelled image j as far
as they are alike, s(i, j) = exp(-(1 - cos(i, j)) / width), and w_i, one minus the margin between the two likeliest
classes, says how much a label is worth there. Each pick is the image with the largest gain

    sum_i w_i max(0, s(i, pick) - cover_i),    cover_i = max over labelled and picked j of s(i, j)

so that uncertain, typical and different images come first. Without a classifier all w_i are 1: coverage alone, which is
what few labels need most. The width is half the mean distance between images, so that an encoder whose cosines lie
close together is treated as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

WIDTH = 0.5
"""Of the mean distance. Chosen on clothing-small, textile and digits (docs/data-loop.md)."""
TILE = 1024


@dataclass(frozen=True)
class Picks:
    """What was picked, best first.

    Attributes:
        index: places among the candidates.
        gain: share of the pool's doubt that each adds, a fraction.
    """

    index: list[int]
    gain: list[float]


def width_of(images: Float[Tensor, "M D"]) -> float:
    """The width of the likeness, from the mean distance between images."""
    total = images.float().sum(0)
    count = len(images)
    if count < 2:
        return 1.0
    mean_cosine = float((total @ total - count) / (count * (count - 1)))  # unit rows
    return max(WIDTH * (1 - mean_cosine), 1e-3)


def likeness(a: Float[Tensor, "B D"], b: Float[Tensor, "M D"], width: float) -> Float[Tensor, "B M"]:
    """s above, of unit rows."""
    return ((a.float() @ b.float().T - 1) / width).exp()


def cover_by(
    labelled: Iterator[Float[Tensor, "B D"]], demand: Float[Tensor, "M D"], width: float
) -> Float[Tensor, " M"]:
    """How well labelled images cover others; they come batch by batch."""
    cover = torch.zeros(len(demand))
    for some in labelled:
        for tile in some.split(TILE):  # type: ignore[no-untyped-call]
            cover = torch.maximum(cover, likeness(demand, tile, width).amax(1))
    return cover


def choose(
    candidates: Float[Tensor, "B D"],
    demand: Float[Tensor, "M D"],
    doubt: Float[Tensor, " M"],
    cover: Float[Tensor, " M"],
    *,
    n: int,
    width: float,
) -> Picks:
    """Pick n of the candidates one by one.

    Args:
        demand: images that stand for the pool.
        doubt: w of each.
        cover: how well what is labelled covers each.
    """
    alike = torch.cat([likeness(demand, tile, width) for tile in candidates.split(TILE)], 1)  # type: ignore[no-untyped-call]
    whole = float((doubt * (1 - cover).clamp_min(0)).sum())
    free = torch.ones(len(candidates), dtype=torch.bool)
    picked: list[int] = []
    gains: list[float] = []
    for _ in range(min(n, len(candidates))):
        gain = torch.empty(len(candidates))
        for start in range(0, len(candidates), TILE):
            piece = alike[:, start : start + TILE]
            gain[start : start + TILE] = doubt @ (piece - cover[:, None]).clamp_min(0)
        gain[~free] = -1
        best = int(gain.argmax())
        picked.append(best)
        gains.append(min(1.0, float(gain[best]) / whole) if whole > 0 else 0.0)
        free[best] = False
        cover = torch.maximum(cover, alike[:, best])
    return Picks(picked, gains)


def margin_doubt(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """w of each image: one minus the margin between the two likeliest classes."""
    if probabilities.shape[1] < 2:
        return torch.ones(len(probabilities))
    top = probabilities.topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])


def quick_classifier(
    labelled: Float[Tensor, "M D"], labels: Int[Tensor, " M"]
) -> Callable[[Float[Tensor, "B D"]], Float[Tensor, "B C"]]:
    """Probabilities by linear discriminant analysis of what is labelled so far, where nothing is trained.

    Args:
        labels: 0 to C - 1, each with an image.
    """
    from trainer.methods.gda import discriminant, precision

    classes = int(labels.max()) + 1
    x = labelled.float()
    sums = torch.zeros(classes, x.shape[1]).index_add_(0, labels, x)
    means = sums / torch.bincount(labels, minlength=classes)[:, None]
    p = precision(x - means[labels]) if len(x) > classes else torch.eye(x.shape[1])
    weight, bias = discriminant(means, means @ p)
    temperature = (SOFTNESS * (x @ weight.T + bias).std()).clamp_min(1e-6)
    return lambda images: ((images.float() @ weight.T + bias) / temperature).softmax(1)


SOFTNESS = 0.5
"""Temperature, in standard deviations of the scores; a few labels leave nothing to fit one on."""
