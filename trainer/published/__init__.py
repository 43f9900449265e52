"""`trainer paper-table`: our results beside the published ones, for the same protocol, data sets and shots.

The published numbers stand in `numbers.yaml` with their source. Ours come from the runs of a results folder and from
nowhere else: where a data set of a mean has no run there is no mean. What keeps a row from being a comparison (another
encoder or language model, a part of the classes) is said in that row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.names import slug
from stages.params import check, read_yaml
from trainer.metrics import harmonic_mean, interval95
from trainer.runs.record import FitRecord, RunRecord

NUMBERS = Path(__file__).with_name("numbers.yaml")
ENCODERS = {
    "ViT-B/16": ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16-quickgelu/openai"),
    "ViT-L/14": ("open_clip:ViT-L-14/openai", "open_clip:ViT-L-14-quickgelu/openai"),
}
"""The paper's name of an encoder -> ours: OpenAI's weights."""
METRICS = {"base-to-new": ("base", "new", "h"), "few-shot": ("accuracy",)}
NOT_RUN = "not run"
MOST_NAMED = 3

Percent = Annotated[float, Field(ge=0, le=100)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PublishedRow(_Part):
    """One method of a published table.

    Attributes:
        as_: the paper's name.
        method: ours; None where this project has no such method.
        values: metric -> a number for each number of shots, percent; fewer where they are not printed.
    """

    as_: str = Field(alias="as")
    method: str | None = None
    values: dict[str, list[Percent]] = {}

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        values = {key: value for key, value in raw.items() if key not in ("as", "method")}
        plain = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
        return {**{key: raw[key] for key in ("as", "method") if key in raw}, "values": plain}


class PublishedTable(_Part):
    """A published table: one protocol on some data sets, of which the mean is taken."""

    title: str
    source: str
    protocol: str
    encoder: Literal["ViT-B/16", "ViT-L/14"]
    of: Literal["eleven"] | list[str]
    shots: int | list[int] | None = None
    rows: list[PublishedRow]


class Published(_Part):
    """All of `numbers.yaml`."""

    eleven: dict[str, int]
    llm: str
    tables: list[PublishedTable]

    def sets(self, table: PublishedTable) -> list[str]:
        """The data sets that a table's numbers are the mean of."""
        return list(self.eleven) if table.of == "eleven" else list(table.of)


@dataclass(frozen=True)
class Row:
    """One published number beside ours, percent.

    Attributes:
        shots: None where all training images are used.
        name: the paper's name of the method.
        published: None where the paper prints none.
        ours: mean over the data sets and seeds; None where it was not run.
        ci95: half-width of the interval of ours, and so of the difference, over the seeds; None for one seed.
        difference: ours minus published.
        seeds: seeds that all data sets share.
        said: what keeps the row from being a comparison, or what was not run.
        source: where the published number stands.
    """

    table: str
    shots: int | None
    metric: str
    name: str
    method: str | None
    published: float | None
    ours: float | None
    ci95: float | None
    difference: float | None
    seeds: int
    said: str
    source: str


def published(file: Path = NUMBERS) -> Published:
    """The published numbers.

    Raises:
        UserError: every fault of the file in one line.
    """
    return check(Published, read_yaml(file), where=str(file))


def paper_table(records: Mapping[str, RunRecord], numbers: Published | None = None) -> list[Row]:
    """A row for every published number, in the order of the tables; ours beside it where all of it was run."""
    numbers = numbers or published()
    return [
        _row(numbers, table, row, position, shots, metric, records)
        for table in numbers.tables
        for row in table.rows
        for metric in METRICS.get(table.protocol, tuple(row.values))
        for position, shots in enumerate(table.shots if isinstance(table.shots, list) else [table.shots])
    ]


