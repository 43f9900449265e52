"""Two layouts that no general reader understands: folders of WordNet ids, and the text files of FGVC-Aircraft.

`pipeline.ingest` lists these readers, so what they need of it is imported when they read.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
        variants = _variants(root / "variants.txt")
        names = {name: data.class_names.get(name, name) for name in variants}
        numbers = {name: number for number, name in enumerate(variants)}
        entries: dict[str, Entry] = {}
        for split, file in AIRCRAFT_LISTS.items():
            for line, text in enumerate(_lines(root / file), 1):
                image, _, variant = text.partition(" ")
                if not text:
                    continue
                if not re.fullmatch(r"\w+", image) or variant not in numbers:
                    raise UserError(
                        f"{root / file}, line {line}: found {text[:80]!r}, expected an image and one of the "
                        f"{len(variants)} classes of variants.txt"
                    )
                path = f"images/{image}.jpg"
                if path in entries:
                    where = AIRCRAFT_LISTS[entries[path].split or split]
                    raise UserError(f"{root / file}, line {line}: image {image} stands in {where} already; keep one")
                entries[path] = Entry(path, path, numbers[variant], names[variant], split)
        shown = dict(enumerate(names.values()))
        return Listing(root, list(entries.values()), shown, settings={"split_file": AIRCRAFT_LISTS["train"]})


def _wnids(folder: Path) -> list[str]:
    """The class folders, if all that are there are called by WordNet ids."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_behind(entry.name)]
    return sorted(names) if all(WNID.fullmatch(name) for name in names) else []


def _variants(file: Path) -> list[str]:
    """The classes, one a line.

    Raises:
        UserError: there is none, or one stands there twice.
    """
    found: dict[str, int] = {}
    for line, name in enumerate(_lines(file), 1):
        if name in found:
            raise UserError(
                f"{file}, line {line}: class {name[:80]!r} stands there twice (line {found[name]}); keep one"
            )
        if name:
            found[name] = line
    if not found:
        raise UserError(f"{file}: no class in it; expected one a line")
    return list(found)


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
