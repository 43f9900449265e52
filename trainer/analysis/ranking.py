"""`trainer ranks`: all methods over many settings, a setting being a data set, a protocol and a number of shots.

In each setting every method is compared with the one of the best mean, on the same seeds and test images; what its
interval does not tell from 0 is not separable from the best. Ranks are averaged over the settings; the Friedman test
asks whether they differ at all, and Nemenyi's critical difference by how much two of them must (Demsar, JMLR 2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from stages import UserError
from trainer.metrics import interval95
from trainer.runs.choice import AT, place
from trainer.runs.paired import NORMAL, Right, difference95
from trainer.runs.record import OUTCOMES, Outcome, RunRecord, finished_runs, read_lines

METRICS = ("accuracy", "h")
"""One a protocol: few-shot and label noise, base-to-new."""
CLOSE = 0.005
"""Half a point: nearer to the best nobody should care."""
DRAWS = 2000
AGAINST = ("logistic", "zero-shot")
"""What a method has to be worth the trouble against."""


@dataclass(frozen=True)
class Setting:
    """One metric of one protocol on one data set.

    Attributes:
        values: method -> seed -> value.
        right: method -> seed -> whether each test image was right; empty where a run did not keep it.
        base: of H, whether a test image is of a base class; else None.
    """

    dataset: str
    encoder: str
    protocol: str
    title: str
    metric: str
    values: Mapping[str, Mapping[int, float]]
    right: Mapping[str, Right] = field(default_factory=dict)
    base: Bool[np.ndarray, " B"] | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.dataset}, {self.title}" + (f", {self.metric}" if self.metric != "accuracy" else "")

    @property
    def means(self) -> dict[str, float]:
        """Over the seeds, by method."""
        return {method: math.fsum(by.values()) / len(by) for method, by in self.values.items()}

    @property
    def best(self) -> str:
        """The method of the best mean; of equals the first of the registry."""
        means = self.means
        return max(sorted(means, key=place), key=lambda method: means[method])


@dataclass(frozen=True)
class Gap:
    """A method against another in one setting.

    Attributes:
        difference: fraction; negative where it is behind.
        ci95: half-width of the 95 % interval; None with one seed and no test images kept.
    """

    difference: float
    ci95: float | None

    @property
    def tied(self) -> bool | None:
        """Whether the interval holds 0; None where there is none."""
        if self.difference == 0:
            return True
        return None if self.ci95 is None else abs(self.difference) <= self.ci95


@dataclass(frozen=True)
class Line:
    """A method in one setting, as `settings.csv` has it."""

    dataset: str
    encoder: str
    protocol: str
    setting: str
    metric: str
    method: str
    mean: float
    rank: float
    best: str
    difference: float
    ci95: float | None
    tied: bool | None


@dataclass(frozen=True)
class Standing:
    """A method over the settings of one metric.

    Attributes:
        mean_rank: 1 is the best; over the settings in which it was measured.
        settings: how many those are.
        tied: of them those in which it is the best or not separable from the best.
        close: those in which it is at most half a point behind.
        worst, where: its largest difference to the best, and in which setting.
    """

    metric: str
    method: str
    mean_rank: float
    settings: int
    tied: int
    close: int
    worst: float
    where: str


@dataclass(frozen=True)
class Test:
    """Whether the ranks of one metric differ, over the methods that were measured in every setting.

    Attributes:
        p: of the Friedman test; None with fewer than three methods or two settings.
        critical: difference of two mean ranks that is significant at 5 % (Nemenyi).
    """

    metric: str
    methods: int
    settings: int
    p: float | None
    critical: float | None


@dataclass(frozen=True)
class Ranking:
    """What `trainer ranks` found."""

    lines: list[Line]
    standings: list[Standing]
    tests: list[Test]
    statements: list[str]
    notes: list[str]


def settings_of(folders: Sequence[Path], *, metrics: Sequence[str], methods: Sequence[str] | None) -> list[Setting]:
    """The settings of these results folders.

    Args:
        methods: those to compare; None takes all with the main prompt source.

    Raises:
        UserError: a folder without runs, a setting that stands in two of them, nothing that was measured.
    """
    found: dict[tuple[str, ...], tuple[Path, Setting]] = {}
    for folder in folders:
        records = finished_runs(folder)
        if not records:
            raise UserError(f"{folder}: no run of `trainer run` lies there", exit_code=2)
        for record in records.values():
            for setting in _of_run(record, folder, metrics, methods):
                key = setting.dataset, setting.encoder, setting.title, setting.metric
                if key in found:
                    raise UserError(
                        f"{setting.name} stands in {found[key][0]} and in {folder}: name one of them", exit_code=2
                    )
                found[key] = folder, setting
    if not found:
        raise UserError(
            f"nothing to rank: no run in {', '.join(map(str, folders))} has two methods with {' or '.join(metrics)}",
            exit_code=2,
        )
    return [setting for _, setting in found.values()]


def _of_run(
    record: RunRecord, folder: Path, metrics: Sequence[str], methods: Sequence[str] | None
) -> Iterable[Setting]:
    values: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for fit in record.fits:
        wanted = AT not in fit.method if methods is None else fit.method in methods
        for metric, value in fit.metrics.items():
            if metric in metrics and value is not None and wanted:
                values.setdefault((fit.protocol, metric), {}).setdefault(fit.method, {})[fit.seed] = value
    right = _right(read_lines(folder / "runs" / record.dataset / OUTCOMES, Outcome)) if values else {}
    for (protocol, metric), by_method in values.items():
        if len(by_method) < 2:
            continue
        own, labels = right.get(protocol, ({}, np.zeros(0, dtype=int)))
        own = {method: by for method, by in own.items() if method in by_method}
        base = labels < (record.classes + 1) // 2 if metric == "h" else None
        about = record.protocols[protocol]
        yield Setting(record.dataset, record.encoder, protocol, about.title, metric, by_method, own, base)


_Judged = tuple[dict[str, dict[int, Bool[np.ndarray, " B"]]], "np.ndarray"]


def _right(lines: Iterable[Outcome]) -> dict[str, _Judged]:
    """protocol -> (method -> seed -> whether each test image was right), and the labels of these images."""
    by_fit: dict[tuple[str, str, int], tuple[list[str], list[int], list[bool]]] = {}
    for line in lines:
        ids, labels, hits = by_fit.setdefault((line.protocol, line.method, line.seed), ([], [], []))
        ids.append(line.image_id)
        labels.append(line.actual)
        hits.append(line.predicted == line.actual)
    found: dict[str, _Judged] = {}
    first: dict[str, list[str]] = {}
    for (protocol, method, seed), (ids, labels, hits) in by_fit.items():
        if protocol not in found:
            found[protocol], first[protocol] = ({}, np.array(labels)), ids
        if ids == first[protocol]:
            found[protocol][0].setdefault(method, {})[seed] = np.array(hits)
    return found


def gaps(setting: Setting, reference: str) -> dict[str, Gap]:
    """Every method of a setting against one of them."""
    draws = _bootstrap(setting)
    return {method: _gap(setting, method, reference, draws) for method in setting.values}


def _gap(setting: Setting, method: str, reference: str, draws: Mapping[str, Float[np.ndarray, " draws"]]) -> Gap:
    first, second = setting.values[method], setting.values[reference]
    seeds = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in seeds]
    mean, of_seeds = interval95(differences)
    if method in draws and reference in draws:
        of_images = NORMAL * float((draws[method] - draws[reference]).std())
        return Gap(mean, math.hypot(of_images, of_seeds or 0.0))
    if setting.metric == "accuracy" and method in setting.right and reference in setting.right:
        found = difference95(setting.right[method], setting.right[reference])
        if found is not None:
            return Gap(mean, found[1])
    return Gap(mean, of_seeds)


def _bootstrap(setting: Setting) -> dict[str, Float[np.ndarray, " draws"]]:
    """H of each method on test images drawn again and again, the same draws for all; nothing for accuracies."""
    if setting.base is None or not setting.right:
        return {}
    names = list(setting.right)
    hits = np.stack([np.mean([by[seed] for seed in sorted(by)], axis=0) for by in setting.right.values()], axis=1)
    rng = np.random.default_rng(0)
    halves = []
    for half in (hits[setting.base], hits[~setting.base]):
        count = len(half)
        if not count:
            return {}
        halves.append(rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) @ half / count)
    base, new = halves
    total = base + new
    h = np.divide(2 * base * new, total, out=np.zeros_like(total), where=total > 0)
    return {name: h[:, i] for i, name in enumerate(names)}


def ranking(settings: Sequence[Setting], *, subject: str) -> Ranking:
    """Ranks, tests, and what can be said of one method."""
    lines: list[Line] = []
    for setting in settings:
        lines += _lines(setting)
    standings, tests, notes = [], [], []
    for metric in dict.fromkeys(line.metric for line in lines):
        own = [line for line in lines if line.metric == metric]
        standings += _standings(metric, own)
        test, left_out = _test(metric, own)
        tests.append(test)
        if left_out:
            notes.append(f"{metric}: not in every setting, and so not in the test of ranks: {', '.join(left_out)}")
    return Ranking(lines, standings, tests, _statements(settings, lines, subject), notes)


def _lines(setting: Setting) -> list[Line]:
    from scipy.stats import rankdata

    means, best = setting.means, setting.best
    against = gaps(setting, best)
    ranks = dict(zip(means, rankdata([-round(mean, 8) for mean in means.values()]), strict=True))
    return [
        Line(
            setting.dataset, setting.encoder, setting.protocol, setting.name, setting.metric, method,
            round(means[method], 8), float(ranks[method]), best, round(against[method].difference, 8),
            None if against[method].ci95 is None else round(against[method].ci95 or 0.0, 8), against[method].tied,
        )
        for method in sorted(means, key=place)
    ]  # fmt: skip


def _standings(metric: str, lines: Sequence[Line]) -> list[Standing]:
    found = []
    for method in dict.fromkeys(line.method for line in lines):
        own = [line for line in lines if line.method == method]
        worst = min(own, key=lambda line: line.difference)
        found.append(
            Standing(
                metric=metric,
                method=method,
                mean_rank=math.fsum(line.rank for line in own) / len(own),
                settings=len(own),
                tied=sum(bool(line.tied) for line in own),
                close=sum(line.difference >= -CLOSE for line in own),
                worst=worst.difference,
                where=worst.setting,
            )
        )
    return sorted(found, key=lambda each: (each.mean_rank, place(each.method)))


def _test(metric: str, lines: Sequence[Line]) -> tuple[Test, list[str]]:
    """The test of ranks, and the methods that are in some settings alone. Ranked anew among those that are in all."""
    from scipy.stats import friedmanchisquare, studentized_range

    settings = list(dict.fromkeys((line.setting, line.encoder) for line in lines))
    by_method: dict[str, dict[tuple[str, str], float]] = {}
    for line in lines:
        by_method.setdefault(line.method, {})[line.setting, line.encoder] = line.mean
    whole = [method for method, by in by_method.items() if len(by) == len(settings)]
    k, n = len(whole), len(settings)
    p = critical = None
    if k > 2 and n > 1:
        columns = [[by_method[method][setting] for setting in settings] for method in whole]
        if any(len(set(row)) > 1 for row in zip(*columns, strict=True)):
            p = float(friedmanchisquare(*columns).pvalue)
        critical = float(studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    return Test(metric, k, n, p, critical), [method for method in by_method if method not in whole]


def _statements(settings: Sequence[Setting], lines: Sequence[Line], subject: str) -> list[str]:
    own = [line for line in lines if line.method == subject]
    if not own:
        return [f"{subject} is in none of these settings"]
    judged = [line for line in own if line.tied is not None]
    worst = min(own, key=lambda line: line.difference)
    loss = (
        f"worst loss {-100 * worst.difference:.1f} points, to {worst.best} ({worst.setting})"
        if worst.difference < 0
        else "never behind"
    )
    found = [
        f"{subject} is best or not separable from the best in {sum(bool(line.tied) for line in judged)} of "
        f"{len(judged)} settings, and at most half a point behind in {sum(x.difference >= -CLOSE for x in own)} of "
        f"{len(own)}; {loss}"
    ]
    for other in AGAINST:
        both = [(s, gaps(s, other)[subject]) for s in settings if subject in s.values and other in s.values]
        if other == subject or not both:
            continue
        setting, gap = min(both, key=lambda each: each[1].difference)
        ahead = sum(each.difference > 0 and not each.tied for _, each in both)
        behind = sum(each.difference < 0 and not each.tied for _, each in both)
        said = "never behind" if gap.difference >= 0 else f"{-100 * gap.difference:.1f} points behind at worst"
        where = "" if gap.difference >= 0 else f" ({setting.name}{'' if gap.tied is False else ', not separable'})"
        found.append(
            f"{subject} against {other}: {said}{where}; separably ahead in {ahead}, behind in {behind} of {len(both)}"
        )
    return found
