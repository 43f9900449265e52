"""Pascal VOC's layout: `Annotations/*.xml` with the objects of an image, `JPEGImages`, and lists of the splits.

The classes of an image are the names of its objects; boxes are left aside. Objects marked `difficult` count as the
others do (VOC's own scoring leaves them out: the line says how many there are). The XML is read without a document type
and without entities, which hostile files hide in.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

from pipeline.ingest.base import Listing
from pipeline.ingest.places import Places
from pipeline.ingest.records import Records
from stages.errors import UserError
from stages.params import DataParams
from stages.text import counted, read_text

ANNOTATIONS, LISTS = "Annotations", Path("ImageSets") / "Main"
LARGEST = 2**20
"""Letters of an annotation, at most."""
SPLITS = {"train": "train", "val": "val", "trainval": "train", "test": "test"}
"""Lists of `ImageSets/Main` -> our split; `trainval` where there is no `train`."""


class VOCReader:
    """Pascal VOC's folders."""

    def matches(self, source: str) -> bool:
        """A folder with XML files in `Annotations`."""
        folder = Path(source) / ANNOTATIONS
        return folder.is_dir() and any(folder.glob("*.xml"))

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images that have an annotation, in the order of the annotations' names."""
        root = Path(source)
        places, records = Places(root, data), Records()
        splits = _splits(root / LISTS)
        files = sorted((root / ANNOTATIONS).glob("*.xml"))
        hints = [name for name in ("JPEGImages", "images") if (root / name).is_dir()]
        difficult = unlisted = 0
        for file in files:
            name, classes, hard = _objects(file)
            difficult += hard
            if splits and file.stem not in splits:
                unlisted += 1
                continue
            try:
                records.add(places.find(name, hints=hints), split=splits.get(file.stem), labels=classes)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from error
        if unlisted:
            records.notes.append(
                f"{unlisted} of {counted(len(files), 'annotation')} are in no list of {LISTS}: left out"
            )
        if difficult:
            records.notes.append(f"{counted(difficult, 'object is', 'objects are')} marked difficult: they count too")
        return records.listing(source, places.root, data, files=[ANNOTATIONS])


def _splits(folder: Path) -> dict[str, str]:
    """Name of an image -> its split; {} without lists."""
    found: dict[str, str] = {}
    for name in ("trainval", "train", "val", "test"):  # `train` and `val` count before `trainval`
        file = folder / f"{name}.txt"
        if file.is_file():
            found |= {line.split()[0]: SPLITS[name] for line in read_text(file).splitlines() if line.strip()}
    return found


def _objects(file: Path) -> tuple[str, list[str], int]:
    """The file name of the image, its classes, and how many objects are marked difficult.

    Raises:
        UserError: no annotation, or one with a document type.
    """
    text = read_text(file)
    if len(text) > LARGEST:
        raise UserError(f"{file}: {len(text)} letters, which no annotation of one image has")
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise UserError(f"{file}: has a document type or entities, which are not read: remove these lines")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file}: not readable as XML ({error})") from error
    objects = tree.findall("object")
    names = [" ".join((each.findtext("name") or "").split()) for each in objects]
    if not all(names):
        raise UserError(f"{file}: object {names.index('') + 1} has no name")
    name = (tree.findtext("filename") or "").strip() or file.stem
    return name, list(dict.fromkeys(names)), sum(each.findtext("difficult") == "1" for each in objects)
