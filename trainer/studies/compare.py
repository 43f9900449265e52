"""`trainer compare`: two runs, or two methods, side by side, with paired tests.

Over the seeds: the paired t-test. Over the test images: the sign-flip permutation test of the mean difference in
correctness (each image's difference averaged over the seeds first), which three seeds alone could never decide.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from stages import UserError
from trainer.record import OUTCOMES, Outcome, RunRecord, finished_runs, read_lines

FLIPS = 10_000


@dataclass(frozen=True)
class Compared:
    """One metric of one protocol, first against second.

    Attributes:
        difference: mean of first minus second over the common seeds, fraction.
        ci95: half-width of its 95 % interval over the seeds; None for one seed.
        p_seeds: two-sided p of the paired t-test over the seeds; None for one seed.
        p_images: two-sided p of the permutation test over the test images; None where predictions are not there.
    """

    dataset: str
    protocol: str
    metric: str
    first: str
    second: str
    mean_first: float
    mean_second: float
    difference: float
    ci95: float | None
    p_seeds: float | None
    p_images: float | None
    seeds: int


def compare(first: Path, second: Path, *, methods: tuple[str, str] | None, metrics: list[str]) -> list[Compared]:
    """Compare two results folders, method by method, or one method of the first with another of the second.

    Raises:
        UserError: nothing in common.
    """
    records = finished_runs(first), finished_runs(second)
    common = [name for name in records[0] if name in records[1]]
    if not common:
        raise UserError(f"{first} and {second} have no data set in common: run `trainer run --results DIR` for both")
    found: list[Compared] = []
    for dataset in common:
        values = [_values(each[dataset]) for each in records]
        outcomes = [read_lines(folder / "runs" / dataset / OUTCOMES, Outcome) for folder in (first, second)]
        pairs = [methods] if methods else [(m, m) for m in dict.fromkeys(key[1] for key in values[0])]
        for protocol in dict.fromkeys(key[0] for key in values[0]):
            for pair in pairs:
                for metric in metrics:
                    seeds = [values[i].get((protocol, pair[i], metric), {}) for i in (0, 1)]
                    both = sorted(seeds[0].keys() & seeds[1].keys())
                    if not both:
                        continue
                    a, b = (np.array([each[seed] for seed in both]) for each in seeds)
                    right = [
                        _correct(lines, protocol, method, both) for lines, method in zip(outcomes, pair, strict=True)
                    ]
                    found.append(_one(dataset, protocol, metric, pair, a, b, right if metric == "accuracy" else None))
    if not found:
        raise UserError(f"{first} and {second} have no protocol, method, metric and seed in common")
    return found


def _values(record: RunRecord) -> dict[tuple[str, str, str], dict[int, float]]:
    """(protocol, method, metric) -> seed -> value, where it was measured."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for fit in record.fits:
        for metric, value in fit.metrics.items():
            if value is not None:
                found.setdefault((fit.protocol, fit.method, metric), {})[fit.seed] = value
    return found


def _correct(lines: Iterable[Outcome], protocol: str, method: str, seeds: Collection[int]) -> dict[str, float]:
    """image id -> share of these seeds that predicted it right."""
    found: dict[str, list[int]] = {}
    for line in lines:
        if (line.protocol, line.method) == (protocol, method) and line.seed in seeds:
            found.setdefault(line.image_id, []).append(line.predicted == line.actual)
    return {image_id: sum(right) / len(right) for image_id, right in found.items()}


def _one(
    dataset: str, protocol: str, metric: str, pair: tuple[str, str], a: Float[np.ndarray, "S"],
    b: Float[np.ndarray, "S"], outcomes: list[dict[str, float]] | None,
) -> Compared:  # fmt: skip
    from scipy.stats import t

    gap = a - b
    n = len(gap)
    ci95 = p_seeds = None
    if n > 1:
        error = float(gap.std(ddof=1)) / math.sqrt(n)
        ci95 = float(t.ppf(0.975, n - 1)) * error
        p_seeds = float(2 * t.sf(abs(gap.mean()) / error, n - 1)) if error > 0 else (1.0 if gap.mean() == 0 else 0.0)
    p_images = None
    if outcomes:
        ids = sorted(outcomes[0].keys() & outcomes[1].keys())
        if ids:
            p_images = permutation_p(np.array([outcomes[0][i] - outcomes[1][i] for i in ids]))
    return Compared(
        dataset, protocol, metric, pair[0], pair[1], float(a.mean()), float(b.mean()), float(gap.mean()), ci95,
        p_seeds, p_images, n,
    )  # fmt: skip


def permutation_p(differences: Float[np.ndarray, "N"], *, seed: int = 0) -> float:
    """Two-sided p that the mean of paired differences is 0, by flipping signs at random (never exactly 0)."""
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    rng = np.random.default_rng(seed)
    seen = abs(float(differences.sum()))
    as_large = 0
    for start in range(0, FLIPS, 500):
        signs = rng.integers(0, 2, size=(min(500, FLIPS - start), len(differences))) * 2 - 1
        as_large += int((np.abs(signs @ differences) >= seen - 1e-9).sum())
    return (as_large + 1) / (FLIPS + 1)