def _row(
    numbers: Published, table: PublishedTable, row: PublishedRow, position: int, shots: int | None, metric: str,
    records: Mapping[str, RunRecord],
) -> Row:  # fmt: skip
    printed = row.values.get(metric, [])
    there = printed[position] if position < len(printed) else None
    sets = numbers.sets(table)
    ours = ci95 = None
    seeds = 0
    if row.method is None:
        said = "no such method here"
    else:
        fits = {name: _fits(records.get(name), table.protocol, shots, row.method) for name in sets}
        lacking = [name for name, found in fits.items() if not found]
        said = _lacking(lacking, of=len(sets)) if len(lacking) < len(sets) else NOT_RUN
        if not lacking:
            found = _means(list(fits.values()), metric)
            seeds = len(found)
            mean, half = interval95(found)
            ours, ci95 = (100 * mean, None if half is None else 100 * half) if found else (None, None)
            said = "; ".join(_reservations(numbers, table, [records[name] for name in sets])) if found else NOT_RUN
    return Row(
        table=table.title, shots=shots, metric=metric, name=row.as_, method=row.method, published=there,
        ours=_rounded(ours), ci95=_rounded(ci95),
        difference=None if ours is None or there is None else _rounded(ours - there),
        seeds=seeds, said=said, source=table.source,
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _fits(record: RunRecord | None, protocol: str, shots: int | None, method: str) -> list[FitRecord]:
    """The fits of a method with these shots, each class having as many."""
    if record is None:
        return []
    keys = [key for key, about in record.protocols.items() if about.name == protocol and (shots in (None, about.shots))]
    return [fit for fit in record.fits if fit.protocol in keys and fit.method == method]


def _means(fits: Sequence[Sequence[FitRecord]], metric: str) -> list[float]:
    """For each seed that all data sets share the mean over them; `h` of the two means."""
    if metric == "h":
        base, new = _by_seed(fits, "base"), _by_seed(fits, "new")
        return [harmonic_mean(base[seed], new[seed]) for seed in base if seed in new]
    return list(_by_seed(fits, metric).values())


def _by_seed(fits: Sequence[Sequence[FitRecord]], metric: str) -> dict[int, float]:
    values = [{fit.seed: value for fit in each if (value := fit.metrics.get(metric)) is not None} for each in fits]
    shared = [seed for seed in values[0] if all(seed in each for each in values)]
    return {seed: fsum(each[seed] for each in values) / len(values) for seed in shared}


def _lacking(names: Sequence[str], *, of: int) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{NOT_RUN} on {len(names)} of {of} data sets: {', '.join(names[:MOST_NAMED])}{more}"


def _reservations(numbers: Published, table: PublishedTable, records: Sequence[RunRecord]) -> list[str]:
    """What sets our runs apart from the published ones."""
    said = []
    other = dict.fromkeys(record.encoder for record in records if record.encoder not in ENCODERS[table.encoder])
    if other:
        said.append(f"encoder {', '.join(other)}, not {table.encoder}")
    wanted = slug(numbers.llm)
    llms = dict.fromkeys(record.sources[0] if record.sources else "none" for record in records if record.classes)
    if strange := [llm for llm in llms if llm != wanted]:
        said.append(f"prompts of {', '.join(strange)}, not {numbers.llm}")
    parts = [r for r in records if r.dataset in numbers.eleven and r.classes != numbers.eleven[r.dataset]]
    if parts:
        first = parts[0]
        of = numbers.eleven[first.dataset]
        more = f" and {len(parts) - 1} more" if len(parts) > 1 else ""
        said.append(f"other classes: {first.dataset} {first.classes} of {of}{more}")
    short = [record.dataset for record in records if any(p.up_to for p in record.protocols.values())]
    if short:
        said.append(f"fewer shots where a class has no more: {', '.join(short[:MOST_NAMED])}")
    return said


HEADERS = ("table", "shots", "metric", "method", "published", "ours", "difference", "seeds", "remark")


def cells(row: Row) -> tuple[str, ...]:
    """A row as people read it."""
    interval = "" if row.ci95 is None else f" ± {row.ci95:.2f}"
    return (
        row.table,
        "all" if row.shots is None else str(row.shots),
        row.metric,
        row.name if row.method in (None, row.name.lower()) else f"{row.name} ({row.method})",
        "not printed" if row.published is None else f"{row.published:.2f}",
        NOT_RUN if row.ours is None else f"{row.ours:.2f}{interval}",
        "-" if row.difference is None else f"{row.difference:+.2f}{interval}",
        str(row.seeds or "-"),
        "" if row.said == NOT_RUN else row.said,
    )
