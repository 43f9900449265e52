"""Files that name images and say something about them: class lists, captions, questions, or all of these together.

One file is a source, or a folder with such files: tables and lists in JSON (`tables`, `rows`), COCO's, NoCaps' and
Karpathy's captions (`captions`), VQA2's questions (`vqa`). What they say about one image comes together in one row.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.ingest.base import Listing
from pipeline.ingest.captions import add_coco, add_karpathy, is_coco, is_karpathy
from pipeline.ingest.instances import add_instances, is_instances
from pipeline.ingest.json_files import read_json
from pipeline.ingest.places import Places
from pipeline.ingest.records import Records
from pipeline.ingest.rows import add_table
from pipeline.ingest.splits import SPLIT_NAMES, splits_by_file_name
from pipeline.ingest.tables import SUFFIXES, read_table, speaks_of_images
from pipeline.ingest.text_tables import json_table
from pipeline.ingest.vqa import add_questions, answers_of, is_annotations, is_questions
from stages.errors import UserError
from stages.params import DataParams
from stages.text import read_text

JSON_NAMES = re.compile(r"captions|questions|annotations|instances|^dataset_(coco|flickr)", re.IGNORECASE)
"""What JSON files of a folder are looked into."""
OBJECTS = re.compile(r"instances", re.IGNORECASE)
"""COCO's files of objects among these."""
TO_HAND_IN = re.compile(r"submission", re.IGNORECASE)
"""Tables of a competition that wait for answers: the classes in them are made up (`sample_submission.csv`)."""


class ListReader:
    """Images that files name, or that Parquet files hold."""

    def matches(self, source: str) -> bool:
        """A table or a JSON file, or a folder with files that speak of images."""
        place = Path(source)
        if place.is_file():
            return place.suffix.lower() in SUFFIXES | {".json"}
        return place.is_dir() and bool(_files_of(place))

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images in the order in which they are first named."""
        place = Path(source)
        files = [place] if place.is_file() else _files_of(place)
        objects = [] if data.multi_label else _beside_captions(files)
        files = [file for file in files if file not in objects]
        folder = place.parent if place.is_file() else place
        if place.is_file() and place.suffix.lower() == ".json":
            files += _annotations_beside(place)
        listing = read_files(source, folder, files, data)
        aside = [] if place.is_file() else sorted(f.name for f in place.iterdir() if TO_HAND_IN.search(f.name))
        aside = [name for name in aside if place / name not in files]
        line = f"{', '.join(aside)[:200]}: answers to be handed in, left aside (to read it, name it as the source)"
        notes = [*listing.notes, *[line] * bool(aside)]
        names = ", ".join(file.name for file in objects)[:200]
        notes += [f"{names}: left aside beside captions (multi_label: true in the settings reads both)"] * bool(objects)
        return replace(listing, notes=notes)


def read_files(
    source: str, folder: Path, files: Sequence[Path], data: DataParams, said: Mapping[Path, str | None] | None = None
) -> Listing:
    """Join files into one listing.

    Args:
        folder: where the files lie, and where their images are looked for unless the settings say otherwise.
        said: the split of each file; None lets their names say it.

    Raises:
        UserError: a file cannot be understood, or two files contradict each other.
    """
    records = Records()
    places = Places(folder, data)  # first: an image folder that is not there is told before all else
    said = _splits_of(files, folder) if said is None else said
    names: list[str] | None = None
    counted: Counter[str] = Counter()
    for file in (f for f in files if f.suffix.lower() != ".json"):
        table = read_table(file, data.columns)
        if table.names is not None:
            if names is not None and names != table.names:
                raise UserError(f"{file}: its class names are not those of the files before it")
            names = table.names
        own = _places(folder, file, data)
        add_table(records, table, own, said[file], at=folder.resolve() / _told(folder, file))
        counted.update(own.counted)
    for file, entries in _add_json(records, [f for f in files if f.suffix.lower() == ".json"], places, said):
        own = _places(folder, file, data)
        add_table(records, json_table(file, entries, data.columns), own, said[file], at=folder)
        counted.update(own.counted)
    counted.update(places.counted)
    records.notes += [f"{count} {what}" for what, count in counted.items() if count]
    if names is None:
        names = class_list(folder)
    shown = sorted(_told(folder, file) for file in files)
    if len(files) > 1 or Path(source).is_dir():
        records.notes.insert(0, f"read from {', '.join(shown)[:300]}")
    return records.listing(source, places.root, data, names=names, files=shown)


def class_list(folder: Path) -> list[str] | None:
    """The lines of `classes.txt` or `classnames.txt` in a folder, one class name each by number; None without one."""
    for name in ("classes.txt", "classnames.txt"):
        if (folder / name).is_file():
            return [line.strip() for line in read_text(folder / name).rstrip().splitlines()]
    return None


# Files


def _files_of(folder: Path) -> list[Path]:
    """The files that speak of images: the folder's own, those in `annotation(s)` and `data`, `metadata.*` of splits."""
    found = []
    inner = [folder / name for name in ("annotations", "annotation", "data")]
    for place in (folder, *inner, *_split_folders(folder)):
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            suffix = file.suffix.lower()
            in_split = place.name.lower() in SPLIT_NAMES
            if file.name.startswith(".") or (in_split and file.stem.lower() != "metadata") or not file.is_file():
                continue
            is_table = suffix in SUFFIXES - {".arrow"}
            is_json = suffix == ".json"
            if (is_json and JSON_NAMES.search(file.name)) or ((is_table or is_json) and speaks_of_images(file)):
                found.append(file)
    speaking = [file for file in found if "annotations" not in file.name.lower()]
    real = [file for file in found if not TO_HAND_IN.search(file.name)]
    return (real or found) if speaking else []


