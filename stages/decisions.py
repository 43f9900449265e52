"""What people decide about images: the CSV files of the data loop (`docs/data-loop.md`), read and written.

`pipeline audit` and `trainer suggest` write lists with two empty columns, `action` and `label`; filled in, they are
what `pipeline ingest --labels` takes. An exclude list names images to leave out.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.errors import UserError, nearest
from stages.files import write_text
from stages.text import counted, csv_rows, read_text, said_separator

Action = Literal["label", "confirm", "exclude"]
ACTIONS: tuple[Action, ...] = ("label", "confirm", "exclude")
TO_FILL = ("action", "label")
"""The last two columns of a list."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about one image.

    Attributes:
        image_id: as the stores have it; empty for an image that the data set does not have yet.
        path: of its file; empty where only the id is given.
        label: class name; empty unless `action` is `label`, or it says once more what is confirmed.
        where: file and line, for messages.
    """

    image_id: str
    path: str
    action: Action
    label: str
    where: str


@dataclass(frozen=True)
class Decisions:
    """The rows of one file.

    Attributes:
        undecided: rows without an action and a label.
    """

    file: Path
    rows: list[Decision]
    undecided: int


def read_decisions(file: Path) -> Decisions:
    """Read a list that was filled in.

    Raises:
        UserError: unreadable; no column of images or of decisions; an unknown action; an action that does not go with
            its label; a row that names no image; two different decisions about one image, with both lines.
    """
    header, rows = read_table(file)
    if not set(TO_FILL) & set(header):
        raise UserError(
            f"{file}: neither a column `label` nor `action` (it has {_shown(header)}); a list of images to leave out "
            "goes to --exclude"
        )
    if not {"image_id", "path"} & set(header):
        raise UserError(f"{file}: neither a column `image_id` nor `path` (it has {_shown(header)})")
    found: dict[tuple[str, str], Decision] = {}
    undecided = 0
    for line, cells in rows:
        decision = decision_in(cells, f"{file}, line {line}")
        if decision is None:
            undecided += 1
            continue
        key = ("id", decision.image_id) if decision.image_id else ("path", decision.path)
        other = found.setdefault(key, decision)
        if (other.action, other.label) != (decision.action, decision.label):
            raise UserError(
                f"{decision.where}: image {key[1][:120]!r} is decided otherwise ({_said(decision)}) than in "
                f"{other.where.rpartition(', ')[2]} ({_said(other)}): keep one of the two"
            )
    return Decisions(file, list(found.values()), undecided)


def read_excluded(file: Path) -> list[str]:
    """The image ids of an exclude list: a CSV with a column `image_id`, or one id a line.

    Raises:
        UserError: unreadable, empty, or a list of decisions, which `--labels` takes.
    """
    lines = [line for line in read_text(file).splitlines() if line.strip() and not said_separator(line)]
    first = next(iter(lines), None)
    if first is None:
        raise UserError(f"{file}: an empty list: no image to leave out")
    names = {cell.strip().strip('"').lower() for mark in ",;\t" for cell in first.split(mark)}
    if not {"image_id", *TO_FILL} & names:
        return list(dict.fromkeys(lines))
    header, rows = read_table(file)
    if set(TO_FILL) & set(header):
        raise UserError(
            f"{file}: has a column `{next(name for name in TO_FILL if name in header)}`, so it holds decisions: give "
            "it to --labels"
        )
    found = []
    for line, cells in rows:
        if not cells["image_id"].strip():
            raise UserError(f"{file}, line {line}: no image_id")
        found.append(cells["image_id"])
    return list(dict.fromkeys(found))


def write_list(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a list as CSV, whole or not at all; None becomes an empty cell.

    Raises:
        UserError: it cannot be written.
    """
    write_text(file, list_text(columns, rows))


def require_unfilled(file: Path) -> None:
    """Keep what people filled in: refuse to write a list over one that holds decisions.

    Raises:
        UserError: it does, or cannot be read.
    """
    if not file.exists():
        return
    if len([line for line in read_text(file).splitlines() if line.strip() and not said_separator(line)]) < 2:
        return
    _, rows = read_table(file)
    filled = sum(any(cells.get(name, "").strip() for name in TO_FILL) for _, cells in rows)
    if filled:
        raise UserError(
            f"{file}: {counted(filled, 'row is', 'rows are')} filled in, and not written over: name another folder "
            "with --out, or remove the file"
        )


def list_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A list as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:
        cells = ["" if row.get(name) is None else str(row[name]) for name in columns]
        (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)
    return text.getvalue()


def read_table(file: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header in small letters, and each row by it with its line.

    Raises:
        UserError: unreadable, without a row, a row of another length, or a column of decisions that stands twice.
    """
    found = csv_rows(file)
    _, first = next(found, (1, []))
    header = [name.strip().lower() for name in first]
    for name in ("image_id", "path", *TO_FILL):
        if header.count(name) > 1:
            raise UserError(f"{file}: column {name!r} stands twice in the header")
    rows = []
    for line, row in found:
        if len(row) != len(header):
            raise UserError(
                f"{file}, line {line}: {len(row)} cells where the header has {len(header)}; mend the row (a cell with "
                "the separator in it needs quotes)"
            )
        rows.append((line, dict(zip(header, row, strict=True))))
    if not rows:
        raise UserError(f"{file}: no rows below the header")
    return header, rows


def decision_in(cells: Mapping[str, str], where: str) -> Decision | None:
    """What a row decides; None where it does not.

    Args:
        where: file and line, for messages.

    Raises:
        UserError: an unknown action, one that does not go with its label, or no image.
    """
    image_id, path = cells.get("image_id", ""), cells.get("path", "")
    action, label = cells.get("action", "").strip().lower(), cells.get("label", "").strip()
    if not action and not label:
        return None
    if not image_id.strip() and not path.strip():
        raise UserError(f"{where}: a decision without an image: neither image_id nor path")
    action = action or "label"
    if action not in ACTIONS:
        raise UserError(f"{where}: action {action[:40]!r}; {nearest(action, list(ACTIONS))}")
    if action == "label" and not label:
        raise UserError(f"{where}: action label, and the column label is empty")
    if action == "exclude" and label:
        raise UserError(f"{where}: both to be excluded and labelled {label[:80]!r}: keep one of the two")
    found: Action = "label" if action == "label" else "confirm" if action == "confirm" else "exclude"
    return Decision(image_id, path, found, label, where)


def _said(decision: Decision) -> str:
    return f"label {decision.label[:80]!r}" if decision.action == "label" else decision.action


def _shown(header: Sequence[str]) -> str:
    return ", ".join(header)[:200]
