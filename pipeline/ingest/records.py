"""Images gathered from files that name them, one row after the other, into one listing."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ingest.base import Entry, Listing, Question
from pipeline.ingest.class_names import join_spellings, spelling_key, tidy
from pipeline.ingest.labels import numbered
from stages.errors import UserError
from stages.params import DataParams
from stages.text import counted

MOST_CLASSES = 1_000_000


@dataclass(slots=True)
class Record:
    """What is known of one image so far."""

    split: str | None = None
    label: int | str | None = None
    class_id: int | None = None
    unlabelled: bool = False
    captions: list[str] | None = None
    questions: list[Question] | None = None
    labels: tuple[int | str, ...] | None = None


class Records:
    """The images of a source by their paths, in the order in which they are first named."""

    def __init__(self) -> None:
        self.images: dict[str, Record] = {}
        self.paths: dict[int | str, str] = {}
        """An image's number in the source (COCO's) -> its path."""
        self.question_ids: set[str] = set()
        self.notes: list[str] = []
        self.captioned: dict[str, str] = {}
        """Path -> the JSON file whose captions it has."""
        self.empty = self.empty_answers = 0
        self.class_list: list[str] | None = None

    def order(self, names: Sequence[str] | None, *, where: str) -> None:
        """Take the list of classes that a file of several classes an image brings, in its order.

        Raises:
            UserError: a file before it brings another one.
        """
        if names is None:
            return
        if self.class_list not in (None, list(names)):
            raise UserError(f"{where}: its classes are not those of the files before it")
        self.class_list = list(names)

    def add(
        self,
        path: str,
        *,
        split: str | None = None,
        label: int | str | None = None,
        class_id: int | None = None,
        unlabelled: bool = False,
        captions: Iterable[str | None] | None = None,
        questions: Iterable[Question] | None = None,
        labels: Sequence[int | str] | None = None,
    ) -> None:
        """Take one row. Captions and questions of one image add up; class and split may not differ.

        Args:
            labels: all classes of the image, in a source that may give it several, or none.
            unlabelled: the source has a place for the class, and says there that nobody knows it.

        Raises:
            ValueError: the image stands there twice without either, or in two classes or splits; a question id is used
                twice.
        """
        known = self.images.get(path)
        every = None if labels is None else tuple(dict.fromkeys(labels))
        if known is None:
            known = self.images[path] = Record(split, label, class_id, unlabelled, labels=every)
        elif every is not None and known.labels is not None and set(every) != set(known.labels):
            shown = " and ".join(str(list(each))[:60] for each in (known.labels, every))
            raise ValueError(f"image {path[:120]!r} has other classes here than before: {shown}")
        elif captions is None and questions is None and (known.labels is None) == (every is None):
            raise ValueError(f"image {path[:120]!r} stands there twice; keep one")
        elif label is not None and known.label is not None and not _are_one(label, class_id, known):
            raise ValueError(f"image {path[:120]!r} is of class {known.label!r} and of class {label!r}")
        elif split is not None and known.split is not None and split != known.split:
            raise ValueError(f"image {path[:120]!r} is in split {known.split!r} and in split {split!r}")
        known.split, known.label = known.split or split, label if known.label is None else known.label
        known.class_id = class_id if known.class_id is None else known.class_id
        known.labels = every if known.labels is None else known.labels
        if captions is not None:
            known.captions = known.captions or []
            for caption in (plain(caption or "") for caption in captions):
                known.captions += [caption] * bool(caption)
                self.empty += not caption
        for asked in questions or ():
            question = _cleaned(asked)
            self.empty_answers += len(asked.answers) - len(question.answers)
            if question.question_id in self.question_ids:
                raise ValueError(f"question {question.question_id[:80]!r} stands there twice")
            self.question_ids.add(question.question_id)
            known.questions = [*(known.questions or ()), question]

    def caption(self, path: str, captions: Iterable[str | None], *, split: str | None, file: str) -> None:
        """Take an image of a JSON file of captions, which has all captions of an image in one place.

        Raises:
            ValueError: the image stands there twice, or in another such file as well; as for `add`.
        """
        if path in self.captioned:
            other = self.captioned[path]
            told = (
                "stands there twice; keep one" if other == file else f"stands in {other} as well; keep one of the files"
            )
            raise ValueError(f"image {path[:120]!r} {told}")
        self.captioned[path] = file
        self.add(path, split=split, captions=captions)

    def listing(
        self, source: str, root: Path, data: DataParams, *, names: Sequence[str] | None = None, **settings: Any
    ) -> Listing:
        """Everything gathered.

        Args:
            names: class names by class id, where the source says them apart from its rows; for labels that are numbers.

        Raises:
            UserError: only some images have a class, or the classes are not numbered soundly.
        """
        several = self._several(source, names, data)
        images = self._labelled(source)
        has_classes = any(record.label is not None for record in images.values())
        without = next((path for path, record in images.items() if record.label is None), None)
        if has_classes and without is not None:
            raise UserError(f"{source}: image {without[:120]!r} has no class, others have one")
        ids: dict[int | str, int] = {}
        shown: dict[int, str] = {}
        if has_classes:
            try:
                ids, shown, notes = _numbered(images, names, data.class_names)
            except ValueError as error:
                raise UserError(f"{source}: {error}") from error
            self.notes += notes
        if several is not None:
            shown = several[1]
        has_captions = any(record.captions for record in images.values())
        has_questions = any(record.questions is not None for record in images.values())
        if not (has_classes or several is not None or has_captions or has_questions) and images:
            raise UserError(f"{source}: {len(images)} images, of which nothing is said: no class, caption or question")
        entries = []
        for path, record in images.items():
            class_id = None if record.label is None else ids[record.label]
            entries.append(
                Entry(
                    path, path, class_id, None if class_id is None else shown[class_id], record.split,
                    (record.captions or ()) if has_captions else None,
                    (record.questions or ()) if has_questions else None,
                    None if several is None else several[0][path],
                )
            )  # fmt: skip
        if self.empty:
            bare = sum(record.captions == [] for record in images.values())
            left = f"; {bare} images have no other" if bare else ""
            self.notes.append(f"{self.empty} empty captions left out{left}")
        elif has_captions and (bare := sum(not record.captions for record in images.values())):
            self.notes.append(f"{bare} of {len(images)} images have no caption")
        if self.empty_answers:
            self.notes.append(f"{self.empty_answers} empty answers left out")
        asked = [question for record in images.values() for question in record.questions or ()]
        if mute := sum(not question.answers for question in asked):
            self.notes.append(f"{mute} of {len(asked)} questions have no answer")
        return Listing(root, entries, shown, settings=settings, notes=self.notes)

    def _several(
        self, source: str, names: Sequence[str] | None, data: DataParams
    ) -> tuple[dict[str, list[int]], dict[int, str]] | None:
        """Class ids by path and class names by class id, where images may have several; None where each has one.

        Raises:
            UserError: only some images say their classes, or the classes are not named soundly.
        """
        with_labels = [path for path, record in self.images.items() if record.labels is not None]
        if not with_labels:
            if data.multi_label:
                raise UserError(
                    f"{source}: multi_label is set, and nothing gives an image several classes", exit_code=2
                )
            return None
        for path, record in self.images.items():
            if record.labels is None or record.label is not None:
                what = "no classes" if record.labels is None else "one class in one file and several in another"
                raise UserError(
                    f"{source}: image {path[:120]!r} has {what}; an image of none of the classes has an empty cell"
                )
        images = {path: record.labels or () for path, record in self.images.items()}
        one = all(len(labels) == 1 for labels in images.values())
        if data.multi_label is False and not one:
            path = next(path for path, labels in images.items() if len(labels) != 1)
            raise UserError(
                f"{source}: multi_label is false, and image {path[:120]!r} has "
                f"{counted(len(images[path]), 'class', 'classes')}: leave "
                "multi_label away",
                exit_code=2,
            )
        order = self.class_list
        try:
            first = {label: path for path, labels in reversed(images.items()) for label in labels}
            called, lines = _names_of(first, names) if order is None else ({label: str(label) for label in first}, [])
            if order is None and names and not any(isinstance(label, int) for label in first):
                order = list(names)
            shown = {path: (self.images[path].split, [called[label] for label in own]) for path, own in images.items()}
            if one and not data.multi_label:
                self._as_single({path: names[0] for path, (_, names) in shown.items()}, order)
                return None
            class_ids, class_names, more = numbered(shown, order, data.class_names)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
        none = sum(not labels for labels in images.values())
        self.notes += [*lines, *more]
        self.notes += [f"{none} of {counted(len(images), 'image')} have none of the classes, and are kept"] * bool(none)
        return class_ids, class_names

    def _as_single(self, labels: Mapping[str, str], order: Sequence[str] | None) -> None:
        """Every image turned out to have exactly one class."""
        ids = None if order is None else {name: number for number, name in enumerate(order)}
        for path, label in labels.items():
            self.images[path].label = label
            self.images[path].class_id = None if ids is None else ids.get(label)
        self.notes.append(
            "every image has exactly one class: read as a data set of one class an image (multi_label: true in the "
            "settings reads it as one of several)"
        )

    def _labelled(self, source: str) -> dict[str, Record]:
        """The images, without those of which the source says that nobody knows their class.

        Raises:
            UserError: there is nothing else.
        """
        left = {path: record for path, record in self.images.items() if record.unlabelled and record.label is None}
        if not left:
            return self.images
        what = f"{len(left)} images are unlabelled (class -1 or empty; first: {next(iter(left))[:120]!r})"
        mend = "`trainer predict` names the classes of image files"
        kept = {path: record for path, record in self.images.items() if path not in left}
        if not any(record.label is not None for record in kept.values()):
            if any(record.captions or record.questions for record in left.values()):
                self.notes.append(f"{what}, and no image has a class: they are kept for their captions and questions")
                return self.images
            raise UserError(f"{source}: {what}, and no image has a class; {mend}")
        if {record.label for record in kept.values()} == {1}:
            raise UserError(
                f"{source}: {what}, and all others are of class 1; number two classes 0 and 1, not -1 and 1"
            )
        self.notes.append(f"{what} and left out of the data set: {mend}")
        had, has = ({record.split for record in found.values()} for found in (self.images, kept))
        if had != has and len(has) == 1:
            self.notes.append(f"no labelled image is left in {_listed(had - has)}: the splits are drawn by seed")
            for record in kept.values():
                record.split = None
        elif had != has:
            self.notes.append(f"no labelled image is left in {_listed(had - has)}: the data set has no such split")
        return kept


def _listed(splits: set[str | None]) -> str:
    return ", ".join(sorted(split or "the images without a split" for split in splits))


def _are_one(label: int | str, class_id: int | None, known: Record) -> bool:
    """Whether a label is that which an image has already, in whatever spelling."""
    same = label == known.label or (
        isinstance(label, str) and isinstance(known.label, str) and spelling_key(label) == spelling_key(known.label)
    )
    return same and class_id == known.class_id


def _cleaned(asked: Question) -> Question:
    question = plain(asked.question)
    if not question:
        raise ValueError(f"question {asked.question_id[:80]!r} is empty")
    choices = None if asked.choices is None else [plain(choice) for choice in asked.choices]
    answers = [answer for answer in map(plain, asked.answers) if answer]
    return Question(plain(asked.question_id), question, choices, answers)


def plain(text: str) -> str:
    """A sentence on one line: control characters, broken UTF-16 and white space become single spaces."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return " ".join(text.split())


