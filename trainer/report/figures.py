"""The pictures: accuracy by method, training loss, confusion matrix. PNG, drawn without a display."""

import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from stages.files import write_bytes
from stages.numbers import most
from trainer.report.lettering import labels, plain, set_fonts
from trainer.report.tables import most_shots, role, title_of
from trainer.runs.record import Curve, RunRecord, summarize

OURS, PLUS, REFERENCE, CONTROL, PROBE = "#1f5fa8", "#2e8b57", "#8a8f98", "#d08a2e", "#a03050"
NAMED_CLASSES = 30
"""With more classes than this the confusion matrix leaves out the class names."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osv^D<>PXdph*"
"""Lines that lie on each other differ in both."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, the same bytes every time."""
    set_fonts(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _colour(method: str) -> str:
    return {"aape": OURS, "aape-plus": PLUS, "variant": CONTROL, "other": REFERENCE}[role(method)]


def _caption(figure: Figure, text: str) -> None:
    letters = min(118, int(17 * figure.get_figwidth()))  # that fit into the width of the figure
    figure.text(0.01, 0.01, "\n".join(textwrap.wrap(text, letters)), fontsize=7.5, color="#444444", va="bottom")


def comparison(record: RunRecord, path: Path) -> None:
    """Bars with 95 % intervals, one panel a metric, methods in the table's order."""
    estimates = summarize(record)
    panels = [
        (protocol, metric)
        for protocol, about in most_shots(record).items()
        for metric in about.headline
        if any(metric in found for found in estimates[protocol].values())
    ]
    methods = list(dict.fromkeys(m for by_method in estimates.values() for m in by_method))
    if not panels:
        return
    figure = Figure(
        figsize=(2.1 + 2.3 * len(panels), 1.5 + 0.27 * len(methods)),
        layout=ConstrainedLayoutEngine(rect=(0, 0.1, 1, 0.9)),
    )
    axes: list[Axes] = list(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)))
    for axis, (protocol, metric) in zip(axes, panels, strict=True):
        for row, method in enumerate(methods):
            entry = estimates[protocol].get(method, {}).get(metric)
            if entry is None or entry.mean is None:
                continue
            mean, ci = 100 * entry.mean, 100 * (entry.ci95 or 0)
            whisker = [[min(ci, mean)], [min(ci, 100 - mean)]]
            axis.barh(
                row, mean, xerr=whisker, color=_colour(method), height=0.72, error_kw={"lw": 0.9, "ecolor": "#222222"}
            )
            axis.text(103, row, f"{mean:.1f}", va="center", fontsize=7.5)
        about = record.protocols[protocol]
        axis.set_title(f"{about.name}: {title_of(metric)}\n{about.amount}", fontsize=9)
        axis.set_xlim(0, 119)
        axis.set_xticks(range(0, 101, 25))
        axis.set_xlabel("percent", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), labels(methods))
    axes[0].invert_yaxis()
    figure.suptitle(plain(f"{record.dataset}, encoder {record.encoder}", 90), fontsize=10)
    lite = " The encoder is not CLIP." if record.encoder == "lite" else ""
    _caption(
        figure,
        "Blue: AAPE; orange: its controls and variants; green: AAPE+; grey: baselines on the same features. "
        f"Whiskers: 95 % interval (cut at 0 and 100) over {record.seeds_text}.{lite}",
    )
    save(figure, path)


