"""The record of a run: settings, notes and the metrics of every fit. Saved, loaded and summarised here alone.

Files below `results/runs/DATASET/`:
    run.json          everything but the seconds, the same bytes for the same input, seed and machine
    timing.json       mean seconds of a fit
    SHA256SUMS        of the files beside it, in every folder (`stages/sums.py`)
    curves.csv        training loss by epoch
    outcomes.csv      predicted label of every test image by every method and seed (of base-to-new among its half), for
                      `trainer compare` and `trainer ranks`
    reliability.csv   confidence and accuracy of the test images in 15 bins of confidence, by every checkpoint
    checkpoints/      a classifier of every method, with its predictions of the test images (`trainer/checkpoints.py`)
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from stages import UserError
from stages.files import write_text
from stages.names import dataset_name
from stages.numbers import Shots, amount
from stages.params import EvaluationParams
from stages.sums import read_summed
from stages.text import csv_rows
from stages.training import TrainParams
from trainer.metrics import interval95

RUN, TIMING, CURVES, OUTCOMES, RELIABILITY, PREDICTIONS, CLASSES = (
    "run.json", "timing.json", "curves.csv", "outcomes.csv", "reliability.csv", "predictions.csv", "classes.csv",
)  # fmt: skip


AGAIN = "run `trainer run` again"
FRACTIONS = {"accuracy", "macro_accuracy", "base", "new", "h", "generalized", "vqa_accuracy"}
RECALL = re.compile(r"(i2t|t2i)_r@\d+")
"""Metrics that are fractions of 1, beside `FRACTIONS`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ProtocolRecord(_Part):
    """One protocol with one number of shots.

    Attributes:
        name: as on the command line.
        up_to: whether a class with fewer images gives what it has.
        headline: the metrics that pictures show.
        noise: share of wrong labels, where there is one.
    """

    name: str
    shots: Shots
    up_to: bool = False
    title: str
    headline: tuple[str, ...]
    noise: float | None = None

    @property
    def amount(self) -> str:
        """`16 shots`, `up to 16 shots`, `all shots`."""
        return amount(self.shots, up_to=self.up_to)


class Validation(_Part):
    """How well a classifier does on images that it did not learn from and that are no test images.

    Attributes:
        accuracy: fraction of 1.
        loss: mean negative log-likelihood in nats; None where the method did not note it.
        images: what was looked at.
    """

    accuracy: float = Field(ge=0, le=1)
    loss: float | None
    images: str


class Confused(_Part):
    """Test images of one class that were taken for another.

    Attributes:
        images: that were taken so.
        of: test images of the class.
    """

    actual: str
    predicted: str
    images: int
    of: int


class Origin(_Part):
    """What the features of a run were made from.

    Attributes:
        source: what was ingested, as the user named it.
        licence: of the images, as far as the source says so itself.
        images: split -> images of each class, in the order of the labels.
        prompts: prompt source -> the language model or file, and what pins it.
        contents: store -> hash of its rows.
        code_version: of this project.
        source_notes: prompt source -> notes that concern it alone.
    """

    source: str | None = None
    licence: str | None = None
    images: dict[str, tuple[int, ...]] = {}
    prompts: dict[str, str] = {}
    contents: dict[str, str] = {}
    code_version: str = ""
    source_notes: dict[str, tuple[str, ...]] = {}


