"""`trainer compare`: two runs, or two methods, side by side, with paired tests.

Over the seeds: the paired t-test. Over the test images: the sign-flip permutation test of the mean difference in
correctness (each image's difference averaged over the seeds first), which three seeds alone could never decide.
"""

import math
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from stages import UserError
from trainer.runs.record import OUTCOMES, Outcome, RunRecord, finished_runs, read_lines

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


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        rows: by data set, protocol, method and metric.
        notes: what only one of the two has, and is left out.
    """

    rows: list[Compared]
    notes: list[str]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a data set's run in a results folder.

    Attributes:
        values: (protocol, method, metric) -> seed -> value, where it was measured.
    """

    folder: Path
    values: dict[tuple[str, str, str], dict[int, float]]
    outcomes: list[Outcome]


def compare(first: Path, second: Path, *, methods: tuple[str, str] | None, metrics: list[str]) -> Comparison:
    """Compare two results folders, method by method, or one method of the first with another of the second.

    Seeds and test images are paired: only those that both have count.

    Raises:
        UserError: nothing in common, or the files of a run are damaged.
    """
    records = finished_runs(first), finished_runs(second)
    common = [name for name in records[0] if name in records[1]]
    if not common:
        raise UserError(f"{first} and {second} have no data set in common: run `trainer run --results DIR` for both")
    rows: list[Compared] = []
    notes = _only_one((first, second), [set(each) for each in records], "data set")
    for dataset in common:
        one, other = (
            Side(folder, _values(each[dataset]), read_lines(folder / "runs" / dataset / OUTCOMES, Outcome))
            for folder, each in zip((first, second), records, strict=True)
        )
        keys = [{(protocol, method) for protocol, method, _ in side.values} for side in (one, other)]
        if methods is None:
            notes += _only_one((first, second), [{f"{p} {m}" for p, m in each} for each in keys], f"{dataset}:")
        pairs = [methods] if methods else [(m, m) for m in dict.fromkeys(method for _, method, _ in one.values)]
        for protocol in dict.fromkeys(protocol for protocol, *_ in one.values):
            for pair in pairs:
                found, said = _pair(dataset, protocol, pair, one, other, metrics)
                rows += found
                notes += said
    if not rows:
        raise UserError(f"{first} and {second} have no protocol, method, metric and seed in common")
    return Comparison(rows, list(dict.fromkeys(notes)))


def _only_one(folders: tuple[Path, Path], names: Sequence[Set[str]], what: str) -> list[str]:
    """Lines on what only one of the two has."""
    lines = []
    for folder, own, others in zip(folders, names, names[::-1], strict=True):
        alone = sorted(own - others)
        if alone:
            listed = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            lines.append(f"{what} in {folder} alone, left out ({len(alone)}): {listed}")
    return lines


def _pair(
    dataset: str, protocol: str, pair: tuple[str, str], one: Side, other: Side, metrics: Sequence[str]
) -> tuple[list[Compared], list[str]]:
    """The rows of one method, or of two, under one protocol, and lines on seeds and images that only one has."""
    rows, notes = [], []
    sides = list(zip((one, other), pair, strict=True))
    for metric in metrics:
        a, b = (side.values.get((protocol, method, metric), {}) for side, method in sides)
        both = sorted(a.keys() & b.keys())
        if not both:
            if a and b:
                notes.append(f"{dataset}: {protocol}, {' and '.join(dict.fromkeys(pair))}: no seed in common")
            continue
        alone = sorted(a.keys() ^ b.keys())
        if alone:
            notes.append(
                f"{dataset}: {protocol}, {' and '.join(dict.fromkeys(pair))}: paired on the seeds that both have "
                f"({', '.join(map(str, both))}); left out: {', '.join(map(str, alone))}"
            )
        right = None
        if metric == "accuracy":
            right = [_correct(side.outcomes, protocol, method, both) for side, method in sides]
            images = len(right[0].keys() ^ right[1].keys())
            if images:
                notes.append(f"{dataset}: {protocol}: {images} test images that only one of the two has are left out")
        rows.append(
            _one(dataset, protocol, metric, pair, [a[seed] for seed in both], [b[seed] for seed in both], right)
        )
    return rows, notes


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
    dataset: str, protocol: str, metric: str, pair: tuple[str, str], first: Sequence[float], second: Sequence[float],
    outcomes: list[dict[str, float]] | None,
) -> Compared:  # fmt: skip
    from scipy.stats import t

    a, b = np.array(first), np.array(second)
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


def permutation_p(differences: Float[np.ndarray, " B"], *, seed: int = 0) -> float:
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
