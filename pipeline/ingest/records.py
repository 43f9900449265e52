"""Images gathered from files that name them, one row after the other, into one listing."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ingest.base import Entry, Listing, Question
from stages.errors import UserError, nearest
from stages.params import DataParams

MOST_CLASSES = 1_000_000


@dataclass(slots=True)
class Record:
    """What is known of one image so far."""

    split: str | None = None
    label: int | str | None = None
    class_id: int | None = None
    captions: list[str] | None = None
    questions: list[Question] | None = None


class Records:
    """The images of a source by their paths, in the order in which they are first named."""

    def __init__(self) -> None:
        self.images: dict[str, Record] = {}
        self.paths: dict[int | str, str] = {}
        """An image's number in the source (COCO's) -> its path."""
        self.question_ids: set[str] = set()
        self.notes: list[str] = []
        self.empty = 0

    def add(
        self,
        path: str,
        *,
        split: str | None = None,
        label: int | str | None = None,
        class_id: int | None = None,
        captions: Iterable[str] | None = None,
        questions: Iterable[Question] | None = None,
    ) -> None:
        """Take one row. Captions and questions of one image add up; class and split may not differ.

        Raises:
            ValueError: the image stands there twice without either, or in two classes or splits; a question id is used
                twice.
        """
        known = self.images.get(path)
        if known is None:
            known = self.images[path] = Record(split, label, class_id)
        elif captions is None and questions is None:
            raise ValueError(f"image {path[:120]!r} stands there twice; keep one")
        elif (label, class_id) != (known.label, known.class_id) and label is not None and known.label is not None:
            raise ValueError(f"image {path[:120]!r} is of class {known.label!r} and of class {label!r}")
        elif split is not None and known.split is not None and split != known.split:
            raise ValueError(f"image {path[:120]!r} is in split {known.split!r} and in split {split!r}")
        known.split, known.label = known.split or split, label if known.label is None else known.label
        known.class_id = class_id if known.class_id is None else known.class_id
        if captions is not None:
            known.captions = known.captions or []
            for caption in map(plain, captions):
                known.captions += [caption] * bool(caption)
                self.empty += not caption
        for asked in questions or ():
            question = _cleaned(asked)
            if question.question_id in self.question_ids:
                raise ValueError(f"question {question.question_id[:80]!r} stands there twice")
            self.question_ids.add(question.question_id)
            known.questions = [*(known.questions or ()), question]

    def listing(
        self, source: str, root: Path, data: DataParams, *, names: Sequence[str] | None = None, **settings: Any
    ) -> Listing:
        """Everything gathered.

        Args:
            names: class names by class id, where the source says them apart from its rows; for labels that are numbers.

        Raises:
            UserError: only some images have a class, or the classes are not numbered soundly.
        """
        images = self.images
        without = next((path for path, record in images.items() if record.label is None), None)
        has_classes = any(record.label is not None for record in images.values())
        if has_classes and without is not None:
            raise UserError(f"{source}: image {without[:120]!r} has no class, others have one")
        ids, shown = _numbered(source, images.values(), names, data.class_names) if has_classes else ({}, {})
        has_captions = any(record.captions is not None for record in images.values())
        has_questions = any(record.questions is not None for record in images.values())
        entries = []
        for path, record in images.items():
            class_id = None if record.label is None else ids[record.label]
            entries.append(
                Entry(
                    path, path, class_id, None if class_id is None else shown[class_id], record.split,
                    (record.captions or ()) if has_captions else None,
                    (record.questions or ()) if has_questions else None,
                )
            )  # fmt: skip
        notes = [*self.notes, *([f"{self.empty} empty captions left out"] if self.empty else [])]
        return Listing(root, entries, shown, settings=settings, notes=notes)


def _cleaned(asked: Question) -> Question:
    question = plain(asked.question)
    if not question:
        raise ValueError(f"question {asked.question_id[:80]!r} is empty")
    choices = None if asked.choices is None else [plain(choice) for choice in asked.choices]
    return Question(plain(asked.question_id), question, choices, [plain(answer) for answer in asked.answers])


def plain(text: str) -> str:
    """A sentence on one line: control characters, broken UTF-16 and white space become single spaces."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return " ".join(text.split())


def _numbered(
    source: str, records: Iterable[Record], names: Sequence[str] | None, wanted: dict[str, str]
) -> tuple[dict[int | str, int], dict[int, str]]:
    """Class ids by label, and class names by class id.

    Ids are those of the source; else whole-number labels are the ids; else labels are numbered in sorted order.
    """
    given = {(record.label, record.class_id) for record in records}
    labels = {label for label, _ in given if label is not None}
    names = names if all(isinstance(label, int) for label in labels) else None
    if all(class_id is not None for _, class_id in given):
        ids = {label: class_id for label, class_id in given if label is not None and class_id is not None}
        if len(ids) < len(given) or len(set(ids.values())) < len(ids):
            raise UserError(f"{source}: class ids and class names do not belong to each other one to one")
    elif all(isinstance(label, int) for label in labels):
        ids = {label: int(label) for label in labels}
    else:
        ids = {label: number for number, label in enumerate(sorted(labels, key=str))}
    for number in ids.values():
        if not 0 <= number < (len(names) if names else MOST_CLASSES):
            most = f"{len(names)} class names are known" if names else f"expected 0 to {MOST_CLASSES - 1}"
            raise UserError(f"{source}: class id {number}: {most}")
    if names:
        named = dict(enumerate(names))
    else:
        named = {number: str(label) for label, number in sorted(ids.items(), key=lambda item: item[1])}
    unknown = sorted(set(wanted) - set(named.values()))
    if unknown:
        raise UserError(
            f"{source}: class_names has {unknown[0]!r}, which is no class there; "
            f"{nearest(unknown[0], list(named.values())[:20])}"
        )
    return ids, {number: wanted.get(name, name) for number, name in named.items()}
