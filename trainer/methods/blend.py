"""The weight alpha of what is added to the zero-shot scores, and how it was made, by validation.

zero_shot + alpha * added puts an image's own class first for one interval of alpha: one pass over the scores gives
every alpha's accuracy, up to rounding. Only settings that can be the best by that are measured in full, so the choice
is that of the whole grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.training import WORST, Score, judge

SLACK = 1e-5
"""Share of a score by which another order of summing may change it; intervals are this much too wide."""

Setting = TypeVar("Setting")


def best_blend(
    zero_shot: Float[Tensor, "B C"],
    added: Callable[[Setting], Float[Tensor, "B C"]],
    settings: Sequence[Setting],
    alphas: Sequence[float],
    labels: Int[Tensor, " B"],
) -> tuple[Setting, float, Score]:
    """The setting and alpha with the best score on validation images; the first of those that are equally good.

    Args:
        added: the scores of a setting; called once for each, and once more for those that can be the best.
    """
    grid = torch.tensor(alphas, device=labels.device)
    most = torch.stack([right_at(zero_shot, added(setting), labels, grid) for setting in settings]).cpu()
    best: tuple[Score, int] = (WORST, 0)
    for place in most.max(1).values.argsort(descending=True, stable=True).tolist():
        if int(most[place].max()) < round(best[0][0] * len(labels)):
            break
        own = added(settings[place])
        for i, alpha in enumerate(alphas):
            if int(most[place, i]) >= round(best[0][0] * len(labels)):
                best = max(best, (judge(zero_shot + alpha * own, labels), -(place * len(alphas) + i)))
    place, i = divmod(-best[1], len(alphas))
    return settings[place], alphas[i], best[0]


def right_at(
    zero_shot: Float[Tensor, "B C"], added: Float[Tensor, "B C"], labels: Int[Tensor, " B"], alphas: Float[Tensor, " N"]
) -> Int[Tensor, " N"]:
    """How many images may be right at each alpha > 0: at least as many as are."""
    own, of_own = (each.gather(1, labels[:, None]) for each in (zero_shot, added))
    ahead = zero_shot - own - SLACK * (1 + own.abs())
    rise = added - of_own - SLACK * of_own.abs()
    # another class stays behind while ahead + alpha * rise <= 0
    crossing = -ahead / rise
    high = torch.where(rise > 0, crossing, torch.inf).amin(1)
    low = torch.where(rise < 0, crossing, -torch.inf).amax(1)
    never = ((rise == 0) & (ahead > 0)).any(1)
    inside = (low[:, None] <= alphas) & (alphas <= high[:, None]) & ~never[:, None]
    return inside.sum(0)