class FitRecord(_Part):
    """One method, fitted on one task with one seed.

    Attributes:
        protocol: key of the protocol.
        method: as in tables; behind an @ stands a prompt source that is not the main one.
        source: the prompt source; `none` for a method that reads no prompts.
        metrics: fractions of 1 (but `nll` nats, `brier` 0 to 2), or null where there was no test image to measure on.
        info: what was chosen, without seconds.
        validation: None where nothing was held out, and for protocols that do not judge all classes.
        confused: the classes confused most, where the protocol judged every test image.
    """

    protocol: str
    method: str
    source: str
    seed: int
    metrics: dict[str, float | None]
    info: dict[str, str | bool | int | float | None]
    validation: Validation | None = None
    confused: tuple[Confused, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _fractions(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        for name, value in metrics.items():
            if value is not None and (name in FRACTIONS or RECALL.fullmatch(name)) and not -1e-9 <= value <= 1 + 1e-9:
                raise ValueError(f"{name} is {value:g}, expected a fraction of 1")
        return metrics


class Paired(_Part):
    """The accuracies of two methods, on the same seeds and test images.

    Attributes:
        first, second: as `FitRecord.method`.
        difference: first minus second, mean over the seeds, fraction of 1.
        ci95: half-width of its 95 % interval, over the test images and the seeds both.
    """

    protocol: str
    first: str
    second: str
    difference: float
    ci95: float


def _file_name(name: str) -> str:
    """A data set's name goes into file names."""
    try:
        return dataset_name(name)
    except UserError as error:
        raise ValueError(str(error)) from error


class RunRecord(_Part):
    """Everything that is known of the run of a data set.

    Attributes:
        notes: lines that every output repeats.
        sources: prompt sources, the main one first.
        classes: how many there are.
        protocols: by key; with several numbers of shots the key tells which.
        evaluation, train: the settings that were used.
        test_images: how many the data set has.
        origin: what the features were made from.
        pairs: methods against logistic regression, and with text against without.
        timing: protocol -> method -> mean seconds of one fit; in a file of its own.
    """

    format: Literal[3] = 3
    dataset: Annotated[str, AfterValidator(_file_name)]
    encoder: str
    notes: tuple[str, ...]
    sources: tuple[str, ...]
    classes: int
    protocols: dict[str, ProtocolRecord]
    evaluation: EvaluationParams
    train: TrainParams
    fits: tuple[FitRecord, ...]
    test_images: int
    origin: Origin = Origin()
    pairs: tuple[Paired, ...] = ()
    timing: dict[str, dict[str, float]] = Field(default={}, exclude=True)

    @model_validator(mode="after")
    def _known(self) -> "RunRecord":
        seen: set[tuple[str, str, int]] = set()
        for fit in self.fits:
            if fit.protocol not in self.protocols:
                raise ValueError(f"a fit of the protocol {fit.protocol!r}, which is not among the protocols")
            key = fit.protocol, fit.method, fit.seed
            if key in seen:
                raise ValueError(f"{fit.method} with seed {fit.seed} stands twice under {fit.protocol}")
            seen.add(key)
        return self

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the fits."""
        return tuple(dict.fromkeys(fit.seed for fit in self.fits))

    @property
    def seeds_text(self) -> str:
        """`3 seeds`, `1 seed`."""
        return f"{len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"

    @property
    def one_class(self) -> bool:
        """Whether an image has one class, so that a classifier of few-shot would say what to do with it."""
        return bool(self.classes) and any(not each.name.startswith("multi-label") for each in self.protocols.values())

    @property
    def judged(self) -> bool:
        """Whether any metric of any fit could be measured."""
        return any(value is not None for fit in self.fits for value in fit.metrics.values())


@dataclass(frozen=True)
class Estimate:
    """A metric over the seeds.

    Attributes:
        mean: None where there was nothing to measure on.
        ci95: half-width of the 95 % interval; None for fewer than two seeds.
        n: seeds that were measured.
    """

    mean: float | None
    ci95: float | None
    n: int


Estimates = dict[str, dict[str, dict[str, Estimate]]]
"""protocol -> method -> metric -> mean and interval."""


def number(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else value


def summarize(record: RunRecord) -> Estimates:
    """Mean and interval of every metric over the seeds of one data set's run."""
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for fit in record.fits:
        for metric, value in fit.metrics.items():
            values.setdefault(fit.protocol, {}).setdefault(fit.method, {}).setdefault(metric, []).append(value)
    return {
        protocol: {
            method: {metric: _estimate(found) for metric, found in by_metric.items()}
            for method, by_metric in by_method.items()
        }
        for protocol, by_method in values.items()
    }


def _estimate(values: Sequence[float | None]) -> Estimate:
    """Rounded far below any meaning, so that files do not differ by the last bit."""
    found = [value for value in values if value is not None]
    mean, ci95 = interval95(found)
    mean_, half = number(mean), number(ci95)
    return Estimate(
        None if mean_ is None else round(mean_, 8), None if half is None else round(half, 8), len(found)
    )  # fmt: skip


def save_record(record: RunRecord, folder: Path) -> None:
    """Write run.json and timing.json, each atomically."""
    content = record.model_dump(mode="json", by_alias=True)
    write_text(folder / RUN, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    write_text(folder / TIMING, json.dumps(record.timing, indent=1))


def load_record(folder: Path) -> RunRecord:
    """Read run.json and timing.json back.

    Raises:
        UserError: missing, damaged or made by another version; one line with the file and the mend.
    """
    file = folder / RUN
    try:
        record = _parse(file, RunRecord.model_validate_json)
    except FileNotFoundError as error:
        raise UserError(f"{file} is not there: run `trainer run --dataset {folder.name}` first") from error
    try:
        timing = _parse(folder / TIMING, TypeAdapter(dict[str, dict[str, _Seconds]]).validate_json)
    except FileNotFoundError:
        timing = {}
    return RunRecord.model_construct(**{**dict(record), "timing": timing})


_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Parsed = TypeVar("Parsed")


def _parse(file: Path, parse: Callable[[bytes], Parsed]) -> Parsed:
    """A file's content by this parser.

    Raises:
        FileNotFoundError: it is missing.
        UserError: it cannot be read, or is not what it should be.
    """
    try:
        content = read_summed(file, mend=AGAIN)
        if content is None:
            raise FileNotFoundError(file)
        return parse(content)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        raise UserError(f"{file}: {first_fault(error)}; it is damaged or of another version: {AGAIN}") from error


def first_fault(error: ValidationError) -> str:
    """The first fault of a damaged file, with its place."""
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")[:200]
    return f"{place}: {message}" if place else message


def finished_runs(results: Path) -> dict[str, RunRecord]:
    """The records of all data sets of a results folder, by data set.

    Raises:
        UserError: one is damaged, or lies in the folder of another data set.
    """
    found = {}
    for folder in sorted(file.parent for file in (results / "runs").glob(f"[!.]*/{RUN}")):
        record = load_record(folder)
        if record.dataset != folder.name:
            raise UserError(
                f"{folder / RUN}: is of data set {record.dataset!r}, in the folder of {folder.name!r}: move it to "
                f"{folder.with_name(record.dataset)}, or run `trainer run --dataset {folder.name}` again"
            )
        found[record.dataset] = record
    return found


class Curve(NamedTuple):
    """One epoch of one fit."""

    protocol: str
    method: str
    seed: int
    epoch: float | None
    loss: float | None
    loss_task: float | None
    loss_distill: float | None


class Outcome(NamedTuple):
    """One test image, judged by one fit; classes as labels."""

    protocol: str
    method: str
    seed: int
    image_id: str
    actual: int
    predicted: int


class Prediction(NamedTuple):
    """One test image, judged by one checkpoint; classes by name, calibrated probabilities as fractions of 1."""

    image_id: str
    actual: str
    predicted: str
    probability: float
    runner_up: str
    runner_up_probability: float


class ClassCount(NamedTuple):
    """The test images of one class, judged by one checkpoint; the accuracy is empty where there are none."""

    name: str
    images: int
    right: int
    accuracy: float | None


class Reliability(NamedTuple):
    """The images whose largest probability falls into one bin (lower, upper].

    Attributes:
        method: as in tables.
        bin: from 0.
        count: images; the two means are None where there are none.
        confidence: mean largest probability.
        accuracy: share of them that are right.
    """

    method: str
    bin: int
    lower: float
    upper: float
    count: int  # type: ignore[assignment]  # a tuple's method, which no row needs
    confidence: float | None
    accuracy: float | None


Line = TypeVar("Line", Curve, Outcome, Prediction, ClassCount, Reliability)


def write_lines(file: Path, kind: type[Line], lines: Iterable[Line]) -> None:
    """Write rows of one kind as CSV, atomically."""
    write_text(file, csv_text(kind._fields, lines))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None becomes an empty cell, and NUL, which would make the file unreadable, an escape."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().replace("\0", "\\x00")


def read_lines(file: Path, kind: type[Line]) -> list[Line]:
    """Rows as `write_lines` wrote them; none where the file is not there.

    Raises:
        UserError: damaged, with file, line and mend.
    """
    try:
        content = read_summed(file, mend=AGAIN)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    if content is None:
        return []
    mend = f"it was cut off or edited: {AGAIN}"
    names = kind._fields
    parse = [_CELLS[annotation] for annotation in kind.__annotations__.values()]
    rows = csv_rows(file)
    _, header = next(rows, (1, []))
    if header != list(names):
        raise UserError(f"{file}: expected the columns {', '.join(names)}; {mend}")
    found = []
    for place, row in rows:
        if len(row) != len(names):
            raise UserError(f"{file}, line {place}: {len(row)} cells where the header has {len(names)}; {mend}")
        try:
            found.append(kind(*(read(cell) for read, cell in zip(parse, row, strict=True))))
        except ValueError as error:
            raise UserError(f"{file}, line {place}: {str(error)[:100]}; {mend}") from error
    return found


def _whole(cell: str) -> int:
    value = int(cell)
    if value < 0:
        raise ValueError(f"{value} is less than 0")
    return value


_CELLS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: _whole,
    float: float,
    float | None: lambda cell: number(float(cell)) if cell else None,
}
"""How a cell is read, by the type of its column."""