def by_shots(record: RunRecord, path: Path) -> None:
    """Accuracy by the number of shots, one line a method; drawn where few-shot was run with several numbers.

    AAPE and AAPE+ stand out, with their intervals; the axis begins below the lowest of all but the controls.
    The methods stand side by side at each number, so that equal ones do not hide each other.
    """
    keys = {about.shots: key for key, about in record.protocols.items() if about.name == "few-shot"}
    if len(keys) < 2:
        return
    estimates = summarize(record)
    shots = sorted(keys, key=most)
    numbers = [number for number in shots if number != "all"]
    place = {number: number for number in numbers} | {"all": 2 * max(numbers, default=1)}
    figure = Figure(figsize=(8.4, 5.2), layout=ConstrainedLayoutEngine(rect=(0, 0.06, 1, 0.94)))
    axis = figure.subplots()
    lowest = {}
    methods = list(estimates[keys[shots[-1]]])
    for number, (method, label) in enumerate(zip(methods, labels(methods), strict=True)):
        entries = [estimates[keys[k]].get(method, {}).get("accuracy") for k in shots]
        points = [
            (place[k], e.mean, e.ci95 or 0) for k, e in zip(shots, entries, strict=True) if e and e.mean is not None
        ]
        if not points:
            continue
        at, mean, half = np.array(points).T * [[1], [100], [100]]
        colour, ours = _colour(method), _colour(method) in (OURS, PLUS)
        control = colour == CONTROL
        at = at * 2 ** (0.3 * (number + 0.5) / len(methods) - 0.15)
        line: dict[str, Any] = {
            "label": label,
            "color": colour,
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "-" if ours else DASHES[number % len(DASHES)],
        }
        if ours:
            whiskers = [half.clip(max=mean), half.clip(max=100 - mean)]
            axis.errorbar(at, mean, yerr=whiskers, lw=2.2, ms=5, zorder=3, elinewidth=1.0, capsize=2.5, **line)
        else:
            axis.plot(at, mean, lw=1.0, ms=4, zorder=2, alpha=0.75, **line)
        if not control:
            lowest[method] = float(min(mean))
    axis.set_ylim(bottom=max(0.0, min(lowest.values(), default=0.0) - 4))
    axis.set_xscale("log", base=2)
    axis.set_xticks([place[k] for k in shots], [str(k) for k in shots])
    axis.set_xticks([], minor=True)
    title = plain(f"{record.dataset}: accuracy by shots, encoder {record.encoder}", 80)
    axis.set(title=title, xlabel="shots a class, at most" if record.evaluation.up_to else "shots a class",
             ylabel="accuracy (percent)")  # fmt: skip
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _caption(
        figure,
        f"Mean over {record.seeds_text}; whiskers: 95 % interval. Grey: baselines. Orange: AAPE's controls, which may "
        "lie below the picture. At each number the methods stand side by side.",
    )
    save(figure, path)


NOISE_COLOURS: dict[str, tuple[str, tuple[str, ...]]] = {
    "learned prompts": (OURS, ("shared-shift", "cones", "prograd", "dapt", "aape", "aape-prograd", "aape-chain")),
    "adapters": (CONTROL, ("clip-adapter", "tip-adapter", "tip-adapter-f", "taskres", "ape", "ape-t", "proker")),
    "linear probes": (PROBE, ("logistic", "lp++", "clap", "cross-modal", "nearest-centroid", "gda")),
    "AAPE+": (PLUS, ("aape-plus", "aape-plus-no-text")),
}
"""What a line over the share of wrong labels stands for, its colour, and the methods; grey is text alone."""


def by_noise(record: RunRecord, path: Path) -> None:
    """Accuracy by the share of wrong labels, one line a method; drawn where label-noise was run with several shares.

    Of several numbers of shots the largest. Methods stand side by side at each share, so that equal ones do not hide
    each other.
    """
    noisy = {key: about for key, about in record.protocols.items() if about.noise is not None}
    shots = max((about.shots for about in noisy.values()), key=most, default=None)
    keys = {about.noise: key for key, about in noisy.items() if about.shots == shots}
    shares = sorted(share for share in keys if share is not None)
    if len(shares) < 2:
        return
    estimates = summarize(record)
    figure = Figure(figsize=(8.4, 5.2), layout=ConstrainedLayoutEngine(rect=(0, 0.06, 1, 0.94)))
    axis = figure.subplots()
    methods = list(estimates[keys[shares[0]]])
    room = 25 * min(high - low for low, high in pairwise(shares))  # a quarter of the closest distance, in percent
    lines: Counter[str] = Counter()  # of each colour: lines of one colour differ in their dashes
    for number, (method, label) in enumerate(zip(methods, labels(methods), strict=True)):
        entries = [(share, estimates[keys[share]].get(method, {}).get("accuracy")) for share in shares]
        points = [(100 * share, e.mean, e.ci95 or 0) for share, e in entries if e and e.mean is not None]
        if not points:
            continue
        at, mean, half = np.array(points).T * [[1], [100], [100]]
        name = method.split("@")[0]
        colour = next((colour for colour, those in NOISE_COLOURS.values() if name in those), REFERENCE)
        whiskers = [half.clip(max=mean), half.clip(max=100 - mean)]
        axis.errorbar(
            at + room * ((number + 0.5) / len(methods) - 0.5), mean, yerr=whiskers, label=label, color=colour,
            marker=MARKERS[number % len(MARKERS)], ls=DASHES[lines[colour] % len(DASHES)], lw=1.4, ms=4.5,
            elinewidth=0.8, capsize=2,
        )  # fmt: skip
        lines[colour] += 1
    axis.set_xticks([100 * share for share in shares])
    title = plain(f"{record.dataset}: accuracy by wrong labels, {noisy[keys[shares[0]]].amount}, "
                  f"encoder {record.encoder}", 90)  # fmt: skip
    axis.set(title=title, xlabel="wrong labels among training and validation images (percent)",
             ylabel="accuracy on test images, whose labels are right (percent)")  # fmt: skip
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    told = {OURS: "blue", CONTROL: "orange", PROBE: "red", PLUS: "green"}
    drawn = {method.split("@")[0] for method in methods}
    of = "".join(f"{told[c]}: {what}; " for what, (c, those) in NOISE_COLOURS.items() if drawn & {*those})
    _caption(figure, f"Mean over {record.seeds_text}; whiskers: 95 % interval; {of}grey: text alone and others.")
    save(figure, path)


