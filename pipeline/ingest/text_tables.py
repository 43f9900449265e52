"""Tables as text: CSV and its kin with `,`, `;` or tabs, JSON lines, and JSON lists of objects."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.ingest.columns import Table, find_columns, require_image, rivals
from pipeline.ingest.labels import ROLES_OF_CONTENT, indicator_columns, named_by, signed_columns
from stages.errors import UserError
from stages.text import csv_rows, delimiter, read_text, said_separator


def read_text_table(file: Path, wanted: Mapping[str, str]) -> Table:
    """Read a file's rows.

    Raises:
        UserError: unreadable, not UTF-8, a row of another length than the header, or no column of images.
    """
    header, rows, lines = _read_jsonl(file) if file.suffix.lower() == ".jsonl" else _read_csv(file)
    return _table(file, header, rows, lines, wanted)


def json_table(file: Path, entries: list[Any], wanted: Mapping[str, str]) -> Table:
    """The rows of a JSON file that is a list of objects, as BLIP's are: `[{"image": ..., "caption": ...}, ...]`.

    Raises:
        UserError: an entry is no object, or none names an image.
    """
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{file}, entry {number}: expected an object, found {str(entry)[:80]!r}")
    if not entries:
        raise UserError(f"{file}: an empty list")
    header, rows = _aligned(entries)
    return _table(file, header, rows, range(len(rows)), wanted, counted="entry")


def text_header(file: Path) -> list[str]:
    """The names of a file's columns; of a JSON file those of its first entry, [] where it is no list of objects."""
    if file.suffix.lower() == ".jsonl":
        return _read_jsonl(file)[0]
    try:
        with file.open("rb") as handle:
            first = handle.read(2**20) if file.suffix.lower() == ".json" else handle.readline(2**20)
            said = said_separator(first[:100].decode("utf-8-sig", "replace"))
            first = handle.readline(2**20) if said else first
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if file.suffix.lower() == ".json":
        return _first_entry(first.decode("utf-8-sig", "replace").lstrip())
    line = first.decode("utf-8-sig", "replace")
    return [name.strip() for name in next(csv.reader([line], delimiter=said or delimiter(line)), [])]


def _read_csv(file: Path) -> tuple[list[str], list[list[str]], list[int]]:
    found = csv_rows(file)
    _, first = next(found, (1, []))
    header = [name.strip() for name in first]
    rows, lines = [], []
    for line, row in found:
        if len(row) != len(header):
            raise UserError(
                f"{file}, line {line}: {len(row)} cells where the header has {len(header)}; mend the row"
                " (a cell with the separator in it needs quotes)"
            )
        rows.append(row)
        lines.append(line)
    if not rows:
        raise UserError(f"{file}: no rows below the header")
    return header, rows, lines


def _read_jsonl(file: Path) -> tuple[list[str], list[list[Any]], list[int]]:
    rows, lines = [], []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: not readable as JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {number}: expected an object, found {line[:80]!r}")
        rows.append(row)
        lines.append(number)
    if not rows:
        raise UserError(f"{file}: no rows in it")
    return *_aligned(rows), lines


def _aligned(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Objects as rows below a header of all their keys."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, [[row.get(name) for name in header] for row in rows]


def _table(
    file: Path, header: list[str], rows: list[list[Any]], lines: Sequence[int], wanted: Mapping[str, str],
    counted: str = "line",
) -> Table:  # fmt: skip
    roles = find_columns(header, wanted, where=str(file))
    require_image(file, roles, header)
    places = {role: header.index(column) for role, column in roles.items()}
    columns: dict[str, Sequence[Any]] = {role: [row[place] for row in rows] for role, place in places.items()}
    order: list[str] | None = None
    aside: list[str] = []
    signed = False
    if not ROLES_OF_CONTENT & set(roles):
        where = [f"{file}, {counted} {line}" for line in lines]
        has = indicator_columns(header, rows, roles.values(), where=where)
        if has:
            columns["labels"], order = named_by(has), list(has)
            signed = bool(signed_columns(header, rows, roles.values()))
            aside = [name for name in header if name not in has and name not in roles.values()]
    return Table(
        file, columns, lines, counted=counted, called=roles, rivals=rivals(header, roles, wanted), order=order,
        aside=aside, signed=signed,
    )  # fmt: skip


def _first_entry(text: str) -> list[str]:
    if not text.startswith("["):
        return []
    try:
        entry, _ = json.JSONDecoder().raw_decode(text[1:].lstrip())
    except (ValueError, RecursionError):
        return []
    return list(entry) if isinstance(entry, dict) else []
