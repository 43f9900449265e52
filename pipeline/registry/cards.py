"""The cards of `datasets.yaml`: what a known data set is called, how its folder is laid out, what is asked about it.

Everything here looks at names of files only; no image is opened.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.registry.synsets import class_ids, imagenet_names
from stages.names import is_left_behind
from stages.params import SplitParams, check, read_yaml

TABLE = Path(__file__).with_name("datasets.yaml")
COOP = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""CoOp's DATASETS.md, which the cards name: where its split files, and more, are to be had."""
Paths = Annotated[list[str], Field(min_length=1)]
FILES = (".json", ".txt")
"""Suffixes of what a layout asks for as a file; the rest are folders."""
LEAST = 0.5
"""Share of a data set's class folders that say that a folder is meant to be it."""
LEVELS, WIDEST = 3, 50
"""How far below a folder the data set is looked for: levels, and folders in one."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Item(_Strict):
    """One thing that has to lie in the folder."""

    path: Paths = Field(description="alternatives, relative to the folder, `/` between names")
    what: str = Field(min_length=1, description="what it is")
    get: str = Field(min_length=1, description="where it is to be had")
    folders: int | None = Field(None, ge=1, description="how many class folders it must hold, of `Card.folder_names`")
    bytes: int | None = Field(None, ge=1, description="of the archive that it comes in")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def missing(self, folder: Path, names: Sequence[frozenset[str]] = ()) -> str | None:
        """What is wrong with it in `folder`, in half a sentence; None where all is well.

        Args:
            names: what its class folders are called, in each of the ways that there are.
        """
        here = _first(folder, self.path)
        if here is None:
            fault = f"{' or '.join(self.path)} is missing"
        else:
            fault = self._unlike(folder / here, "the folder" if here == "." else here, names)
        return f"{fault} ({self.what}; get: {self.get})" if fault else None

    def _unlike(self, place: Path, shown: str, names: Sequence[frozenset[str]]) -> str:
        """What is wrong with what lies there; empty where nothing is."""
        if Path(self.path[0]).suffix in FILES:
            return "" if place.is_file() else f"{shown} is a folder, expected a file"
        if not place.is_dir():
            return f"{shown} is a file, expected a folder"
        if self.folders is None:
            return "" if any(place.iterdir()) else f"{shown} is an empty folder"
        found = _folder_names(place)
        known: frozenset[str] = max(names, key=lambda each: len(each & found), default=frozenset())
        if not known & found:
            return f"{shown} holds none of the {self.folders} class folders{_instead(place, shown, found, names)}"
        strange, lacking = sorted(found - known), sorted(known - found)
        parts = [f"{_some(strange)} {'is' if len(strange) == 1 else 'are'} none of its classes"] * bool(strange)
        parts += [f"{_some(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"] * bool(lacking)
        expected = f", expected {self.folders}" * (len(found) != self.folders)
        return f"{shown} holds {len(found)} class folders{expected}: {', '.join(parts)}" if parts else ""


class Card(_Strict):
    """One known data set."""

    name: str = Field(description="its key in the table; what the user types")
    title: str = Field(min_length=1, description="as people call it")
    task: Literal["classification", "captions", "questions"] = Field(description="what it says about its images")
    classes: int | None = Field(None, ge=2, description="number of classes")
    images_of: dict[Literal["train", "val", "test"], int] = Field({}, description="split -> images, as published")
    questions_of: dict[Literal["train", "val", "test"], int] = Field({}, description="split -> questions, as published")
    layout: list[Item] = Field(min_length=1, description="what has to be there")
    texts: int | None = Field(None, description="captions, or answers, in all, as published")
    other_versions: list[str] = Field([], description="what folders of other versions are called that look alike")
    marks: Paths = Field(description="any of these says that a folder is meant to be this data set")
    source: Paths = Field(["."], description="what in the folder is read, the first that is there")
    images: list[str] = Field([], description="sub-folder of the images, the first that is there")
    split_file: str | None = Field(None, description="the file that says which image belongs to which split")
    names: Literal["split file", "variants.txt", "ImageNet folders", "ImageNet numbers"] | None = Field(
        None, description="where the class names come from"
    )
    class_names: dict[str, str] = Field({}, description="name of a class folder -> clean class name")
    split: Literal["test"] | None = Field(None, description="the split of every image, where the set has but one")
    val_is_test: bool = Field(False, description="its test labels are not public: val serves as the test split")
    templates: list[str] = Field([], description="one `{}` each")
    questions: str | None = Field(None, description="key in questions.yaml")
    kind: str | None = Field(None, description="what every class is, as a question says it: `a type of pet`")
    licence: str | None = Field(None, description="in words")
    homepage: str | None = Field(None, description="where it is described, and mostly to be had")
    citation: str = Field(min_length=1, description="authors, venue, year")

    def addresses(self) -> str:
        """Where the places are that `get` names."""
        known = {"homepage": self.homepage, "CoOp's DATASETS.md": COOP}
        named = [f"{name}: {at}" for name, at in known.items() if at and any(name in i.get for i in self.layout)]
        return "; ".join(named)

    def told_addresses(self) -> str:
        """The same in brackets, for the end of a sentence; empty where there are none."""
        return f" ({self.addresses()})" if self.addresses() else ""

    def marked(self, folder: Path) -> bool:
        """Whether the folder is meant to be this data set: it has one of the marks, or half of the class folders."""
        return _first(folder, self.marks) is not None or any(
            len(names & _folder_names(folder / path)) >= LEAST * len(names)
            for item in self.layout
            if item.folders
            for path in item.path
            for names in self.folder_names()
        )

    def deeper(self, folder: Path) -> Path | None:
        """A folder below this one that is the whole of this data set, the nearest; None where none is found."""
        places = [folder]
        for _ in range(LEVELS):
            wide = [place / name for place in places for name in sorted(_folder_names(place))]
            places = wide if len(wide) <= WIDEST else []
            if found := next((place for place in places if self.marked(place) and not self.check(place)), None):
                return found
        return None

    def folder_names(self) -> list[frozenset[str]]:
        """What its class folders are called, in each of the ways that there are; [] where they are not known."""
        ids = [class_ids(self.name)] if self.names in ("ImageNet folders", "ImageNet numbers") else []
        return [frozenset(map(str, range(len(ids[0])))), *ids] if self.names == "ImageNet numbers" else ids

    def check(self, folder: Path) -> list[str]:
        """Everything that the layout asks for and the folder does not have; empty where all is there."""
        names, called = self.folder_names(), folder.resolve().name
        other = [f"{called} is another version of it"] * (called in self.other_versions)
        return other + [fault for fault in (item.missing(folder, names) for item in self.layout) if fault]

    def source_in(self, folder: Path) -> Path:
        """What in the folder is read."""
        here = _first(folder, self.source)
        return folder if here in (None, ".") else folder / str(here)

    def lacking(self, folder: Path) -> list[Item]:
        """What the layout asks for and the folder does not have."""
        names = self.folder_names()
        return [item for item in self.layout if item.missing(folder, names)]

    def untested(self, counts: Mapping[str, int]) -> str | None:
        """That nothing can be judged, as no image is in test though some of the published ones are; None otherwise."""
        published = self.images_of.get("test")
        if counts.get("test") or not published:
            return None
        return f"no image is in its test split, where the published one of {self.title} has {published:,}"

    def differs(self, classes: int, counts: Mapping[str, int], asked: Mapping[str, int] | None = None) -> str | None:
        """How a split differs from the published one; None where it does not, or where that is not known.

        Args:
            counts: split -> images.
            asked: split -> questions; None where they are not counted.
        """
        found = {split: counts.get(split, 0) for split in self.images_of}
        questions = {split: asked.get(split, 0) for split in self.questions_of} if asked else {}
        same = found == self.images_of and classes == (self.classes or classes)
        if not any(found.values()) or (same and (not asked or questions == self.questions_of)):
            return None
        other = f" with {_counted(questions)} questions" * bool(questions)
        published = f" with {_counted(self.questions_of)}" * bool(questions)
        return (
            f"{_counted(found)} images{f' of {classes} classes' * bool(classes)}{other}, where the published split of "
            f"{self.title} has {_counted(self.images_of)}{f' of {self.classes}' * bool(self.classes)}{published}: "
            "another version, or a part of it; published numbers do not compare"
        )

    def data(self, folder: Path) -> dict[str, Any]:
        """The fields of `DataParams` that this data set brings for a folder of its layout."""
        fields: dict[str, Any] = {"source": str(self.source_in(folder))}
        images = _first(folder, self.images)
        if images is not None:
            fields["images"] = images
        if self.names == "ImageNet numbers":
            fields["class_names"] = {str(number): name for number, name in enumerate(imagenet_names().values())}
        elif self.class_names:
            fields["class_names"] = self.class_names
        if self.split == "test":
            fields["split"] = SplitParams(train=0.0, val=0.0, test=1.0)
        if self.templates:
            fields["templates"] = self.templates
        return fields

    def named_folders(self, folder: Path) -> bool:
        """Whether the class folders of any folder, or of its split folders, are called as this data set calls them."""
        known = set(self.class_names)
        if not known:
            return False
        found = _folder_names(folder)
        if len(found) > 3:  # more than train, val and test
            return found == known
        return bool(found) and all(_folder_names(folder / split) == known for split in found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _instead(place: Path, shown: str, found: set[str], names: Sequence[frozenset[str]]) -> str:
    """What lies where class folders should, and where these are, as far as it is easily seen."""
    for name in sorted(found)[:WIDEST]:
        if any(len(each & _folder_names(place / name)) >= LEAST * len(each) for each in names):
            return f": they lie one folder deeper, in {name if shown == 'the folder' else f'{shown}/{name}'}"
    if found:
        return f" but {_some(sorted(found))}"
    return ": files lie there without folders" if any(entry.is_file() for entry in place.iterdir()) else ""


def _counted(images: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in images.items())


def _first(folder: Path, paths: list[str]) -> str | None:
    return next((path for path in paths if (folder / path).exists()), None)


def _folder_names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {entry.name for entry in folder.iterdir() if entry.is_dir() and not is_left_behind(entry.name)}


class _Table(_Strict):
    cards: dict[str, Card]


@cache
def cards(table: Path = TABLE) -> dict[str, Card]:
    """All cards by name, in the order of the table.

    Raises:
        UserError: every fault of the table in one line.
    """
    raw = read_yaml(table)
    named = {str(key): {**value, "name": key} for key, value in raw.items()} if isinstance(raw, dict) else raw
    return check(_Table, {"cards": named}, where=str(table)).cards


def card(name: str) -> Card | None:
    """The card of a data set by its name; case, `-` and `_` make no difference."""
    return cards().get(name.lower().replace("-", "_"))
