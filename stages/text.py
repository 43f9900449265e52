"""Text files from elsewhere: UTF-8, and CSV with a comma, a semicolon or a tab between the cells."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from stages.errors import UserError

DELIMITERS = ",;\t"


def read_text(file: Path) -> str:
    """A text file in UTF-8, with or without byte order mark.

    Raises:
        UserError: missing, unreadable, or in another encoding, with the line.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        line = data[: max(0, data.find(b"\0"))].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: NUL bytes or UTF-16; save the file as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 (Latin-1?); save the file as UTF-8"
        ) from error


def delimiter(header: str) -> str:
    """The separator that the first line has most of."""
    return max(DELIMITERS, key=header.count)


SEPARATOR = re.compile(r'"?sep=([,;\t])"?\r?$')
"""The first line of a CSV for Excel, which says what stands between the cells."""


def said_separator(line: str) -> str | None:
    """The separator that a first line `sep=;` says; None for any other line."""
    found = SEPARATOR.match(line)
    return found[1] if found else None


def csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, the header first, each with the line that it ends on; Excel's `sep=;` is none.

    Raises:
        UserError: not text, or not readable as CSV, with the line.
    """
    text = read_text(file)
    first = text.partition("\n")[0]
    said = said_separator(first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=said or delimiter(first), strict=True)
    try:
        if said:
            next(reader)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}") from error


def counted(number: int, one: str, more: str | None = None) -> str:
    """`1 image`, `2 images`; `1 class`, `2 classes` where the plural is given."""
    return f"{number} {one if number == 1 else more or one + 's'}"
