"""A study: which settings are varied over which values, on what, and what is looked at."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.params import check, read_yaml
from trainer.runs.record import Estimate

Value = str | int | float | bool | None | list[str] | list[int] | list[float]


class Study(BaseModel):
    """The content of a file in `studies/`; a setting is named by its path in params.yaml, such as `train.lambda`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str = Field(min_length=1, description="what is asked")
    about: str = Field("", description="the place in the paper, and what is left out")
    set: dict[str, Value] = Field({}, description="settings that hold for every point")
    grid: dict[str, list[Value]] = Field({}, description="settings and their values; every combination is a point")
    points: list[dict[str, Value]] = Field([], description="or the points one by one")
    metrics: list[str] = Field([], description="metrics that are plotted; [] = those that the protocols are known by")

    @model_validator(mode="after")
    def _something(self) -> "Study":
        if bool(self.grid) == bool(self.points):
            raise ValueError("give either grid or points")
        if any(not values for values in self.grid.values()):
            raise ValueError("a setting of grid has no values")
        return self

    def settings(self) -> list[dict[str, Value]]:
        """The points: what is varied, by path."""
        if self.points:
            return list(self.points)
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


@dataclass(frozen=True)
class SweepRow:
    """One line of a sweep's table: one method at one point."""

    dataset: str
    point: dict[str, Value]
    protocol: str
    method: str
    metrics: dict[str, Estimate]
    seconds: float | None


def describe(point: dict[str, Value]) -> str:
    """A point in words: `train.lambda 5, train.query mean`."""
    return ", ".join(f"{path} {plain(value)}" for path, value in point.items())


def plain(value: Value) -> str:
    """A value as a table shows it."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def read_study(file: Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: missing, malformed, or with faults; all of them are named.
    """
    return study_of(read_yaml(file), where=str(file))


def study_of(raw: Any, *, where: str, metrics: list[str] | None = None) -> Study:
    """A study from the content of its file; `metrics` take the place of its own.

    Raises:
        UserError: with faults; all of them are named.
    """
    if metrics is not None and isinstance(raw, dict):
        raw = {**raw, "metrics": metrics}
    return check(Study, raw, where=where)
