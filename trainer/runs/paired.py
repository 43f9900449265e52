"""Two methods on the same test images and seeds: the difference of their accuracies, and its interval."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from trainer.metrics import interval95
from trainer.runs.record import Paired

NORMAL = 1.959964
"""97.5 % quantile of the standard normal distribution."""
LOGISTIC = "logistic"
TEXT_CONTROLS = {"aape-plus": "aape-plus-no-text", "aape": "aape-no-distill", "cupl": "zero-shot"}
"""A method, and the same without text (AAPE+), without the sentences (AAPE), with the bare template (their mean)."""

Right = Mapping[int, Bool[np.ndarray, " B"]]
"""seed -> whether each test image was predicted right."""


def control_of(name: str) -> str | None:
    """The method that a method with text is compared with; of `aape@written` the control has the same sentences."""
    method, at, source = name.partition("@")
    control = TEXT_CONTROLS.get(method)
    return f"{control}{at}{source}" if control == "aape-no-distill" else control


def pairs(protocol: str, right: Mapping[str, Right]) -> list[Paired]:
    """Every method against logistic regression, and every method with text against its control.

    Args:
        right: by method, in the order of the tables.
    """
    found = []
    for first, second in [(name, LOGISTIC) for name in right] + [(name, control_of(name)) for name in right]:
        if second is None or second not in right or first == second:
            continue
        difference = difference95(right[first], right[second])
        if difference is not None:
            mean, ci95 = difference
            found.append(Paired(protocol=protocol, first=first, second=second, difference=mean, ci95=ci95))
    return found


def difference95(first: Right, second: Right) -> tuple[float, float] | None:
    """Mean difference of two accuracies over the common seeds, and the half-width of its 95 % interval.

    The interval holds what other test images would change (Agresti and Min's for paired proportions) and what other
    seeds would (Student's t, where there are two or more): their half-widths as the sides of a right angle. Both count
    the chance that a seed and an image share, so it is a little too wide rather than too narrow.

    Returns:
        None without a common seed or a test image.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds or not len(first[seeds[0]]):
        return None
    gaps = np.stack([first[seed].astype(float) - second[seed].astype(float) for seed in seeds])
    images = gaps.mean(0)
    count = len(images) + 2  # a right and a wrong image more for either side
    variance = (float(images @ images) + 1) / count - (float(images.sum()) / count) ** 2
    _, of_seeds = interval95(gaps.mean(1).tolist())
    return round(float(images.mean()), 8), round(math.hypot(NORMAL * math.sqrt(variance / count), of_seeds or 0.0), 8)


def share95(share: float, images: int) -> float:
    """Half-width of the 95 % interval of a share of this many images (Wilson)."""
    z2 = NORMAL**2 / images
    return NORMAL / (1 + z2) * math.sqrt(share * (1 - share) / images + z2 / (4 * images))
