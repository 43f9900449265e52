"""Two layouts that no general reader understands: folders of WordNet ids, and the text files of FGVC-Aircraft; and
which split a known data set is tested on.

`pipeline.ingest` lists these readers, so what they need of it is imported when they read.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.registry.cards import card
from pipeline.registry.synsets import imagenet_names
from stages.errors import UserError
from stages.names import is_left_behind
from stages.params import DataParams

if TYPE_CHECKING:
    from pipeline.ingest.base import Listing

WNID = re.compile(r"n\d{8}")
AIRCRAFT_LISTS = {split: f"images_variant_{split}.txt" for split in ("train", "val", "test")}


class SynsetReader:
    """Class folders called by their WordNet ids (`n01440764`), which get ImageNet's class names.

    Classes stand in the order of their ids. Below `train` and `val` without `test`, `val` is the test split: ImageNet's
    own test labels are not public, and its validation images serve as the test split everywhere.
    """

    def matches(self, source: str) -> bool:
        """A folder with such folders and no others, directly or below `train` or `val`."""
        folder = Path(source)
        return any(_wnids(place) for place in (folder, folder / "train", folder / "val"))

    def read(self, source: str, data: DataParams) -> "Listing":
        """List the images; WordNet ids outside the 1,000 classes keep their id as their name."""
        from pipeline.ingest.folders import FolderReader

        found = FolderReader().read(source, data.model_copy(update={"class_names": {}}))
        known = imagenet_names()
        wnids = found.class_names
        plain = {number: known.get(wnid, wnid) for number, wnid in wnids.items()}
        names = {n: data.class_names.get(wnids[n], data.class_names.get(name, name)) for n, name in plain.items()}
        swap = {entry.split for entry in found.entries} == {"train", "val"}
        entries = [
            replace(
                entry,
                class_name=names[entry.class_id or 0],
                split="test" if swap and entry.split == "val" else entry.split,
            )
            for entry in found.entries
        ]
        return replace(found, entries=entries, class_names=names, settings={"wordnet_ids": list(wnids.values())})


class AircraftReader:
    """FGVC-Aircraft as its archive has it: `images/`, `variants.txt` and one list a split."""

    def matches(self, source: str) -> bool:
        """A folder with the class list and the training list."""
        return all((Path(source) / name).is_file() for name in ("variants.txt", AIRCRAFT_LISTS["train"]))

    def read(self, source: str, data: DataParams) -> "Listing":
        """List the images; classes stand in the order of `variants.txt`, as CoOp's.

        Raises:
            UserError: a file is missing or unreadable, or a line names no image or no known class.
        """
        from pipeline.ingest.base import Entry, Listing

        root = Path(source).resolve()
        variants = [name for name in _lines(root / "variants.txt") if name]
        numbers = {name: number for number, name in enumerate(variants)}
        names = [data.class_names.get(name, name) for name in variants]
        entries = []
        for split, file in AIRCRAFT_LISTS.items():
            for line, text in enumerate(_lines(root / file), 1):
                image, _, variant = text.partition(" ")
                if not text:
                    continue
                if not re.fullmatch(r"\w+", image) or variant not in numbers:
                    raise UserError(
                        f"{root / file}, line {line}: found {text[:80]!r}, expected an image and a known class"
                    )
                number = numbers[variant]
                path = f"images/{image}.jpg"
                entries.append(Entry(path=path, image_id=path, class_id=number, class_name=names[number], split=split))
        return Listing(root, entries, dict(enumerate(names)), settings={"split_file": AIRCRAFT_LISTS["train"]})


def as_published(dataset: str, source: str, listing: "Listing") -> "Listing":
    """The listing of a known data set with the split that the field tests on, and a line where it is no published one.

    VQA2 is tested on its validation split. What is not laid out as the data set stays as it is.

    Args:
        source: as the user gave it.
    """
    known, folder = card(dataset), Path(source)
    if known is None or not folder.is_dir() or not known.marked(folder):
        return listing
    entries, notes = listing.entries, list(listing.notes)
    counts = Counter(entry.split or "train" for entry in entries)
    if known.val_is_test and not counts["test"]:
        entries = [replace(entry, split="test") if entry.split == "val" else entry for entry in entries]
        notes.append(f"its validation split serves as the test split: the test answers of {known.title} are not public")
    if differs := known.differs(len(listing.class_names), {split: counts[split] for split in known.images_of}):
        notes.append(differs)
    return replace(listing, entries=entries, notes=notes)


def _wnids(folder: Path) -> list[str]:
    """The class folders, if all that are there are called by WordNet ids."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_behind(entry.name)]
    return sorted(names) if all(WNID.fullmatch(name) for name in names) else []


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
