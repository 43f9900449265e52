"""A sweep as a picture: one panel a metric, lines over a numeric setting, points over any other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from trainer.report.figures import DASHES, MARKERS, save
from trainer.report.lettering import labels, plain
from trainer.studies.study import SweepRow, Value, describe

WIDE = 8
"""A setting that is varied by this factor is drawn on a logarithmic axis."""


def picture(title: str, metrics: Sequence[str], rows: Sequence[SweepRow], path: Path) -> None:
    """Draw these metrics of one data set; nothing where none was measured."""
    panels = list(dict.fromkeys((row.protocol, metric) for metric in metrics for row in rows if metric in row.metrics))
    if not panels:
        return
    points = list(dict.fromkeys(describe(row.point) for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    first = {describe(row.point): row.point for row in rows}
    values = [list(first[point].values()) for point in points]
    numeric = all(len(v) == 1 and isinstance(v[0], int | float) and not isinstance(v[0], bool) for v in values)
    at = sorted(float(value[0]) for value in values) if numeric else []  # type: ignore[arg-type]
    figure = Figure(figsize=(3.4 * len(panels) + 1.6, 3.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for axis, (protocol, metric) in zip(axes, panels, strict=True):
        for number, (method, label) in enumerate(zip(methods, labels(methods), strict=True)):
            here = {
                describe(r.point): r.metrics[metric]
                for r in rows
                if (r.protocol, r.method) == (protocol, method) and metric in r.metrics
            }
            found = [(i, here[p].mean, here[p].ci95) for i, p in enumerate(points) if p in here]
            kept = [(i, mean, half or 0.0) for i, mean, half in found if mean is not None]
            if not kept:
                continue
            aside = (number + 0.5) / len(methods) - 0.5  # so that whiskers of equal values do not hide each other
            places = [_beside(at, values[i][0], aside) if numeric else i + 0.5 * aside for i, *_ in kept]
            means = [100 * mean for _, mean, _ in kept]
            half = [100 * h for *_, h in kept]
            errors = [[min(h, room) for h, room in zip(half, rooms, strict=True)]
                      for rooms in (means, [100 - mean for mean in means])]  # fmt: skip
            axis.errorbar(
                places, means, yerr=errors, marker=MARKERS[number % len(MARKERS)], ms=4, capsize=2, label=label,
                ls=DASHES[number % len(DASHES)] if numeric else "none",
            )  # fmt: skip
        name = _axis(first[points[0]])
        axis.set(title=f"{protocol}: {metric}", ylabel="percent", xlabel=name if numeric else "")
        if numeric:
            if _wide(at):
                axis.set_xscale("log", base=2)
            axis.set_xticks(at, [f"{value:g}" for value in at], minor=False)
            axis.set_xticks([], minor=True)
        else:
            axis.set_xticks(
                range(len(points)), labels([_short(p) for p in points]), rotation=30, ha="right", fontsize=7
            )
            axis.margins(x=0.08)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(plain(f"{title}: {rows[0].dataset}", 90), fontsize=10)
    save(figure, path)


def _wide(at: Sequence[float]) -> bool:
    return at[0] > 0 and at[-1] >= WIDE * at[0]


def _beside(at: Sequence[float], value: Value, aside: float) -> float:
    """A value moved by a share (-1/2..1/2) of a quarter of the closest distance on its axis."""
    place = float(value)  # type: ignore[arg-type]
    scale = np.log2(at) if _wide(at) else np.array(at)
    step = 0.25 * aside * (float(np.diff(scale).min()) if len(at) > 1 else 1.0)
    return place * float(2.0**step) if _wide(at) else place + step


def _axis(point: dict[str, Value]) -> str:
    """The name of what is varied."""
    return ", ".join(path.split(".")[-1] for path in point)


def _short(point: str) -> str:
    return ", ".join(part.partition(".")[2] or part for part in point.split(", "))
