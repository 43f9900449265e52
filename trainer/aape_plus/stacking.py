"""How AAPE+ chooses with few images: by the likelihood of images that the scores have not seen.

Scores of several origins are added with the weights that make the labels likeliest, softmax(sum_k a_k z_k), a_k >= 0
(stacking: Wolpert 1992, Breiman 1996; the conditional logit of McFadden 1974). It is convex in a, so Newton's method
finds them in a few steps: no grid of weights or temperatures, and no end of a range to stand at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

PRIOR = 0.1
"""Precision of the normal prior of a weight, in nats for scores of unit size: what keeps few images from being sure."""
ENTRIES = 2**17
"""Scores of a part of the images (float32: 0.5 MB, so that a few of them stay in the cache of a core)."""
MOST_STEPS, ENOUGH = 40, 1e-7
"""Newton steps, which end where the next one promises fewer nats an image than ENOUGH."""
SMALLEST_SIZE = 1e-12
LARGEST_TAU = 1.0
"""Of cosines that tell nothing."""


def weigh(
    scores: Sequence[Float[Tensor, "B C"]], labels: Int[Tensor, " B"], *, start: Sequence[float] | None = None
) -> tuple[float, list[float]]:
    """The weights, and the mean negative log-likelihood that they leave, the prior included.

    Args:
        start: weights to begin at; they change the number of steps alone.
    """
    exact: dict[str, Any] = {"dtype": torch.float64, "device": labels.device}
    squares = sum(part.double().square().sum((1, 2)) for part in _parts(scores, labels))
    sizes = torch.as_tensor(squares, **exact).div(scores[0].numel()).sqrt().clamp_min(SMALLEST_SIZE)
    a = torch.full_like(sizes, 1 / len(scores)) if start is None else torch.tensor(start, **exact) * sizes
    loss, slope, curve = _derivatives(scores, labels, a, sizes)
    for _ in range(MOST_STEPS):
        free = (a > 0) | (slope < 0)
        step = torch.zeros_like(a)
        step[free] = -torch.linalg.solve(curve[free][:, free], slope[free])
        if float(-slope @ step) < ENOUGH:
            break
        length = 1.0
        while True:
            at = (a + length * step).clamp_min(0)
            found = _derivatives(scores, labels, at, sizes)
            if found[0] <= loss or length < 1e-6:
                break
            length /= 2
        a, (loss, slope, curve) = at, found
    return loss, (a / sizes).tolist()


def calibrated(scores: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> tuple[float, float]:
    """The least mean negative log-likelihood of softmax(scores / tau), and its tau, at most LARGEST_TAU."""
    loss, (weight,) = weigh([scores], labels)
    return loss, 1 / max(weight, 1 / LARGEST_TAU)


def _parts(scores: Sequence[Tensor], labels: Tensor) -> Iterator[Tensor]:
    """The scores of some images at once, K x rows x C, against that of the right class: no copy of all is made."""
    count, classes = scores[0].shape
    rows = max(1, ENTRIES // classes)
    for top in range(0, count, rows):
        some = torch.stack([each[top : top + rows] for each in scores])
        yield some - some.gather(2, labels[top : top + rows].expand(len(scores), -1)[..., None])


def _derivatives(scores: Sequence[Tensor], labels: Tensor, a: Tensor, sizes: Tensor) -> tuple[float, Tensor, Tensor]:
    """Mean loss with its prior, slope and curvature in the weights of scores of unit size."""
    count = len(labels)
    weights = (a / sizes).to(scores[0].dtype)
    loss, slope, curve = a.new_zeros(()), torch.zeros_like(a), a.new_zeros(len(a), len(a))
    for part in _parts(scores, labels):
        total = torch.tensordot(weights, part, dims=1)
        norm = total.logsumexp(1)
        likely = part * (total - norm[:, None]).exp_()
        mean = likely.sum(2)
        loss += norm.double().sum()
        slope += mean.double().sum(1)
        curve += (likely.flatten(1) @ part.flatten(1).T - mean @ mean.T).double()
    precision = PRIOR / count
    size = 1 / sizes
    slope, curve = slope * size / count, curve * size * size[:, None] / count
    eye = torch.eye(len(a), dtype=a.dtype, device=a.device)
    return float(loss) / count + precision / 2 * float(a @ a), slope + precision * a, curve + precision * eye
