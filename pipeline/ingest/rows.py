"""The rows of a table, cell by cell, as images with their class, split, captions and questions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.ingest.base import Question
from pipeline.ingest.columns import Table
from pipeline.ingest.labels import classes_of
from pipeline.ingest.places import URL, Places
from pipeline.ingest.records import Records
from pipeline.ingest.splits import split_named
from stages.errors import UserError
from stages.text import counted

UNKNOWN = -1
"""The class id of images without a known class, in Hugging Face `datasets` and elsewhere."""


def add_table(records: Records, table: Table, places: Places, split: str | None, *, at: Path) -> None:
    """Take the rows of a table that lies at `at`.

    Raises:
        UserError: the first row that cannot be understood, with its place.
    """
    own = table.columns
    if not {"class", "labels", "caption", "question"} & set(own):
        raise UserError(
            f"{table.file}: neither classes nor captions nor questions beside the images; name the column with "
            "--column class=COLUMN (or labels=, caption=, question=)"
        )
    records.order(table.order, where=str(table.file))
    if table.signed:
        records.notes.append(f"{table.file.name}: its columns hold 1 and -1, and -1 is read as: not there")
    if table.aside:
        records.notes.append(
            f"{table.file.name}: {counted(len(table.order or ()), 'column')} of 0 and 1 are the classes; left aside: "
            f"{', '.join(table.aside)[:200]}"
        )
    base = ""
    if table.holds is not None:
        if not at.is_relative_to(places.root):
            raise UserError(f"{table.file}: it holds its images itself; leave --images away", exit_code=2)
        base = f"{at.relative_to(places.root).as_posix()}/{table.holds}"
    numbers = _are_numbers(own.get("class", ()))
    records.notes += [*_several_lines(table), *_rivals(table)]
    for row in range(len(table.lines)):
        cells = {role: values[row] for role, values in own.items()}
        try:
            path = f"{base}/{row}" if base else places.find(_image(cells["image"], table))
            label = _label(cells["class"], numbers=numbers) if "class" in cells else None
            class_id = _class_id(cells["class_id"]) if "class_id" in cells else None
            unlabelled = ("class" in cells and label is None) or ("class_id" in cells and class_id is None)
            records.add(
                path,
                split=split_named(_text(cells["split"])) if "split" in cells else split,
                label=None if unlabelled else label,
                class_id=None if unlabelled else class_id,
                unlabelled=unlabelled,
                labels=classes_of(cells["labels"]) if "labels" in cells else None,
                captions=_captions(cells["caption"]) if "caption" in cells else None,
                questions=[_question(cells, f"{path}#{row}")] if "question" in cells else None,
            )
        except ValueError as error:
            raise UserError(f"{table.where(row)}: {error}") from error


def _rivals(table: Table) -> list[str]:
    """A line where another column could be the class too."""
    if not table.rivals:
        return []
    others = ", ".join(map(repr, table.rivals))[:120]
    return [
        f"{table.file.name}: column {table.called['class']!r} is taken for the class, not {others} (--column "
        f"class={table.rivals[0]} takes another)"
    ]


def _several_lines(table: Table) -> list[str]:
    """A line about cells of a text file that hold line breaks: an open quote takes the rows after it into its cell."""
    if table.file.suffix.lower() not in (".csv", ".tsv"):
        return []
    own = table.columns.values()
    rows = [n for n in range(len(table.lines)) if any("\n" in str(v[n]) or "\r" in str(v[n]) for v in own)]
    if not rows:
        return []
    run = counted(len(rows), "row runs", "rows run")
    return [f"{run} over several lines (first: {table.where(rows[0])}): look for a quote left open"]


def _text(value: Any, *, one_line: bool = True) -> str:
    if value is None or isinstance(value, (dict, list, bytes)):
        raise ValueError(f"expected text, found {str(value)[:80]!r}")
    text = str(value).strip()
    if one_line and ("\n" in text or "\r" in text):
        raise ValueError(f"a cell runs over several lines ({text[:60]!r}): is a quote left open?")
    return text


def _image(value: Any, table: Table) -> str:
    text = _text(value)
    if URL.match(text):
        column = table.called.get("image", "image")
        raise ValueError(
            f"column {column!r} holds URLs ({text[:80]!r}): download the images first, e.g. with img2dataset, and name "
            "the files"
        )
    return text


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether all labels are whole numbers as they are usually written: `007` is a name; empty ones do not count."""
    return all(
        isinstance(v, (int, float))
        or v is None
        or (isinstance(v, str) and re.fullmatch(r"(-1|0|[1-9][0-9]{0,8})(\.0)?|", v.strip()) is not None)
        for v in values
    )


def _label(value: Any, *, numbers: bool) -> int | str | None:
    """The class of a row; None where the row says that nobody knows it: empty, or -1 among numbers."""
    if value is None or value != value or (isinstance(value, str) and value.strip() in ("", str(UNKNOWN))):  # NaN
        return None
    if not numbers:
        return _text(value)
    number = _number(value)
    return None if number == UNKNOWN else number


def _class_id(value: Any) -> int | None:
    found = _label(value, numbers=True)
    return found if isinstance(found, int) else None


def _number(value: Any) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected a whole number, found {str(value)[:80]!r}") from error
    if not number.is_integer():
        raise ValueError(f"expected a whole number, found {str(value)[:80]!r}")
    return int(number)


def _captions(value: Any) -> list[str | None]:
    """A cell with one caption, or a list of them; None for one that is not there."""
    values = value if isinstance(value, list) else [value]
    return [None if item is None else _text(item, one_line=False) for item in values]


def _texts(value: Any) -> list[str]:
    """A cell with several texts: a list, or text with `|` between them."""
    if value is None:
        return []
    if not isinstance(value, list):
        return [part.strip() for part in _text(value, one_line=False).split("|") if part.strip()]
    said = (item["answer"] if isinstance(item, dict) and "answer" in item else item for item in value)
    return ["" if item is None else _text(item, one_line=False) for item in said]


def _question(cells: dict[str, Any], number: str) -> Question:
    choices = _texts(cells.get("choices"))
    question_id = _text(cells["question_id"]) if "question_id" in cells else number
    return Question(
        question_id, _text(cells["question"], one_line=False), choices or None, _texts(cells.get("answers"))
    )
