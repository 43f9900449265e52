"""Known data sets, once they are read: the split that the field tests on, and what keeps one from being the published.

What is not laid out as a known data set is the user's own and stays as it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.ingest.base import Entry, Listing
from pipeline.registry import Card, card
from stages.errors import UserError


def refuse_bare_images(dataset: str, source: str) -> None:
    """Refuse a folder of images alone under the name of a set of captions or questions.

    For a source that nothing but class folders can be read from; without the file of captions these are no classes.

    Raises:
        UserError: the line names all that the folder lacks, and where to get it.
    """
    known, folder = card(dataset), Path(source)
    if known is None or known.task == "classification" or not folder.is_dir() or not any(folder.iterdir()):
        return
    if not known.marked(folder) and not known.deeper(folder):
        lacking = "; ".join(known.check(folder))
        raise UserError(f"{source}: no {known.task} of {known.title}: {lacking}{known.told_addresses()}")


@contextmanager
def with_place(dataset: str, source: str) -> Iterator[None]:
    """Say at the end of a fault that is found in the files of a known data set where the whole ones are to be had."""
    try:
        yield
    except UserError as error:
        known, folder = card(dataset), Path(source)
        if error.exit_code != 1 or known is None or not folder.is_dir() or not known.marked(folder):
            raise
        raise UserError(f"{error} (`pipeline datasets {known.name} --how` says where to get it)") from error


def as_published(dataset: str, source: str, listing: Listing, *, max_missing: float) -> Listing:
    """The listing of a known data set with the split that the field tests on, and a line where it is no published one.

    VQA2 is tested on its validation split.

    Args:
        source: as the user gave it.
        max_missing: share of images without caption, and of questions without answer, that is still taken.

    Raises:
        UserError: nothing is to be tested on, or captions or answers are missing.
    """
    known, folder = card(dataset), Path(source)
    if known is None or not folder.is_dir() or not known.marked(folder):
        return listing
    entries, notes = listing.entries, list(listing.notes)
    if known.val_is_test:
        entries, lines = _tested_on_val(known, entries)
        notes += lines
    _require_texts(known, source, entries, max_missing)
    counts = Counter(entry.split or known.split or "train" for entry in entries)
    if lacking := known.untested(counts):
        raise UserError(f"{source}: {lacking}")
    asked = Counter(entry.split or "train" for entry in entries for _ in entry.questions or ())
    if differs := known.differs(len(listing.class_names), counts, asked):
        notes.append(differs)
    elif known.texts is not None and known.texts != (said := sum(map(_said, entries))):
        notes.append(
            f"{said:,} {'answers' if known.task == 'questions' else 'captions'}, where the published {known.title} has "
            f"{known.texts:,}: another version, or a part of it; published numbers do not compare"
        )
    return replace(listing, entries=entries, notes=notes)


def _said(entry: Entry) -> int:
    """Captions, or answers to its questions, that an image has."""
    return len(entry.captions or ()) + sum(len(question.answers) for question in entry.questions or ())


def _tested_on_val(known: Card, entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """Validation images as the test split, without test images whose answers nobody has, and lines that say so."""
    secret = {e.image_id for e in entries if e.split == "test" and not any(q.answers for q in e.questions or ())}
    kept = [entry for entry in entries if entry.image_id not in secret]
    lines = [f"{len(secret)} images of its test split are left out: their answers are not public"] * bool(secret)
    if not any(entry.split == "test" for entry in kept):
        kept = [replace(entry, split="test") if entry.split == "val" else entry for entry in kept]
        lines.append(f"its validation split serves as the test split: the test answers of {known.title} are not public")
    return kept, lines


def _require_texts(known: Card, source: str, entries: Sequence[Entry], max_missing: float) -> None:
    """Refuse captions or answers that are missing for more than a share of a split's images or questions.

    Raises:
        UserError: they are; the line says in which split.
    """
    said: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for entry in entries:
        split = entry.split or known.split or "train"
        if known.task == "captions":
            total[split] += 1
            said[split] += bool(entry.captions)
        for question in entry.questions or () if known.task == "questions" else ():
            total[split] += 1
            said[split] += bool(question.answers)
    what = ("images", "caption") if known.task == "captions" else ("questions", "answer")
    for split, count in total.items():
        if count - said[split] > max_missing * count:
            raise UserError(
                f"{source}: {count - said[split]:,} of {count:,} {what[0]} in {split} have no {what[1]}: a file is cut "
                "off, or is not what it is called"
            )
