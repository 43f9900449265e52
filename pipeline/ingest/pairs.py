"""Images with texts beside them: `0001.jpg` and `0001.txt`, as img2dataset's `files` output and caption tools have it.

Texts belong to the image of their name up to the last dot. Folders that only number parts of the set are no classes.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.images import SUFFIXES
from pipeline.ingest.base import Listing
from pipeline.ingest.folders import listing_of
from pipeline.ingest.json_files import read_json
from pipeline.ingest.lists import class_list
from pipeline.ingest.records import Records
from pipeline.ingest.sidecars import SIDECARS, Facts, check_size, facts_of
from pipeline.ingest.splits import split_of_folder
from pipeline.ingest.trees import Tree, read_tree
from stages.errors import UserError
from stages.files import read_file
from stages.names import is_left_behind
from stages.params import DataParams
from stages.text import counted

SAMPLED, PER_FOLDER = 200, 20
"""Images that are looked at, in all and of one folder, to tell whether a source is one of pairs."""
LEAST = 0.5
"""Share of them that must have a text that says something."""
OWN = ("classes", "classnames", "readme", "license", "licence", "requirements", "labels")
"""Texts that are about the set, not about an image."""

PART = re.compile(r"((shard|part|chunk|batch|subset|split|images?)[-_ ]?)?[0-9]+", re.IGNORECASE)
"""Folders that number parts of a set."""

Texts = dict[str, dict[str, Path]]
"""Stem -> suffix -> file, of the texts in one folder."""


class PairReader:
    """A folder in which most images have a text beside them."""

    def matches(self, source: str) -> bool:
        """Looks at some images of some folders."""
        looked = [says for _, says in zip(range(SAMPLED), _looks(Path(source)), strict=False)]
        return bool(looked) and sum(looked) >= LEAST * len(looked)

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images with what is said of them; classes are folders, unless these are numbered parts."""
        if data.images is not None:
            raise UserError(f"{source}: the images lie beside their texts; leave --images away", exit_code=2)
        root = Path(source).resolve()
        tree = read_tree(root)
        records = Records()
        bare, alone, n_texts = 0, [], 0
        for folder in tree.root.below():
            texts = _texts(root / folder.path)
            stems = {_stem(path.rpartition("/")[2]) for path in folder.images}
            n_texts += sum(len(found) for stem, found in texts.items() if stem in stems)
            found = [file for stem, files in texts.items() if stem not in stems for file in files.values()]
            alone += [file for file in found if file.suffix.lower() != ".json" and file.stem.lower() not in OWN]
            split = split_of_folder(folder.path.partition("/")[0])
            for path in folder.images:
                facts = _facts(texts.get(_stem(path.rpartition("/")[2]), {}))
                bare += facts.is_empty
                records.add(
                    path, split=split[0] if split and not split[1] else None, label=facts.label,
                    unlabelled=facts.unlabelled, captions=facts.captions or [],
                )  # fmt: skip
        if len({record.split for record in records.images.values()}) < 2:  # `train` alone is a whole set
            for record in records.images.values():
                record.split = None
        if not any(record.captions or record.label is not None for record in records.images.values()):
            raise UserError(f"{source}: {len(records.images)} images, and the texts beside them say nothing of them")
        if bare:
            records.notes.append(f"{counted(bare, 'image has', 'images have')} no text of the same name")
        if alone:
            shown = alone[0].relative_to(root).as_posix()
            records.notes.append(
                f"{len(alone)} texts have no image beside them and are left out (first: {shown[:120]})"
            )
        listing = captioned(source, root, tree, records, data)
        others = sum(folder.others for folder in tree.root.below()) - n_texts - len(alone)
        return replace(listing, ignored=max(0, others))


def captioned(source: str, root: Path, tree: Tree, records: Records, data: DataParams, **settings: Any) -> Listing:
    """The listing of images with captions; where nothing says their classes, the class folders do if there are any.

    Args:
        tree: the folders that the images lie in.
        records: what is known of each image, by the paths that the tree has.
        settings: facts for the manifest's provenance.
    """
    own = records.listing(source, root, data, names=class_list(root), **settings)
    own = replace(own, notes=[*own.notes, *tree.notes()])
    if own.class_names:
        return own
    try:
        found = listing_of(source, root, tree, data)
    except UserError:
        return own
    names = list(found.class_names.values())
    if all(map(PART.fullmatch, names)):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return replace(own, notes=[*own.notes, f"folders that only number parts of the set are no classes ({shown})"])
    if len(names) < 2:
        return own
    captions = {entry.path: entry.captions for entry in own.entries}
    entries = [replace(entry, captions=captions[entry.path]) for entry in found.entries if entry.path in captions]
    notes = [*found.notes, *(note for note in own.notes if note not in found.notes)]
    return replace(found, entries=entries, notes=notes, settings=own.settings)


# Files


def _looks(folder: Path) -> Iterator[bool]:
    """Whether anything is said about each image, for some images of each folder."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_left_behind(name))
        images = sorted(name for name in names if _is_image(name) and not is_left_behind(name))
        if images:
            texts = _texts(Path(here))
            for name in images[:PER_FOLDER]:
                try:
                    yield _says(texts.get(_stem(name), {}))
                except UserError:
                    yield False


def _says(texts: Mapping[str, Path]) -> bool:
    """Whether texts name a class, or hold words: numbers alone are boxes of a detector. img2dataset's JSON counts."""
    facts = _facts(texts)
    words = any(character.isalpha() for caption in facts.captions or () for character in caption or "")
    return facts.label is not None or words or ("json" in texts and _is_of_img2dataset(texts["json"]))


def _is_of_img2dataset(file: Path) -> bool:
    said = read_json(file)
    return isinstance(said, dict) and {"key", "url", "status"} <= said.keys()


def _texts(folder: Path) -> Texts:
    found: Texts = defaultdict(dict)
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (names alone)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    for name in names:
        suffix = name.rpartition(".")[2].lower()
        if suffix in SIDECARS and not is_left_behind(name):
            found[_stem(name)].setdefault(suffix, folder / name)
    return found


def _facts(texts: Mapping[str, Path]) -> Facts:
    """What the texts beside an image say.

    Raises:
        UserError: one cannot be read or understood.
    """
    try:
        return facts_of({suffix: partial(_read, file) for suffix, file in texts.items()})
    except ValueError as error:
        shown = " or ".join(str(file) for file in texts.values())
        raise UserError(f"{shown}: {error}") from error


def _read(file: Path) -> bytes:
    try:
        check_size(file.stat().st_size)
        return read_file(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error


def _stem(name: str) -> str:
    """A name up to its last dot, in composed Unicode: text and image may come from two machines."""
    return unicodedata.normalize("NFC", name.rpartition(".")[0])


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (text, for every file)
