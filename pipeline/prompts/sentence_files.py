"""Files of sentences: JSON `{class: [sentence, ...]}` as CuPL has them, and CSV with a class and a sentence a row."""

import json
from pathlib import Path
from typing import Any

from stages.errors import UserError
from stages.text import csv_rows, read_text

CLASS_COLUMNS = ("class", "class_name", "classname", "label", "category")
SENTENCE_COLUMNS = ("sentence", "prompt", "text", "description", "caption")
LONGEST = 131_072
"""Characters of a sentence at most: what Python's csv module takes in one cell."""


def read_sentences(file: Path) -> dict[str, list[str]]:
    """The sentences of every class, in the order of the file.

    Args:
        file: `.csv` or `.tsv` with a header, anything else is read as JSON; UTF-8, with or without a byte-order mark.

    Raises:
        UserError: missing, not UTF-8, of another shape; names the line or the class, and what is expected.
    """
    found = _from_csv(file) if file.suffix.lower() in (".csv", ".tsv") else _from_json(file)
    if not found:
        raise UserError(f"{file}: there is no sentence in it")
    return found


def _from_json(file: Path) -> dict[str, list[str]]:
    text = read_text(file)
    try:
        raw = json.loads(text, object_pairs_hook=lambda pairs: _once(file, pairs))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file}: expected an object {{class name: [sentence, ...]}}, found {text[:40]!r}")
    for name, sentences in raw.items():
        expected = f"{file}: {name!r:.80} must be a list of sentences"
        if not isinstance(sentences, list) or not sentences:
            raise UserError(f"{expected}, found {sentences!r:.80}")
        for number, sentence in enumerate(sentences, 1):
            if not isinstance(sentence, str):
                raise UserError(f"{expected}, number {number} is {sentence!r:.80}")
            if fault := _fault(sentence):
                raise UserError(f"{expected}, number {number} {fault}")
    return raw


def _once(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a key stands in it twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{file}: {name!r:.80} stands there twice; put its sentences into one list")
        found[name] = value
    return found


def _from_csv(file: Path) -> dict[str, list[str]]:
    rows = csv_rows(file)
    _, header = next(rows, (1, []))
    columns = [name.strip().casefold() for name in header]
    at = [_column(file, header, columns, names) for names in (CLASS_COLUMNS, SENTENCE_COLUMNS)]
    found: dict[str, list[str]] = {}
    for number, row in rows:
        where = f"{file}, line {number}"
        if len(row) != len(header):
            raise UserError(
                f"{where}: {len(row)} columns, the header has {len(header)}; a sentence with commas needs double quotes"
            )
        name, sentence = (row[column] for column in at)
        if not name.strip():
            raise UserError(f"{where}: the class is empty, expected a class name")
        if fault := _fault(sentence):
            raise UserError(f"{where}: the sentence {fault}")
        found.setdefault(name.strip(), []).append(sentence)
    return found


def _column(file: Path, header: list[str], columns: list[str], names: tuple[str, ...]) -> int:
    there = [columns.index(name) for name in names if name in columns]
    if not there:
        raise UserError(f"{file}: no column {' or '.join(names)} in the header {','.join(header)[:80]!r}")
    return there[0]


def _fault(sentence: str) -> str | None:
    """What is wrong with one sentence."""
    if not sentence.strip():
        return "is empty"
    return f"has {len(sentence)} characters, expected at most {LONGEST}" if len(sentence) > LONGEST else None
