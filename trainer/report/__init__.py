"""`trainer report`: the runs of all data sets -> metrics.json, headline numbers, tables, plots, pictures, a page."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Int

from stages import UserError
from stages.command import say
from stages.extras import installed, mend
from stages.files import user_errors, write_text
from trainer.checkpoints import folder_name, kept_in, kept_ranked
from trainer.report.headline import write_headline
from trainer.report.page import write_page
from trainer.report.tables import (
    has_intervals,
    markdown_pairs,
    markdown_tables,
    markdown_verdict,
    most_shots,
    text_tables,
    text_verdict,
)
from trainer.runs.record import (
    CURVES,
    PREDICTIONS,
    Curve,
    Estimates,
    Prediction,
    RunRecord,
    csv_text,
    finished_runs,
    read_lines,
    summarize,
)

__all__ = ["report", "text_tables", "text_verdict"]

KINDS = ("comparison", "shots", "noise", "loss", "confusion")
"""What `figures/` has of a data set."""
MOST_CLASSES = 1000
"""Of a picture of the confusion: with more, a class is less than a dot wide, and the matrix fills the memory."""


def report(results: Path, cache: Path = Path("cache")) -> tuple[dict[str, Estimates], str]:
    """Write everything that speaks of all data sets at once.

    Written below `results/`: metrics.json, headline/ (JSON for `dvc metrics show`), tables.md, plots/ (CSV for
    `dvc plots`), figures/ (PNG), the last where matplotlib is installed; report.html (`trainer.report.page`).

    Args:
        cache: folder of the stores, of which report.html shows images and sentences.

    Returns:
        data set -> its metrics, and the tables and verdicts as text.

    Raises:
        UserError: nothing has been run yet, or a run's files are damaged.
    """
    records = finished_runs(results)
    if not records:
        raise UserError(f"{results}/runs: no run there yet: run `trainer run` first, or name the folder with --results")
    curves = {name: _few_shot_curves(record, results / "runs" / name) for name, record in records.items()}
    predictions = {name: _best_predictions(results / "runs" / name) for name in records}
    if not installed("matplotlib"):
        say(f"no pictures: matplotlib is not installed: {mend('matplotlib')}")
    _forget_pictures(results)
    for name, record in records.items():
        if predictions[name]:
            pairs = [(line.actual, line.predicted) for line in predictions[name]]
            write_text(results / "plots" / "confusion" / f"{name}.csv", csv_text(("actual", "predicted"), pairs))
        if installed("matplotlib"):
            _draw(record, curves[name], predictions[name], results)
    write_text(results / "plots" / "curves.csv", _mean_curves(curves))
    metrics = {name: summarize(record) for name, record in records.items()}
    write_text(results / "metrics.json", json.dumps(as_json(metrics), indent=1, ensure_ascii=False) + "\n")
    write_headline(records, results)
    tables = "\n".join(
        markdown_verdict(record) + markdown_tables(record) + markdown_pairs(predictions[name])
        for name, record in records.items()
    )
    write_text(results / "tables.md", f"# Results\n\n{_scale(metrics.values())}\n\n{tables}")
    write_page(records, results, cache)
    return metrics, "\n\n\n".join(
        [*map(text_tables, records.values()), *filter(None, map(text_verdict, records.values()))]
    )


def _scale(metrics: Iterable[Estimates]) -> str:
    """What the cells of all tables hold."""
    spread = [has_intervals(each) for each in metrics]
    if not any(spread):
        return "Percent, of one seed: no intervals over seeds."
    return f"Percent, mean ± 95 % interval over the seeds{'' if all(spread) else ' (none where there is one seed)'}."


def as_json(metrics: dict[str, Estimates]) -> dict[str, object]:
    """data set -> protocol -> method -> metric -> {mean, ci95, n}."""
    return {
        name: {
            protocol: {method: {metric: asdict(e) for metric, e in by.items()} for method, by in by_method.items()}
            for protocol, by_method in estimates.items()
        }
        for name, estimates in metrics.items()
    }


def _few_shot_curves(record: RunRecord, folder: Path) -> list[Curve]:
    """Those of the largest number of shots."""
    most = {about.name: key for key, about in most_shots(record).items()}.get("few-shot")
    return [line for line in read_lines(folder / CURVES, Curve) if line.protocol == most]


def _best_predictions(run: Path) -> list[Prediction]:
    """Those of the checkpoint that is best on validation images; none where the run kept none."""
    order = kept_ranked(run)
    return read_lines(kept_in(run)[folder_name(order[0].name)] / PREDICTIONS, Prediction) if order else []


def _forget_pictures(results: Path) -> None:
    """Pictures of earlier runs, some of which this one may not draw."""
    old = [file for kind in KINDS for file in (results / "figures").glob(f"{kind}-*.png")]
    for file in [*old, *(results / "plots" / "confusion").glob("*.csv")]:
        with user_errors(file):
            file.unlink()


def _draw(record: RunRecord, curves: list[Curve], predictions: list[Prediction], results: Path) -> None:
    from trainer.report import figures

    name = record.dataset
    figures.comparison(record, results / "figures" / f"comparison-{name}.png")
    figures.by_shots(record, results / "figures" / f"shots-{name}.png")
    figures.by_noise(record, results / "figures" / f"noise-{name}.png")
    figures.losses(name, curves, results / "figures" / f"loss-{name}.png")
    names = sorted({line.actual for line in predictions} | {line.predicted for line in predictions})
    if len(names) > MOST_CLASSES:
        say(f"{name}: no picture of the confusion of {len(names)} classes: tables.md lists the pairs confused most")
    elif predictions:
        figures.confusion(name, confusion_of(predictions, names), names, results / "figures" / f"confusion-{name}.png")


def confusion_of(predictions: Sequence[Prediction], names: Sequence[str]) -> Int[np.ndarray, "C C"]:
    """How many images of class row were predicted as class column."""
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(
        matrix, ([place[line.actual] for line in predictions], [place[line.predicted] for line in predictions]), 1
    )
    return matrix


def _mean_curves(curves: dict[str, list[Curve]]) -> str:
    """Task loss by epoch, mean over seeds, one line a data set and method, for DVC's plots."""
    points: dict[tuple[str, str, int], list[float]] = {}
    for dataset, lines in curves.items():
        for line in lines:
            if line.loss_task is not None and line.epoch is not None:
                points.setdefault((dataset, line.method, int(line.epoch)), []).append(line.loss_task)
    rows: Iterable[tuple[str, int, str]] = (
        (f"{dataset} {method}", epoch, f"{sum(losses) / len(losses):.6f}")
        for (dataset, method, epoch), losses in sorted(points.items())
    )
    return csv_text(("run", "epoch", "loss"), rows)
