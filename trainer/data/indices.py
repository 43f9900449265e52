"""Published few-shot draws, such as CoOp's: which images are the shots of a seed, read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages import UserError
from stages.text import csv_rows

COLUMNS = ("seed", "shots", "split", "image_id")


@dataclass(frozen=True)
class Indices:
    """(seed, shots) -> split (train or val) -> image ids."""

    file: Path
    draws: Mapping[tuple[int, int], Mapping[str, tuple[str, ...]]]


def read_indices(file: Path) -> Indices:
    """Read a CSV file with the columns seed, shots, split (train or val) and image_id.

    Raises:
        UserError: not such a file; names the line.
    """
    draws: dict[tuple[int, int], dict[str, list[str]]] = {}
    rows = csv_rows(file)
    _, header = next(rows, (1, []))
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(f"{file}: no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
    for line, row in rows:
        if len(row) != len(header):
            raise UserError(f"{file}, line {line}: {len(row)} cells where the header has {len(header)}")
        seed, shots, split, image_id = (row[header.index(name)] for name in COLUMNS)
        try:
            key = int(seed), int(shots)
        except ValueError:
            raise UserError(f"{file}, line {line}: seed and shots must be whole numbers") from None
        if split not in ("train", "val") or not image_id:
            raise UserError(f"{file}, line {line}: expected split train or val, and an image_id")
        draws.setdefault(key, {}).setdefault(split, []).append(image_id)
    return Indices(file, {key: {split: tuple(ids) for split, ids in by.items()} for key, by in draws.items()})
