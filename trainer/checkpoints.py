"""The checkpoints of a run, one a method and prompt source, and which one serves where none is named.

Below `results/runs/DATASET/checkpoints/METHOD/` (`aape`, `aape@written`), of the first seed and the most shots:
    checkpoint.json, checkpoint.safetensors   the classifier (`trainer/checkpoint.py`)
    predictions.csv                           every test image: predicted class, probability, runner-up
    classes.csv                               every class: test images, right ones, accuracy

With `evaluation.checkpoints: all` every other fit lies below `all-checkpoints/PROTOCOL/seed-N/METHOD/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import UserError, nearest
from trainer.checkpoint import RECORD
from trainer.methods import METHODS
from trainer.runs.choice import AT, Ranked, best_of_labels, place, ranked
from trainer.runs.record import RUN, RunRecord, load_record

KEPT, EVERY = "checkpoints", "all-checkpoints"
LABELS = "multi-label"
"""Protocol whose checkpoints serve where few-shot kept none."""


@dataclass(frozen=True)
class Choice:
    """The checkpoint that serves.

    Attributes:
        why: one line for the user.
    """

    folder: Path
    why: str


def folder_name(name: str) -> str:
    """The folder of a method: its name, with what cannot stand in a folder name replaced."""
    return re.sub(r"[^A-Za-z0-9@+._-]+", "-", name).lstrip(".") or "-"


def kept_in(folder: Path) -> dict[str, Path]:
    """Name -> folder of each checkpoint of a run, in the registry's order, without reading them.

    Args:
        folder: of the run, `results/runs/DATASET`.
    """
    found = {file.parent.name: file.parent for file in (folder / KEPT).glob(f"*/{RECORD}")}
    return {name: found[name] for name in sorted(found, key=place)}


def kept_labels(folder: Path) -> dict[str, Path]:
    """The same of a run that gives images several classes: its `multi-label` checkpoints."""
    places = sorted((folder / KEPT).glob(f"{LABELS}*"), key=lambda place: ("long-tailed" in place.name, place.name))
    found = {file.parent.name: file.parent for place in places[:1] for file in place.glob(f"*/{RECORD}")}
    return dict(sorted(found.items()))


def any_kept(results: Path) -> bool:
    """Whether any run kept a checkpoint."""
    return any((results / "runs").glob(f"[!.]*/{KEPT}/*/{RECORD}"))


def record_of(checkpoint: Path) -> RunRecord | None:
    """The record of the run that kept a checkpoint; None where it lies by itself.

    Raises:
        UserError: the record is damaged.
    """
    run = checkpoint.resolve().parent.parent
    return load_record(run) if checkpoint.resolve().parent.name == KEPT and (run / RUN).is_file() else None


def kept_ranked(folder: Path) -> list[Ranked]:
    """The methods whose checkpoints a run kept, from best to worse (`trainer.runs.choice.ranked`).

    Args:
        folder: of the run, `results/runs/DATASET`.

    Raises:
        UserError: the run's record is missing or damaged.
    """
    kept = kept_in(folder)
    return [each for each in ranked(load_record(folder)) if folder_name(each.name) in kept] if kept else []


def choose_checkpoint(results: Path, dataset: str | None, method: str | None, *, usual: str | None = None) -> Choice:
    """The checkpoint of this method, or of the one that is best on validation images.

    Args:
        dataset: None takes the only one there is.
        usual: taken where no method is named and the run kept it.

    Raises:
        UserError: there is none, more than one data set to choose from, or a damaged one; the names there are.
    """
    name, folders = _run(results, dataset)
    if method is None and usual in folders:
        method = usual
    if method is not None:
        return Choice(_named(folders, method, results / "runs" / name), f"{method} of {name}")
    if len(folders) == 1:
        return Choice(*next((folder, f"{only} of {name}, the only checkpoint") for only, folder in folders.items()))
    if folders == kept_labels(results / "runs" / name):
        found = best_of_labels(load_record(results / "runs" / name))
        if found is not None and folder_name(found.name) in folders:
            why = f"{found.name} of {name}, the best of {len(folders)} on {found.on}: mAP {found.mean:.4f}"
            return Choice(folders[folder_name(found.name)], f"{why}; another one with --method NAME")
    best, *others = kept_ranked(results / "runs" / name) or [Ranked(next(iter(folders)), None)]
    why = f"{best.name} of {name}, {reason(best, others)}; another one with --method NAME"
    return Choice(folders[folder_name(best.name)], why)


def reason(best: Ranked, others: Sequence[Ranked]) -> str:
    """Why a method comes before the others."""
    if not others:
        return "the only method"
    if best.validation is None:
        return f"the first of {len(others) + 1}: no method had validation images to be judged on"
    likeliest = " by likelihood" * best.by_loss
    return (
        f"the best of {len(others) + 1}{likeliest} on {best.validation.images}: {_measured(best)}; "
        f"then {others[0].name}, {_measured(others[0])}"
    )


def _measured(of: Ranked) -> str:
    found = of.validation
    if found is None:
        return "not measured"
    return f"accuracy {found.accuracy:.4f}" + ("" if found.loss is None else f", loss {found.loss:.3g}")


def _run(results: Path, dataset: str | None) -> tuple[str, dict[str, Path]]:
    """The data set, and its checkpoints."""
    runs_of = results / "runs"
    runs = {f.name: kept_in(f) or kept_labels(f) for f in sorted(runs_of.glob("[!.]*")) if f.is_dir()}
    found = {name: folders for name, folders in runs.items() if folders}
    if dataset in found:
        return dataset, found[dataset]
    if dataset is None and len(found) == 1:
        return next(iter(found.items()))
    if dataset is None and len(runs) == 1:
        dataset = next(iter(runs))
    if dataset in runs:
        kept = f"its checkpoints in {EVERY}/ alone" if (runs_of / dataset / EVERY).is_dir() else "no checkpoint"
        raise UserError(
            f"{runs_of}/{dataset}: the run kept {kept}: run `trainer run --dataset {dataset} --protocol "
            "few-shot`, or give --checkpoint DIR"
        )
    if not found:
        raise UserError(f"{results}/runs: no checkpoint there yet: run `trainer run` first, or give --checkpoint DIR")
    asked = f"no checkpoint of {dataset!r}" if dataset is not None else "several checkpoints"
    raise UserError(f"{results}/runs: {asked}; choose with --dataset: {', '.join(found)}", exit_code=2)


def _named(folders: Mapping[str, Path], method: str, run: Path) -> Path:
    if folder_name(method) in folders:
        return folders[folder_name(method)]
    if method.partition(AT)[0] in METHODS:
        again = f"`trainer run --dataset {run.name} --methods {method.partition(AT)[0]}` would keep it in their place"
        there = f"there are: {', '.join(folders)}; {again}"
    else:
        there = nearest(method, list(folders))
    raise UserError(f"{run / KEPT}: no checkpoint of {method!r}; {there}", exit_code=2)
