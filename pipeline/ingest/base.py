"""What a reader is: it looks at a source and lists the images it holds, with what the source says about them."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from stages.errors import UserError
from stages.names import display_name
from stages.params import DataParams


@dataclass(frozen=True, slots=True)
class Question:
    """One question about an image, with all answers that people gave, and the choices where there are some."""

    question_id: str
    question: str
    choices: Sequence[str] | None = None
    answers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of a source.

    Attributes:
        path: relative to the listing's root, `/` between names; see `pipeline.blobs` for images in containers.
        image_id: unique in the data set.
        class_id: None in a set without classes, and then `class_name` too.
        split: train, val or test; None asks for the seeded split.
        captions: in the order of the source; None in a set without captions.
        questions: None in a set without questions.
        class_ids: ascending, of a set whose images may have several classes or none; None in any other.
    """

    path: str
    image_id: str
    class_id: int | None = None
    class_name: str | None = None
    split: str | None = None
    captions: Sequence[str] | None = None
    questions: Sequence[Question] | None = None
    class_ids: Sequence[int] | None = None

    @property
    def classes(self) -> Sequence[int]:
        """All its classes, however many the set gives an image."""
        return self.class_ids if self.class_ids is not None else [] if self.class_id is None else [self.class_id]


@dataclass(frozen=True)
class Listing:
    """What a reader found.

    Attributes:
        root: folder that the manifest's paths are relative to.
        entries: images in a fixed order.
        class_names: class_id -> class name, for all classes of the source, empty ones included; {} without classes.
        ignored: files that are no images by their name.
        settings: facts for the manifest's provenance.
        notes: lines for the user about what was decided.
        outside: images that lie there and are not taken, by their paths.
        unlabelled: folders of images without a class, not taken either -> number of images.
    """

    root: Path
    entries: list[Entry]
    class_names: dict[int, str]
    ignored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unlabelled: dict[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """One kind of source."""

    def matches(self, source: str) -> bool:
        """Whether this reader understands the source."""
        ...

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images.

        Args:
            source: as the user gave it.
            data: the data set's settings: `images`, `columns` and `class_names` are the reader's.

        Raises:
            UserError: the source is missing, empty, or not laid out as it should be.
        """
        ...


def without_empty_classes(listing: Listing) -> Listing:
    """The listing with those classes alone that have an image, and a line about the others; ids stay as they are."""
    used = {class_id for entry in listing.entries for class_id in entry.classes}
    empty = [name for class_id, name in listing.class_names.items() if class_id not in used]
    if not empty or len(empty) == len(listing.class_names):
        return listing
    shown = ", ".join(name[:40] for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
    return replace(
        listing,
        class_names={class_id: name for class_id, name in listing.class_names.items() if class_id in used},
        notes=[*listing.notes, f"{len(empty)} classes of the source have no image and are left out: {shown}"],
    )


def check_listing(source: str, listing: Listing) -> None:
    """Refuse what no data set may have, whatever reader found it.

    Raises:
        UserError: no image, one named twice, names that are not UTF-8, an empty class name, one class only, or two
            classes that sentences would call the same.
    """
    if not listing.entries:
        raise UserError(f"{source}: no images in it")
    called: dict[str, str] = {}
    for class_id, name in listing.class_names.items():
        plain = unicodedata.normalize("NFC", display_name(_utf8(source, "class name", name)))
        if not plain:
            raise UserError(f"{source}: class {class_id} has no name (found {name!r}); give it one")
        if plain in called:
            raise UserError(
                f"{source}: class name {name[:80]!r} is given to two classes (the other: {called[plain][:80]!r}); "
                "class names must differ"
            )
        called[plain] = name
    if len(listing.class_names) == 1:
        only = next(iter(listing.class_names.values()))
        raise UserError(f"{source}: only one class ({only[:80]!r}); a classifier needs at least two")
    seen: set[str] = set()
    for entry in listing.entries:
        _utf8(source, "file name", entry.path)
        if _utf8(source, "image name", entry.image_id) in seen:
            raise UserError(f"{source}: image {entry.image_id[:200]!r} stands there twice; keep one")
        seen.add(entry.image_id)


def _utf8(source: str, what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{source}: {what} {ascii(text)[:200]} is not UTF-8; rename it") from error
    return text
