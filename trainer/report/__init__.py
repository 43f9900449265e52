"""`trainer report`: the runs of all data sets -> metrics.json, tables, plots for DVC, pictures."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from stages import UserError
from stages.command import say
from stages.extras import installed, mend
from stages.files import write_text
from trainer.record import (
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
from trainer.report.tables import markdown_tables, most_shots, text_tables

__all__ = ["report", "text_tables"]


def report(results: Path) -> tuple[dict[str, Estimates], str]:
    """Write everything that speaks of all data sets at once.

    Written below `results/`: metrics.json, tables.md, plots/ (CSV for `dvc plots`), figures/ (PNG), the last where
    matplotlib is installed.

    Returns:
        data set -> its metrics, and the tables as text.

    Raises:
        UserError: nothing has been run yet, or a run's files are damaged.
    """
    records = finished_runs(results)
    if not records:
        raise UserError(f"{results}/runs: no run there yet: run `trainer run` first, or name the folder with --results")
    curves = {name: _few_shot_curves(record, results / "runs" / name) for name, record in records.items()}
    predictions = {name: read_lines(results / "runs" / name / PREDICTIONS, Prediction) for name in records}
    if not installed("matplotlib"):
        say(f"no pictures: matplotlib is not installed: {mend('matplotlib')}")
    for name, record in records.items():
        if predictions[name]:
            pairs = [(line.actual, line.predicted) for line in predictions[name]]
            write_text(results / "plots" / "confusion" / f"{name}.csv", csv_text(("actual", "predicted"), pairs))
        if installed("matplotlib"):
            _draw(record, curves[name], predictions[name], results)
    write_text(results / "plots" / "curves.csv", _mean_curves(curves))
    metrics = {name: summarize(record) for name, record in records.items()}
    write_text(results / "metrics.json", json.dumps(as_json(metrics), indent=1, ensure_ascii=False) + "\n")
    tables = "\n".join(map(markdown_tables, records.values()))
    write_text(results / "tables.md", f"# Results\n\nPercent, mean ± 95 % interval over the seeds.\n\n{tables}")
    return metrics, "\n\n\n".join(map(text_tables, records.values()))


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


def _draw(record: RunRecord, curves: list[Curve], predictions: list[Prediction], results: Path) -> None:
    from trainer.report import figures

    name = record.dataset
    figures.comparison(record, results / "figures" / f"comparison-{name}.png")
    figures.by_shots(record, results / "figures" / f"shots-{name}.png")
    figures.losses(name, curves, results / "figures" / f"loss-{name}.png")
    if predictions:
        names = sorted({line.actual for line in predictions} | {line.predicted for line in predictions})
        matrix = np.zeros((len(names), len(names)), dtype=int)
        for line in predictions:
            matrix[names.index(line.actual), names.index(line.predicted)] += 1
        figures.confusion(name, matrix, names, results / "figures" / f"confusion-{name}.png")


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