def losses(dataset: str, curves: Sequence[Curve], path: Path) -> None:
    """Mean training loss over the seeds for each variant of AAPE, few-shot."""
    figure = Figure(figsize=(6.4, 3.9), layout=ConstrainedLayoutEngine(rect=(0, 0.07, 1, 0.93)))
    axis = figure.subplots()
    chosen = [line for line in curves if line.loss_task is not None]
    methods = list(dict.fromkeys(line.method for line in chosen))
    for number, (method, label) in enumerate(zip(methods, labels(methods), strict=True)):
        points: dict[float, list[float]] = {}
        for line in chosen:
            if line.method == method and line.epoch is not None and line.loss_task is not None:
                points.setdefault(line.epoch, []).append(line.loss_task)
        epochs = sorted(points)
        step = max(1, len(epochs) // 8)
        axis.plot(
            epochs, [float(np.mean(points[e])) for e in epochs], label=label, lw=1.4, ls=DASHES[number % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)], ms=4.5, markevery=(number * step // len(methods), step),
        )  # fmt: skip
    title = plain(f"{dataset}: task loss while training", 60)
    axis.set(title=title, xlabel="epoch", ylabel="cross entropy (nats)")
    axis.spines[["top", "right"]].set_visible(False)
    if chosen:
        axis.legend(fontsize=7, frameon=False)
    _caption(
        figure, "Mean over the seeds, few-shot training images. A curve that still falls at its end was cut short."
    )
    save(figure, path)


def confusion(dataset: str, matrix: Int[np.ndarray, "C C"], names: Sequence[str], path: Path) -> None:
    """Share of each actual class (row) predicted as each class (column), with the names of up to `NAMED_CLASSES`."""
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    named = len(names) <= NAMED_CLASSES
    shown = labels(names) if named else []
    margin = 0.055 * max(map(len, shown), default=0)
    side = max(3.6, 0.24 * len(names)) if named else 5.2
    figure = Figure(
        figsize=(side + margin + 1.9, side + margin + 1.3), layout=ConstrainedLayoutEngine(rect=(0, 0.06, 1, 0.94))
    )
    axis = figure.subplots()
    image = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, label="percent of the actual class", shrink=0.8)
    figure.suptitle(plain(f"{dataset}: confusion matrix", 50))
    axis.set(xlabel="predicted", ylabel="actual")
    if named:
        few = len(names) <= 12
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
        axis.set_xticks(range(len(names)), shown, fontsize=8 if few else 7.5, **turned)
        axis.set_yticks(range(len(names)), shown, fontsize=8 if few else 7.5)
        for i, j in zip(*np.nonzero(matrix), strict=True):
            axis.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8 if few else 6,
                      color="white" if share[i, j] > 0.5 else "black")  # fmt: skip
    about = "" if named else f" {len(names)} classes by name; tables.md lists the pairs confused most."
    _caption(
        figure,
        "Test images, by the method that is best on validation images. The diagonal is right; a dark cell beside it "
        f"is a pair that is confused.{about}",
    )
    save(figure, path)
