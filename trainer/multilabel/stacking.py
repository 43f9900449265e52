"""Scores of several origins to probabilities: the weights and the bias that make unseen labels likeliest.

sigmoid(sum_k a_k z_k + b), a_k >= 0, least mean binary cross entropy with a small normal prior on weights of scores of
unit size, as AAPE+ stacks its voices; convex, so that there is one answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

PRIOR = 0.1
SMALLEST = 1e-9
LEAST_ALONE = 1e-3
"""Least weight of unit-size scores that stand alone."""


def stack_labels(
    scores: Sequence[Float[Tensor, "B C"]], labels: Bool[Tensor, "B C"]
) -> tuple[float, list[float], float]:
    """Mean binary cross entropy (prior included), weights and bias."""
    from scipy.optimize import minimize

    y = labels.cpu().numpy().astype(np.float64).ravel()
    each = np.stack([score.double().cpu().numpy().ravel() for score in scores])
    centres = each.mean(1, keepdims=True)
    sizes = np.maximum(each.std(1, keepdims=True), SMALLEST)
    unit = (each - centres) / sizes
    precision = PRIOR / max(1, len(labels))

    def loss(at: Float[np.ndarray, " K"]) -> tuple[float, Float[np.ndarray, " K"]]:
        z = at[:-1] @ unit + at[-1]
        value = np.logaddexp(0, z).mean() - (y * z).mean() + precision / 2 * float(at[:-1] @ at[:-1])
        slope = (1 / (1 + np.exp(-np.clip(z, -500, 500))) - y) / len(y)
        return value, np.concatenate([unit @ slope + precision * at[:-1], [slope.sum()]])

    rate = float(np.clip(y.mean(), 1e-4, 1 - 1e-4))
    start = np.concatenate([np.full(len(scores), 1 / len(scores)), [np.log(rate / (1 - rate))]])
    least = LEAST_ALONE if len(scores) == 1 else 0.0  # scores alone keep their order, however little they tell
    bounds = [(least, None)] * len(scores) + [(-50.0, 50.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    weights = found.x[:-1] / sizes[:, 0]
    return float(found.fun), weights.tolist(), float(found.x[-1] - weights @ centres[:, 0])