def _beside_captions(files: Sequence[Path]) -> list[Path]:
    """Files of objects where others say captions or questions: COCO's are large, and captions do not need them."""
    objects = [file for file in files if file.suffix.lower() == ".json" and OBJECTS.search(file.name)]
    return objects if any(JSON_NAMES.search(file.name) for file in files if file not in objects) else []


def _split_folders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.name.lower() in SPLIT_NAMES and place.is_dir())


def _annotations_beside(questions: Path) -> list[Path]:
    """VQA2's annotations of a question file: beside it, of the same subset (`val2014`)."""
    subset = re.search(r"(train|val|test)[a-z-]*\d*", questions.name)
    beside = sorted(f for f in questions.parent.glob("*annotations*.json") if f != questions)
    return [f for f in beside if subset and subset.group() in f.name] if "questions" in questions.name.lower() else []


def _splits_of(files: Sequence[Path], folder: Path) -> dict[Path, str | None]:
    """The split that each file's name says; Karpathy's files say it image by image, annotations belong to questions."""
    telling = [f for f in files if not re.search(r"^dataset_|annotations", f.name)]
    said = splits_by_file_name([_told(folder, file) for file in telling])
    return {**dict.fromkeys(files), **dict(zip(telling, said, strict=True))}


def _told(folder: Path, file: Path) -> str:
    """A file's name as notes and provenance have it."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _places(folder: Path, file: Path, data: DataParams) -> Places:
    below = file.parent.relative_to(folder).as_posix() if file.is_relative_to(folder) else ""
    return Places(folder, data, below="" if below == "." else below)


# JSON


def _add_json(
    records: Records, files: Sequence[Path], places: Places, said: Mapping[Path, str | None]
) -> list[tuple[Path, list[Any]]]:
    """Take the files of captions and questions; returns those that are lists of entries: tables, in JSON."""
    tables: list[tuple[Path, list[Any]]] = []
    known: dict[int | str, list[str]] = {}
    answered: list[tuple[Path, dict[int | str, list[str]]]] = []
    questions: list[tuple[Path, Any]] = []
    coco: list[tuple[Path, Any]] = []
    karpathy: list[Path] = []
    for file in files:
        raw = read_json(file)
        if isinstance(raw, list):
            tables.append((file, raw))
        elif is_instances(raw):
            with _faults_of(file):
                add_instances(records, raw, places, where=str(file), split=said[file])
        elif is_karpathy(raw):
            with _faults_of(file):
                add_karpathy(records, raw, places, where=str(file))
            karpathy.append(file)
        elif is_coco(raw):
            coco.append((file, raw))
        elif is_questions(raw):
            questions.append((file, raw))
        elif is_annotations(raw):
            with _faults_of(file):
                found = answers_of(raw, where=str(file))
            for other, answers in answered:
                if both := next((question for question in found if question in answers), None):
                    raise UserError(
                        f"{file}: question {both!r} is answered in {other.name} too; one is not what it is called"
                    )
            answered.append((file, found))
            known |= found
        else:
            raise UserError(
                f"{file}: not understood ({_shape(raw)}); expected COCO captions or instances, Karpathy's "
                "dataset_*.json, VQA2 questions, a list of objects with an image and a caption, class or question "
                'each, or CoOp\'s split file {"train": [[path, class id, class name], ...], "val": ..., "test": ...}'
            )
    if karpathy and coco:
        records.notes.append(f"{karpathy[0].name} decides captions and splits; {coco[0][0].name} is left aside")
        coco = []
    for file, raw in coco:
        with _faults_of(file):
            add_coco(records, raw, places, where=str(file), split=said[file])
    for file, raw in questions:
        with _faults_of(file):
            add_questions(records, raw, known, places, where=str(file), split=said[file])
    if known and not questions:
        raise UserError(f"{files[0]}: answers without questions; put VQA2's *_questions.json beside it")
    if alone := sum(str(question) not in records.question_ids for question in known):
        records.notes.append(f"{alone} of {len(known)} answered questions are in no file of questions and are left out")
    return tables


def _shape(raw: Any) -> str:
    """What a JSON file is, for messages."""
    if not isinstance(raw, dict):
        return f"found {str(raw)[:40]!r}"
    inside = raw.get("images")
    first = inside[0] if isinstance(inside, list) and inside else None
    of = f"; images of {', '.join(map(str, first))[:80]}" if isinstance(first, dict) else ""
    return f"an object of {', '.join(map(str, raw))[:120] or 'nothing'}{of}"


@contextmanager
def _faults_of(file: Path) -> Iterator[None]:
    """Say in which file a fault lies."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
