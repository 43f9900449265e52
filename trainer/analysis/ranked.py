"""What `trainer ranks` shows and writes: tables, and two kinds of picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages import slug
from stages.command import table
from stages.files import write_text
from stages.numbers import most
from trainer.analysis.ranking import Line, Ranking, Setting, Standing, Test
from trainer.report.figures import CONTROL, DASHES, MARKERS, PLUS, REFERENCE, save
from trainer.report.lettering import plain
from trainer.runs.choice import place
from trainer.runs.record import RunRecord, csv_text, summarize

CURVES = ("aape-plus", "aape-plus-no-text", "aape", "zero-shot", "logistic", "gda", "tip-adapter-f")
"""Methods of the picture of accuracy over shots: with text, without, and what they are compared with."""
HEADERS = ("method", "mean rank", "settings", "best or tied", "within 0.5", "worst", "where")


def text_of(found: Ranking) -> str:
    """Statements and tables for a terminal."""
    blocks = ["\n".join(found.statements)]
    for test in found.tests:
        own = [each for each in found.standings if each.metric == test.metric]
        blocks.append(f"{_head(test)}\n\n{table(HEADERS, _rows(own))}")
    return "\n\n".join(blocks)


def markdown_of(found: Ranking, settings: Sequence[Setting]) -> str:
    """The same as Markdown, and the mean of every method in every setting."""
    from tabulate import tabulate

    def grid(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
        return str(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))

    blocks = [f"# Ranks over {len(settings)} settings", "\n".join(f"- {line}" for line in found.statements)]
    for test in found.tests:
        own = [each for each in found.standings if each.metric == test.metric]
        names = [setting.name for setting in settings if setting.metric == test.metric]
        blocks += [_head(test), grid([[f"`{row[0]}`", *row[1:]] for row in _rows(own)], HEADERS)]
        lines = [line for line in found.lines if line.metric == test.metric]
        numbered = "; ".join(f"{i}: {name}" for i, name in enumerate(names, 1))
        blocks += [
            f"Mean {test.metric} in percent; bold: the best, *: not separable from it. {numbered}",
            grid(
                [[f"`{each.method}`", *(_cell(lines, name, each.method) for name in names)] for each in own],
                ["method", *map(str, range(1, len(names) + 1))],
            ),
        ]
    blocks += ["\n".join(f"- {note}" for note in found.notes)] if found.notes else []
    return "\n\n".join(blocks) + "\n"


def plain_of(found: Ranking) -> dict[str, Any]:
    """For programs."""
    return {
        "statements": found.statements,
        "tests": [asdict(each) for each in found.tests],
        "standings": [asdict(each) for each in found.standings],
        "settings": [asdict(each) for each in found.lines],
        "notes": found.notes,
    }


def write_tables(found: Ranking, settings: Sequence[Setting], folder: Path) -> None:
    """ranks.md, ranks.csv (a method a line) and settings.csv (a method in a setting a line)."""
    write_text(folder / "ranks.md", markdown_of(found, settings))
    for name, rows, kind in (("ranks", found.standings, Standing), ("settings", found.lines, Line)):
        header = list(kind.__dataclass_fields__)
        write_text(folder / f"{name}.csv", csv_text(header, [list(asdict(row).values()) for row in rows]))


def draw_ranks(found: Ranking, test: Test, path: Path, *, subject: str) -> bool:
    """Mean ranks of one metric, the best on top; what lies in the band is no worse than the best by Nemenyi.

    Returns:
        Whether there was something to draw: a method that was measured in every setting.
    """
    own = [each for each in found.standings if each.metric == test.metric and each.settings == test.settings]
    if not own:
        return False
    figure = Figure(figsize=(7.2, 1.3 + 0.23 * len(own)), layout="constrained")
    axis = figure.subplots()
    if test.critical is not None:
        axis.axvspan(own[0].mean_rank, own[0].mean_rank + test.critical, color="#eef2f7", zorder=0)
    for row, each in enumerate(own):
        axis.plot(each.mean_rank, row, "o", ms=6, color=_colour(each.method, subject), mec="#222222", mew=0.4, zorder=3)
        axis.hlines(row, 1, each.mean_rank, color="#c9ced6", lw=0.8, zorder=1)
    axis.set_yticks(range(len(own)), [plain(each.method, 30) for each in own], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0.5, max(each.mean_rank for each in own) + 1)
    axis.set_xlabel(f"mean rank over {test.settings} settings (1 is the best)", fontsize=8.5)
    band = "; the band is Nemenyi's critical difference from the best" if test.critical is not None else ""
    axis.set_title(f"Ranks by {test.metric}{band}", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return True


def draw_shots(records: Sequence[RunRecord], methods: Sequence[str], path: Path, *, encoder: str) -> bool:
    """Accuracy over shots of the data sets of one encoder; nothing where none has two numbers of shots.

    Returns:
        Whether there was something to draw.
    """
    by_set: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for record in records:
        if record.encoder != encoder:
            continue
        for key, by_method in summarize(record).items():
            about = record.protocols[key]
            if about.name != "few-shot" or about.shots == "all":
                continue
            for method in methods:
                entry = by_method.get(method, {}).get("accuracy")
                if entry is not None and entry.mean is not None:
                    point = 100 * entry.mean, 100 * (entry.ci95 or 0.0)
                    by_set.setdefault(record.dataset, {}).setdefault(method, {})[int(most(about.shots))] = point
    panels = {name: by for name, by in by_set.items() if any(len(points) > 1 for points in by.values())}
    if not panels:
        return False
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure = Figure(figsize=(3.2 * wide + 1.8, 2.9 * high), layout="constrained")
    axes = np.atleast_1d(figure.subplots(high, wide)).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    drawn = {method: None for by in panels.values() for method in by}
    names = [method for method in methods if method in drawn]
    for axis, (name, by) in zip(axes, panels.items(), strict=False):
        _curves(axis, by, names)
        axis.set_title(plain(name, 40), fontsize=9)
    axes[0].set_ylabel("accuracy in percent", fontsize=8.5)
    handles, shown = axes[0].get_legend_handles_labels()
    figure.legend(handles, shown, loc="outside right upper", fontsize=7.5, frameon=False)
    title = f"Accuracy over shots, encoder {plain(encoder, 30)}\nband: 95 % interval of {names[0]} over the seeds"
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    save(figure, path)
    return True


def pictures(
    found: Ranking, records: Sequence[RunRecord], folder: Path, *, subject: str, curves: Sequence[str]
) -> list[Path]:
    """All pictures; their files."""
    written = []
    for test in found.tests:
        path = folder / f"ranks-{slug(test.metric)}.png"
        if draw_ranks(found, test, path, subject=subject):
            written.append(path)
    for encoder in sorted({record.encoder for record in records}):
        path = folder / f"shots-{slug(encoder)}.png"
        if draw_shots(records, curves, path, encoder=encoder):
            written.append(path)
    return written


def _curves(axis: Axes, by: dict[str, dict[int, tuple[float, float]]], names: Sequence[str]) -> None:
    for number, method in enumerate(names):
        points = sorted(by.get(method, {}).items())
        if not points:
            continue
        shots, values = zip(*points, strict=True)
        means, halves = (np.array(each) for each in zip(*values, strict=True))
        strong = method == names[0]
        line = axis.plot(
            shots, means, marker=MARKERS[number % len(MARKERS)], ms=3.5, ls=DASHES[number % len(DASHES)],
            lw=1.6 if strong else 1.1, label=plain(method, 30),
        )[0]  # fmt: skip
        if strong:
            axis.fill_between(shots, means - halves, means + halves, color=line.get_color(), alpha=0.15, lw=0)
    ticks = sorted({shot for points in by.values() for shot in points})
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("shots a class", fontsize=8)
    low = min(value for points in by.values() for value, _ in points.values())
    axis.set_ylim(max(0.0, low - 4), None)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(method: str, subject: str) -> str:
    return PLUS if method == subject else CONTROL if method.startswith("aape") else REFERENCE


def _head(test: Test) -> str:
    said = f"{test.metric}, {test.settings} settings"
    if test.p is not None:
        chance = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
        said += f"; {test.methods} methods: Friedman {chance}"
    if test.critical is not None:
        said += f", critical difference of mean ranks {test.critical:.1f} (Nemenyi, 5 %)"
    return said


def _rows(standings: Sequence[Standing]) -> list[list[str]]:
    return [
        [
            each.method, f"{each.mean_rank:.1f}", str(each.settings), str(each.tied), str(each.close),
            f"{100 * each.worst:.1f}", each.where if each.worst < 0 else "",
        ]
        for each in sorted(standings, key=lambda each: (each.mean_rank, place(each.method)))
    ]  # fmt: skip


def _cell(lines: Sequence[Line], setting: str, method: str) -> str:
    line = next((each for each in lines if (each.setting, each.method) == (setting, method)), None)
    if line is None:
        return "-"
    mean = f"{100 * line.mean:.1f}"
    return f"**{mean}**" if line.method == line.best else f"{mean}*" if line.tied else mean
