"""`trainer run`: fit every method of every protocol and seed, then, and only then, read the test split and judge.

What is written, below `results/runs/DATASET/`:
    run.json          settings, notes and the metrics of every run
    timing.json       seconds of every run (apart, so that the other files are the same bytes every time)
    curves.csv        training loss of AAPE
    predictions.csv   predicted class of every test image (few-shot, first seed, the checkpoint's method)
    outcomes.csv      predicted label of every test image by every method and seed, for `trainer compare`
    checkpoint/       safetensors and JSON, for `trainer predict`
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts import NO_LLM
from stages.command import progress
from stages.files import write_text
from stages.params import Params
from trainer.checkpoint import save_checkpoint
from trainer.data import Task, check_task
from trainer.features import Features, Split
from trainer.fits import FinishedFits, fit
from trainer.methods import Method, Predictor, methods
from trainer.metrics import interval95
from trainer.protocols import Protocol, Score, TestSplits

if TYPE_CHECKING:
    import torch

FITS_A_PROCESS = 12
"""Fewer fits than this a process are not worth starting it."""
AT = "@"
"""Between a method and a prompt source that is not the settings' own LLM: `cupl@written`."""


@dataclass
class Run:
    """One method on one task with one seed."""

    protocol: Protocol
    method: Method
    source: str
    key: str
    seed: int
    predictor: Predictor
    seconds: float
    score: Score | None = None


@dataclass
class Outcome:
    """All runs of a data set."""

    features: Features
    protocols: list[Protocol]
    test: Split | None = None
    runs: list[Run] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def run_dataset(
    features: Features,
    params: Params,
    *,
    protocols: Sequence[Protocol],
    method_names: Sequence[str],
    seeds: Sequence[int],
    jobs: int | None = None,
    keep: Path | None = None,
) -> Outcome:
    """Fit everything, then judge everything.

    Args:
        protocols: what `trainer.protocols.protocols` made.
        jobs: processes that fit side by side; None takes one a core, and one alone on a GPU. Each computes with one
            thread, so the results are the same bytes for any number.
        keep: folder of finished fits: an interrupted run goes on where it was, with the same outcome. None keeps none.

    Raises:
        UserError: an unknown name, a class with fewer images than shots, or features that cannot be learned from.
    """
    chosen = methods(method_names, settings=params.train)
    outcome = Outcome(features, list(protocols))
    plan: list[tuple[Protocol, int, Method, str, str]] = []
    for way in protocols:
        outcome.caveats += [line for line in way.caveats(features) if line not in outcome.caveats]
        able = [m for m in chosen if m.serves_new_classes or not way.serves_new_classes]
        plan += [(way, seed, m, source, key) for seed in seeds for m in able for source, key in _sources(features, m)]
    outcome.caveats += _spent(features, max(way.shots for way in protocols))
    tasks: dict[tuple[str, int, str], Task] = {}
    for way, seed, _, source, _ in plan:
        if (way.key, seed, source) not in tasks:
            tasks[way.key, seed, source] = way.task(features, source, seed=seed)
            check_task(tasks[way.key, seed, source])
    fits = [(method, tasks[way.key, seed, source], seed) for way, seed, method, source, _ in plan]
    fitted = _fit_or_load(fits, jobs=_jobs(features, len(fits), jobs), keep=keep, device=features.device)
    done = progress(fitted, what=f"training {features.dataset}", total=len(plan), unit="run")
    for (way, seed, method, source, key), (predictor, seconds_) in zip(plan, done, strict=True):
        outcome.runs.append(Run(way, method, source, key, seed, predictor, seconds_))
    tests = TestSplits()  # from here on, and not before, a test split may be read
    outcome.test = tests.of(features)
    for run in outcome.runs:
        run.score = run.protocol.score(
            run.predictor, features, run.source, tests, new_classes=run.method.serves_new_classes
        )
    return outcome


