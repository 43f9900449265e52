"""Several classes an image: as cells of a table say them, as 0/1 columns do, and how they are numbered."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.ingest.class_names import join_spellings
from stages.errors import UserError, nearest

SEPARATORS = (";", "|")
"""What stands between the classes of a cell."""
ROLES_OF_CONTENT = frozenset({"class", "class_id", "labels", "caption", "question"})
"""Columns that say something about an image; beside one of them 0/1 columns are left aside."""
LEAST = 0.5
"""Share of the cells of a column that have to be 0 or 1, or else it is no class."""


def classes_of(value: Any) -> list[int | str]:
    """The classes that a cell names: a list, or text with `;` or `|` between them; [] says that it has none of them.

    Raises:
        ValueError: something else, or an empty name between two separators.
    """
    if value is None or value != value:
        return []
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return []
        if text.startswith("["):
            value = _json_list(text)
        else:
            for separator in SEPARATORS[1:]:
                text = text.replace(separator, SEPARATORS[0])
            value = text.strip(SEPARATORS[0]).split(SEPARATORS[0])
    values = value if isinstance(value, list) else [value]
    return [_class(each) for each in values]


def _json_list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} is no list of classes; write them with ; between them") from error
    if not isinstance(found, list):
        raise ValueError(f"{text[:60]!r} is no list of classes; write them with ; between them")
    return found


def _class(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected the name of a class, found {str(value)[:60]!r}")
    if isinstance(value, int):
        return value
    name = value.strip()
    if not name or "\n" in name or "\r" in name:
        what = "an empty name stands among the classes" if not name else f"class {name[:60]!r} runs over several lines"
        raise ValueError(f"{what}: write them as `dog;cat`")
    return name


def indicator_columns(
    header: Sequence[str], rows: Sequence[Sequence[Any]], taken: Iterable[str], *, where: Sequence[str]
) -> dict[str, list[bool]]:
    """The columns of 0 and 1, one a class, in the order of the header; {} where there are not two of them.

    Where no cell is 0 and columns hold 1 and -1 alone, as CelebA's attributes do, -1 says what 0 does.

    Args:
        taken: columns that say something else.
        where: the place of each row, for messages.

    Raises:
        UserError: a column of 0 and 1 holds something else too, or stands twice.
    """
    taken = set(taken)
    signed = signed_columns(header, rows, taken)
    if signed:
        return signed
    found: dict[str, list[bool | None]] = {}
    for place, name in enumerate(header):
        if name in taken or not name:
            continue
        cells = [_zero_or_one(row[place]) for row in rows]
        if sum(cell is not None for cell in cells) >= LEAST * len(cells):
            if name in found:
                raise UserError(f"{where[0]}: column {name!r} stands twice in the header")
            found[name] = cells
    if len(found) < 2:
        return {}
    for name, cells in found.items():
        if None in cells:
            row = cells.index(None)
            value = rows[row][header.index(name)]
            raise UserError(
                f"{where[row]}: column {name[:80]!r} holds {str(value)[:40]!r}; expected 1 where the image has this "
                "class and 0 where it has not"
            )
    return {name: [bool(cell) for cell in cells] for name, cells in found.items()}


def signed_columns(header: Sequence[str], rows: Sequence[Sequence[Any]], taken: Iterable[str]) -> dict[str, list[bool]]:
    """The columns of 1 and -1 alone; {} where there are not two of them, or where any cell of a free column is 0."""
    taken, found, zero = set(taken), {}, False
    for place, name in enumerate(header):
        if name in taken or not name or name in found:
            continue
        cells = [str(row[place]).strip().removesuffix(".0") for row in rows]
        zero |= "0" in cells
        if set(cells) <= {"1", "-1"}:
            found[name] = [cell == "1" for cell in cells]
    return found if len(found) > 1 and not zero and not all(all(cells) for cells in found.values()) else {}


def _zero_or_one(value: Any) -> bool | None:
    """None for anything else."""
    plain = value.strip() if isinstance(value, str) else value
    if plain in ("0", "0.0", "1", "1.0"):
        return str(plain).startswith("1")
    return bool(plain) if isinstance(plain, int | float) and plain in (0, 1) else None


def named_by(columns: Mapping[str, Sequence[bool]]) -> list[list[str]]:
    """The classes of each row, of columns of 0 and 1."""
    return [
        [name for name, has in zip(columns, row, strict=True) if has] for row in zip(*columns.values(), strict=True)
    ]


def numbered(
    images: Mapping[str, tuple[str | None, Sequence[str]]], order: Sequence[str] | None, wanted: Mapping[str, str]
) -> tuple[dict[str, list[int]], dict[int, str], list[str]]:
    """Class ids of each image, class names by class id, and lines.

    Args:
        images: path -> split and class names as the source has them.
        order: the class list of the source, which numbers them; None numbers them in sorted order.
        wanted: the settings' `class_names`: name in the source -> name to use.

    Raises:
        ValueError: a class that is not in the list, or names that nobody can tell apart.
    """
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    known = None if order is None else set(order)
    for path, (split, names) in images.items():
        for name in names:
            if known is not None and name not in known:
                raise ValueError(f"class {name[:80]!r} (image {path[:120]!r}) is not in the list of classes "
                                 f"({nearest(name, list(order or ()))})")  # fmt: skip
        counts[split].update(set(names))
    counts[None].update(dict.fromkeys(order or (), 0))
    mapping, lines = join_spellings(counts, wanted)
    ids: dict[str, int] = {}
    for name in order if order is not None else sorted(mapping, key=lambda name: mapping[name]):
        ids.setdefault(mapping[name], len(ids))
    found = {path: sorted({ids[mapping[name]] for name in names}) for path, (_, names) in images.items()}
    return found, {number: name for name, number in ids.items()}, lines
