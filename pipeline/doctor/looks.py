"""Looks into the files of a known data set that cost little: what `pipeline ingest` would refuse or tell, beforehand.

Split files and lists are read, and some of the images that they name are looked for; no image is opened. Of JSON files
that are large only the beginning and the end are read, and what is counted in between.
"""

import mmap
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.ingest import read_source
from pipeline.ingest.coop import class_names, split_rows
from pipeline.ingest.places import Places, one_deeper
from pipeline.ingest.published import as_published
from pipeline.ingest.splits import split_named
from pipeline.registry import Card
from pipeline.registry.readers import AircraftReader
from stages import UserError
from stages.params import DataParams

LARGEST = 64_000_000
"""Bytes of JSON that are read whole."""
ENDS = 4096
SAMPLED = 200
"""Images that are looked for, spread over those that a list names."""


T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What was seen: `fault` is what `ingest` refuses, `note` what is worth knowing; empty where there is nothing."""

    fault: str = ""
    note: str = ""


def look_into(known: Card, folder: Path, data: DataParams) -> Look:
    """Look into a folder that has all that the layout of a data set asks for.

    Args:
        data: the settings that `ingest` would read it with.
    """
    try:
        if known.names == "split file":
            return _split_file(known, folder, data)
        if known.names == "variants.txt":
            return _aircraft(known, folder, data)
        if known.task != "classification":
            return _texts(known, folder, data)
        return _class_folders(known, folder)
    except UserError as error:
        return Look(fault=str(error))
    except OSError as error:
        return Look(fault=f"{error.filename or folder}: cannot be read ({error.strerror})")


def _split_file(known: Card, folder: Path, data: DataParams) -> Look:
    file = folder / str(known.split_file)
    rows = split_rows(file)
    places = Places(folder, data)
    try:
        found = [(places.root, places.find(path, hints=[split])) for split in rows for path, *_ in _some(rows[split])]
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    counts = {split: len(rows[split]) for split in rows}
    return _weighed(known, folder, len(class_names(file, rows)), counts, found, data)


def _aircraft(known: Card, folder: Path, data: DataParams) -> Look:
    listing = AircraftReader().read(str(known.source_in(folder)), data)
    counts = Counter(entry.split or "" for entry in listing.entries)
    found = [(listing.root, entry.path) for entry in _some(listing.entries)]
    return _weighed(known, folder, len({entry.class_id for entry in listing.entries}), counts, found, data)


def _weighed(
    known: Card, folder: Path, classes: int, counts: dict[str, int], found: Sequence[tuple[Path, str]], data: DataParams
) -> Look:
    """What numbers of images, and images that are not where they should be, come to."""
    if lacking := known.untested(counts):
        return Look(fault=f"{folder}: {lacking}")
    missing = [(root, path) for root, path in found if not (root / path).is_file()]
    text = f"{folder}: {len(missing)} of {len(found)} images that were looked for are missing"
    if missing:
        root, path = missing[0]
        deeper = one_deeper(root, path)
        text += f" (first: {path[:120]!r}" + (f", which lies below {deeper})" if deeper else ")")
    if len(missing) > data.max_missing * len(found):
        return Look(fault=text)
    differs = known.differs(classes, counts)
    return Look(note="; ".join([*[text] * bool(missing), *[f"{folder}: {differs}"] * bool(differs)]))


def _texts(known: Card, folder: Path, data: DataParams) -> Look:
    """Captions and questions: read as `ingest` does, unless they are large."""
    files = [folder / path for item in known.layout for path in item.path if path.endswith(".json")]
    large = [file for file in files if file.stat().st_size > LARGEST]
    if not large:
        listing = as_published(
            known.name, str(folder), read_source(str(data.source), data), max_missing=data.max_missing
        )
        missing = sum(not (listing.root / entry.path).is_file() for entry in listing.entries)
        if missing > data.max_missing * len(listing.entries):
            return Look(fault=f"{folder}: {missing:,} of {len(listing.entries):,} images are missing")
        return Look(note="; ".join(f"{folder}: {note}" for note in listing.notes if "published" in note))
    for file in files:
        _require_ends(file)
    counts: Counter[str] = Counter()
    for file in large if known.images_of.get("val") else ():  # Karpathy's files say the split of each image
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as text:
            said = Counter(match[1].decode() for match in re.finditer(rb'"split":\s*"(\w+)"', text))
        for split, count in said.items():
            counts[split_named(split) or "train"] += count
    differs = known.differs(0, counts)
    return Look(note=f"{folder}: {differs}" if differs else "")


def _require_ends(file: Path) -> None:
    """Refuse a JSON file that does not begin and end as one, or that says that it is of another subset.

    Raises:
        UserError: it is cut off, or is not what it is called.
    """
    with file.open("rb") as handle:
        ends = handle.read(ENDS)
        handle.seek(max(0, file.stat().st_size - ENDS))
        ends += handle.read(ENDS)
    if not ends.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") or not ends.rstrip().endswith(b"}"):
        raise UserError(f"{file}: cut off, or no JSON")
    subset = re.search(rb'"data_subtype":\s*"(\w+)"', ends)
    if subset and (told := subset[1].decode()) not in file.name:
        raise UserError(f"{file}: it says that it is of {told}")


def _class_folders(known: Card, folder: Path) -> Look:
    """Class folders without an image."""
    notes = []
    for item in known.layout:
        here = next((folder / path for path in item.path if (folder / path).exists()), folder)
        names = [place for place in here.iterdir() if place.is_dir()]
        empty = [place.name for place in names if not any(place.iterdir())]
        if len(empty) == len(names):
            return Look(fault=f"{here}: {len(empty):,} class folders but no image in them")
        if empty:
            notes.append(f"{here}: {len(empty):,} of {len(names):,} class folders are empty (first: {min(empty)})")
    return Look(note="; ".join(notes))


def _some(rows: Sequence[T]) -> Sequence[T]:
    """Some of many, evenly spread."""
    return rows[:: max(1, len(rows) // SAMPLED)]