def _jobs(features: Features, fits: int, asked: int | None) -> int:
    """Processes to start: none beside this one for a handful of fits, or where a GPU does the work."""
    if features.device.type != "cpu":
        return 1
    return min(asked or len(os.sched_getaffinity(0)), max(1, fits // FITS_A_PROCESS))


def _fit_or_load(
    fits: Sequence[tuple[Method, Task, int]], *, jobs: int, keep: Path | None, device: "torch.device"
) -> Iterator[tuple[Predictor, float]]:
    """All fits, in their order: those that an interrupted run finished from disk, the others new, each kept at once."""
    if keep is None:
        yield from _fit_all(fits, jobs=jobs)
        return
    finished = FinishedFits(keep)
    files = [finished.file(*each) for each in fits]
    there = [file.exists() and finished.load(file, device=device) is not None for file in files]
    fresh = _fit_all([each for each, done in zip(fits, there, strict=True) if not done], jobs=jobs)
    for file, done in zip(files, there, strict=True):
        found = finished.load(file, device=device) if done else None
        if found is None:
            found = next(fresh)
            finished.keep(file, *found)
        yield found


def _fit_all(fits: Sequence[tuple[Method, Task, int]], *, jobs: int) -> Iterator[tuple[Predictor, float]]:
    """All fits, in their order, as they get ready."""
    if jobs == 1:
        return (fit(method, task, seed=seed) for method, task, seed in fits)
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        ready: Iterator[tuple[Predictor, float]] = Parallel(n_jobs=jobs, return_as="generator")(
            delayed(fit)(method, task, seed=seed) for method, task, seed in fits
        )
        return ready


def _spent(features: Features, shots: int) -> list[str]:
    """What to know of the draws: where they leave no choice, and where validation images come from."""
    lines = []
    counts = features.train.images.labels.bincount(minlength=len(features.class_names))
    whole = int((counts == shots).sum())
    if whole and features.indices is None:
        lines.append(
            f"{shots} shots are all training images of {whole} classes: there every seed trains on the same images, "
            "and the interval speaks of starting values, order and validation images alone"
        )
    if not len(features.val.image_ids):
        lines.append(
            f"{features.dataset} has no validation split: choices are made on training images that are no shots, "
            "drawn by seed, or on a part of the shots where none is left"
        )
    return lines


def _sources(features: Features, method: Method) -> list[tuple[str, str]]:
    """The prompt sources a method is fitted with, and the names of the results."""
    if not method.uses_prompts:
        return [(NO_LLM, method.name)]
    main, *others = features.sources or (NO_LLM,)
    return [(main, method.name), *((source, f"{method.name}{AT}{source}") for source in others)]


def as_record(outcome: Outcome, params: Params) -> dict[str, Any]:
    """The whole run as JSON, the same for the same input, seed and machine."""
    features = outcome.features
    return {
        "dataset": features.dataset,
        "encoder": features.encoder,
        "notes": [*features.notes, *outcome.caveats],
        "sources": list(features.sources),
        "classes": len(features.class_names),
        "protocols": {way.key: {"name": way.name, "shots": way.shots, "title": way.title} for way in outcome.protocols},
        "train": params.train.model_dump(mode="json", by_alias=True),
        "runs": [
            {
                "protocol": run.protocol.key,
                "method": run.key,
                "seed": run.seed,
                "metrics": run.score.metrics if run.score else {},
                "info": {k: v for k, v in run.predictor.info.items() if not k.endswith("seconds")},
            }
            for run in outcome.runs
        ],
    }


def summarize(record: dict[str, Any]) -> dict[str, dict[str, dict[str, dict[str, float | int | None]]]]:
    """protocol -> method -> metric -> {mean, ci95, n} over the seeds of one data set's run."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in record["runs"]:
        for metric, value in run["metrics"].items():
            values.setdefault(run["protocol"], {}).setdefault(run["method"], {}).setdefault(metric, []).append(value)
    table: dict[str, dict[str, dict[str, dict[str, float | int | None]]]] = {}
    for name, by_method in values.items():
        for method, by_metric in by_method.items():
            for metric, found in by_metric.items():
                mean, ci95 = interval95(found)
                entry = {"mean": _clean(mean), "ci95": _clean(ci95), "n": len(found)}
                table.setdefault(name, {}).setdefault(method, {})[metric] = entry
    return table


def _clean(value: float | None) -> float | None:
    """Rounded far below any meaning, so that files do not differ by the last bit; no NaN in JSON."""
    return None if value is None or math.isnan(value) else round(value, 8)


def seconds(outcome: Outcome) -> dict[str, dict[str, float]]:
    """protocol -> method -> mean seconds of one fit."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in outcome.runs:
        found.setdefault(run.protocol.key, {}).setdefault(run.key, []).append(run.seconds)
    return {p: {m: sum(v) / len(v) for m, v in by.items()} for p, by in found.items()}


def write(outcome: Outcome, params: Params, folder: Path) -> None:
    """Write the files of one data set, each atomically."""
    features = outcome.features
    record = as_record(outcome, params)
    write_text(folder / "run.json", json.dumps(record, indent=1, ensure_ascii=False))
    write_text(folder / "timing.json", json.dumps(seconds(outcome), indent=1))
    write_text(folder / "curves.csv", _curves(outcome))
    write_text(folder / "outcomes.csv", _outcomes(outcome))
    best = checkpoint_run(outcome)
    if best is None:
        return
    provenance = {
        "dataset": features.dataset,
        "encoder": features.encoder,
        "encoder_fingerprint": features.encoder_fingerprint,
        "width": features.width,
        "method": best.key,
        "seed": best.seed,
        "shots": best.protocol.shots,
        "notes": list(features.notes),
    }
    save_checkpoint(folder / "checkpoint", best.predictor, features.text[best.source], provenance=provenance)
    if outcome.test is not None and best.score is not None and best.score.predictions is not None:
        write_text(folder / "predictions.csv", _predictions(features, outcome.test, best.score.predictions.tolist()))


def checkpoint_run(outcome: Outcome) -> Run | None:
    """The run that becomes the checkpoint: plain AAPE, few-shot with the most shots, first seed; of several prompt
    sources the one that is best on the validation images (never on the test split).
    """
    able = [run for run in outcome.runs if run.method.name == "aape" and run.protocol.name == "few-shot"]
    first = min((run.seed for run in able), default=0)
    most = max((run.protocol.shots for run in able), default=0)
    able = [run for run in able if (run.seed, run.protocol.shots) == (first, most)]
    return max(able, key=lambda run: float(run.predictor.info.get("val_accuracy", 0.0)), default=None)


def _csv(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _curves(outcome: Outcome) -> str:
    rows = [
        {"dataset": outcome.features.dataset, "protocol": run.protocol.key, "method": run.key, "seed": run.seed,
         **{name: entry.get(name) for name in ("epoch", "loss", "loss_task", "loss_distill")}}
        for run in outcome.runs
        for entry in run.predictor.history
    ]  # fmt: skip
    return _csv(rows, ["dataset", "protocol", "method", "seed", "epoch", "loss", "loss_task", "loss_distill"])


def _outcomes(outcome: Outcome) -> str:
    if outcome.test is None:
        return ""
    actual = outcome.test.images.labels.tolist()
    rows = [
        {"protocol": run.protocol.key, "method": run.key, "seed": run.seed, "image_id": i, "actual": a, "predicted": p}
        for run in outcome.runs
        if run.score is not None and run.score.predictions is not None
        for i, a, p in zip(outcome.test.image_ids, actual, run.score.predictions.tolist(), strict=True)
    ]
    return _csv(rows, ["protocol", "method", "seed", "image_id", "actual", "predicted"])


def _predictions(features: Features, test: Split, predicted: list[int]) -> str:
    names = features.class_names
    rows = [
        {"image_id": i, "actual": names[a], "predicted": names[p]}
        for i, a, p in zip(test.image_ids, test.images.labels.tolist(), predicted, strict=True)
    ]
    return _csv(rows, ["image_id", "actual", "predicted"])