def _numbered(
    images: Mapping[str, Record], names: Sequence[str] | None, wanted: Mapping[str, str]
) -> tuple[dict[int | str, int], dict[int, str], list[str]]:
    """Class ids by label, class names by class id, and lines for the user.

    Ids are those of the source; else whole-number labels are the ids; else labels are numbered in sorted order.

    Raises:
        ValueError: an id out of range, ids and names that are not one to one, or names that nobody can tell apart.
    """
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    first: dict[int | str, str] = {}
    given: set[tuple[int | str, int | None]] = set()
    for path, record in images.items():
        label = record.label
        if label is not None:
            first.setdefault(label, path)
            given.add((label, record.class_id))
    has_ids = all(class_id is not None for _, class_id in given)
    called, notes = _names_of(first, None if has_ids else names)
    for record in images.values():
        if record.label is not None:
            counts[record.split][called[record.label]] += 1
    counts[None].update(dict.fromkeys(called.values(), 0))
    ids: dict[int | str, int] = {label: label for label in called if isinstance(label, int)}
    if has_ids:
        ids = {label: class_id for label, class_id in given if class_id is not None}
        if len(ids) < len(given):
            raise ValueError("class ids and class names do not belong to each other one to one")
    for label, number in ids.items():
        if not 0 <= number < MOST_CLASSES:
            raise ValueError(
                f"class id {str(number)[:40]} (image {first[label][:120]!r}): expected 0 to {MOST_CLASSES - 1}"
            )
    numbered = len(ids) == len(called)
    mapping, lines = join_spellings(counts, wanted, ids={called[la]: i for la, i in ids.items()} if numbered else None)
    groups: dict[tuple[str, str], list[int | str]] = defaultdict(list)
    for label, name in called.items():
        groups[spelling_key(name), mapping[name]].append(label)
    if not numbered:
        order = sorted(groups, key=lambda key: _order(key[1], [tidy(called[label]) for label in groups[key]]))
        ids = {label: number for number, key in enumerate(order) for label in groups[key]}
    shown: dict[int, str] = {}
    for (_, name), labels in groups.items():
        number = min(ids[label] for label in labels)
        if number in shown:
            raise ValueError("class ids and class names do not belong to each other one to one")
        shown[number] = name
        ids |= dict.fromkeys(labels, number)
    return ids, dict(sorted(shown.items())), [*notes, *lines]


def _order(name: str, spellings: list[str]) -> str:
    """What a class is sorted by: its name, unless the settings gave it another than the source has."""
    return name if name in spellings else min(spellings)


def _names_of(first: Mapping[int | str, str], names: Sequence[str] | None) -> tuple[dict[int | str, str], list[str]]:
    """The name of each label, and of each class that the source names beside them; numbers count from 0, or from 1.

    Args:
        first: label -> the first image that has it.
        names: class names by number.

    Raises:
        ValueError: a number that has no name.
    """
    if not names or not all(isinstance(label, int) for label in first):
        return {label: str(label) for label in first}, []
    from_one = 0 not in first and len(names) in first
    start = int(from_one)
    for label, path in first.items():
        if not start <= int(label) < start + len(names):
            raise ValueError(
                f"class id {str(label)[:40]} (image {path[:120]!r}): {len(names)} class names are known, for the ids "
                f"{start} to {start + len(names) - 1}"
            )
    line = f"class ids run from 1 to {len(names)}, not from 0: 1 is {names[0][:80]!r}, the first of the class names"
    return {start + number: name for number, name in enumerate(names)}, [line] * from_one
