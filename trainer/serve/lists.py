"""The lists that are walked through: what `pipeline audit` and `trainer suggest` write (docs/data-loop.md, "Files")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from stages import ManifestStore, UserError
from stages.command import visible
from stages.decisions import Action, decision_in, read_table
from stages.names import display_name
from stages.text import counted


@dataclass(frozen=True, slots=True)
class Known:
    """An image of the data set."""

    path: str
    label: int | None
    split: str


@dataclass(frozen=True)
class DataSet:
    """What is known of the data set whose images are decided about.

    Attributes:
        classes: names, in the order of their ids.
        root: folder of its image files; None where it came as embeddings.
        images: image_id -> what the manifest has of it.
    """

    name: str
    classes: tuple[str, ...]
    root: Path | None
    images: Mapping[str, Known]

    @cached_property
    def _by_file(self) -> dict[str, str]:
        """Absolute path of an image file -> image_id."""
        return {self.file_of(image_id): image_id for image_id in self.images} if self.root else {}

    def file_of(self, image_id: str) -> str:
        """Where an image lies; empty where the data set came as embeddings."""
        return str(self.root / self.images[image_id].path) if self.root else ""

    def id_of(self, image_id: str, path: str) -> str:
        """The id of an image that a file names by its id or by its path; empty for one that the data set lacks."""
        return image_id or self._by_file.get(str(Path(path).absolute()), "")

    def class_of(self, name: str) -> int | None:
        """The place of a class by its name; capitals and kinds of spaces do not count."""
        if name in self.classes:
            return self.classes.index(name)
        folded = [folded_name(each) for each in self.classes]
        return folded.index(folded_name(name)) if folded.count(folded_name(name)) == 1 else None


def folded_name(name: str) -> str:
    """A class name without capitals and kinds of spaces."""
    return display_name(name).casefold()


def read_dataset(cache: Path, name: str) -> DataSet:
    """The classes and images of a data set.

    Raises:
        UserError: it is not there, or has no classes.
    """
    store = ManifestStore(cache, name)
    about = store.provenance()
    if not about.class_names:
        raise UserError(f"{store.file}: the data set has no classes to choose from")
    ids = sorted(about.class_names)
    place = {class_id: at for at, class_id in enumerate(ids)}
    rows = store.read(["image_id", "path", "class_id", "split"]).to_pylist()
    images = {row["image_id"]: Known(row["path"], place.get(row["class_id"]), row["split"]) for row in rows}
    root = None if about.root is None else Path(about.root)
    return DataSet(name, tuple(about.class_names[i] for i in ids), root, images)


@dataclass(frozen=True, slots=True)
class Finding:
    """Why an image is in the list.

    Attributes:
        kind: the audit's word; empty in a list of `trainer suggest`.
        suggested: class; None where the list says none.
        other: the item that is the evidence, such as the duplicate.
    """

    kind: str
    detail: str
    suggested: int | None
    probability: float | None
    other: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """An image that can be decided about.

    Attributes:
        image_id: empty for an image that the data set does not have.
        path: as the list has it.
        label: its class in the data set.
        by_path: the list names it by its path alone, as one that its own row brings into the data set.
    """

    image_id: str
    path: str
    label: int | None
    split: str
    findings: tuple[Finding, ...] = ()
    by_path: bool = False

    @property
    def name(self) -> str:
        """What people know it by."""
        return self.image_id or self.path


@dataclass(frozen=True)
class Given:
    """A decision as a file has it."""

    action: Action
    label: int | None = None


@dataclass(frozen=True)
class WalkList:
    """A list, one item an image.

    Attributes:
        items: the listed ones in their order, then those that are only evidence.
        listed: how many are walked through.
        given: item -> what the list's own cells decide already.
        notes: lines for the user.
    """

    file: Path
    items: tuple[Item, ...]
    listed: int
    given: Mapping[int, Given]
    notes: tuple[str, ...]


Cells = dict[str, str]


def key_of(image_id: str, path: str) -> tuple[str, str]:
    """What tells images apart: the id where the data set has it, the path otherwise."""
    return (image_id, "") if image_id else ("", path)


def read_list(file: Path, dataset: DataSet) -> WalkList:
    """A list of `pipeline audit` or `trainer suggest`; several findings about an image are one item.

    Images that the data set does not have any more are left out and counted.

    Raises:
        UserError: no such list, a list of another data set, an empty one, or a decision in it that cannot be.
    """
    header, rows = read_table(file)
    if not {"image_id", "path"} & set(header):
        shown = visible(", ".join(header))[:120]
        raise UserError(f"{file}: a list of `pipeline audit` or `trainer suggest` has image_id or path; found {shown}")
    places: dict[tuple[str, str], int] = {}
    items: list[Item] = []
    given: dict[int, Given] = {}
    gone: dict[str, None] = {}

    def place(image_id: str, path: str) -> int:
        named = image_id
        image_id = dataset.id_of(named, path)
        key = key_of(image_id, path)
        if key not in places:
            places[key] = len(items)
            known = dataset.images.get(image_id, Known(path, None, ""))
            where = path or dataset.file_of(image_id)
            items.append(Item(image_id, where, known.label, known.split, by_path=not named))
        return places[key]

    seen: list[tuple[int, int, Cells]] = []
    stale: set[int] = set()
    for line, cells in rows:
        image_id, path = cells.get("image_id", ""), cells.get("path", "")
        path = path if image_id else _located(path, file)
        if image_id and image_id not in dataset.images:
            gone[image_id] = None
        elif not image_id and not path:
            raise UserError(f"{file}, line {line}: names no image: image_id and path are empty")
        else:
            seen.append((line, place(image_id, path), cells))
    if not items:
        raise UserError(
            f"{file}: none of its {counted(len(gone), 'image')} is in the data set {dataset.name!r} (first: "
            f"{next(iter(gone))[:80]!r}): a list of another data set? choose with --dataset"
        )
    listed = len(items)
    for line, at, cells in seen:
        other = cells.get("other_image_id", "")
        evidence = place(other, cells.get("other_path", "")) if other in dataset.images else None
        finding = Finding(
            cells.get("kind", ""), cells.get("detail", ""), dataset.class_of(cells.get("suggested", "") or "\0"),
            _share(cells.get("probability", "")), None if evidence == at else evidence,
        )  # fmt: skip
        was = cells.get("class_name", "")
        if was and items[at].label is not None and dataset.class_of(was) != items[at].label:
            stale.add(at)
        if finding not in items[at].findings:
            items[at] = replace(items[at], findings=(*items[at].findings, finding))
        decision = given_in(cells, f"{file}, line {line}", dataset, items[at].image_id)
        if decision is not None and given.setdefault(at, decision) != decision:
            raise UserError(f"{file}, line {line}: a second decision on {items[at].name[:80]!r} that is not the first")
    notes = []
    if gone:
        verb = "is" if len(gone) == 1 else "are"
        first = next(iter(gone))[:80]
        notes.append(
            f"{file}: {counted(len(gone), 'image')} of the list {verb} not in the data set {dataset.name!r} any more "
            f"(first: {first!r}) and left out"
        )
    if stale:
        verb = "has" if len(stale) == 1 else "have"
        notes.append(f"{file}: {counted(len(stale), 'image')} {verb} another class now than when the list was written")
    return WalkList(file, tuple(items), listed, given, tuple(notes))


def is_there(path: Path) -> bool:
    """Whether there is such a file, or a container that it may be in."""
    try:
        while not path.exists():
            if path == path.parent:
                return False
            path = path.parent
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _located(path: str, file: Path) -> str:
    """The path of a new image from the working folder; else from the folder of the list, where it lies there."""
    beside = file.parent / path
    if not path or Path(path).is_absolute() or is_there(Path(path)) or not is_there(beside):
        return path
    return str(beside)


def given_in(cells: Cells, where: str, dataset: DataSet, image_id: str) -> Given | None:
    """What a row decides about an image; None where it does not.

    Args:
        image_id: of the data set; empty for an image that it does not have.

    Raises:
        UserError: an unknown action or class, or an action that cannot be.
    """
    decision = decision_in(cells, where)
    if decision is None:
        return None
    found = dataset.class_of(decision.label) if decision.label else None
    if decision.label and found is None:
        raise UserError(f"{where}: class {decision.label[:60]!r} is not one of {dataset.name!r} (--new-class?)")
    if decision.action == "confirm":
        known = dataset.images.get(image_id)
        if known is None:
            raise UserError(f"{where}: confirm, but the image is new and has no class yet: say its label")
        if found not in (None, known.label):
            raise UserError(f"{where}: confirmed as {decision.label[:60]!r}, which is not its class: take action label")
        return Given("confirm")
    return Given(decision.action, found)


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None
