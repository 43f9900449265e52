"""What people decided about images, applied to what a source lists: other labels, images left out, new images.

The splits are drawn first, so that a correction moves no other image from one split to another. New images go to train.
A new image whose bytes the data set has already is not added: it might be a test image.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.archives import ARCHIVES
from pipeline.ingest.base import Entry
from pipeline.ingest.class_names import spelling_key
from stages.decisions import Decision, Decisions, read_decisions, read_excluded
from stages.errors import UserError, nearest
from stages.files import sha256_file
from stages.text import counted

_CONFIRMED = ("image is confirmed", "images are confirmed")
_OTHERWISE = (
    "image was decided otherwise in an earlier file: this one counts",
    "images were decided otherwise in an earlier file: this one counts",
)
_LATER = (
    "decision is about an image that a later file decides about: that one counts",
    "decisions are about images that a later file decides about: that one counts",
)
SHOWN = 3
"""Images that a line names."""


@dataclass(frozen=True)
class Corrections:
    """The files of decisions of a data set, read.

    Attributes:
        excluded: image ids by exclude list.
        new_classes: names of classes that the source lacks and a decision may give.
    """

    labels: Sequence[Decisions] = ()
    excluded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    new_classes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.excluded)

    @property
    def settings(self) -> dict[str, Any]:
        """Facts for the manifest's provenance: the hash of each file."""
        files = {"labels": [each.file for each in self.labels], "excluded": [Path(name) for name in self.excluded]}
        return {what: [sha256_file(file) for file in some] for what, some in files.items() if some}


@dataclass(frozen=True)
class Corrected:
    """What a source lists after the decisions.

    Attributes:
        added: image ids of new images.
        notes: counted lines for the user.
    """

    root: Path
    entries: list[Entry]
    class_names: dict[int, str]
    added: frozenset[str]
    notes: list[str]


def read_corrections(labels: Sequence[str], exclude: Sequence[str], new_classes: Sequence[str] = ()) -> Corrections:
    """Read the files that the settings or the line name.

    Raises:
        UserError: see `stages.decisions`.
    """
    found = [read_decisions(Path(name)) for name in dict.fromkeys(labels)]
    return Corrections(found, {name: read_excluded(Path(name)) for name in dict.fromkeys(exclude)}, new_classes)


def corrected(
    dataset: str, root: Path, entries: Sequence[Entry], class_names: Mapping[int, str], given: Corrections
) -> Corrected:
    """Apply the decisions; later files win over earlier ones, exclude lists over both.

    Raises:
        UserError: a file that fits none of the data set's images; an unknown class; a new image that is confirmed;
            labels for a data set of several classes an image.
    """
    if not given:
        return Corrected(root, list(entries), dict(class_names), frozenset(), [])
    if given.labels and any(entry.class_ids is not None for entry in entries):
        raise UserError(
            f"{given.labels[0].file}: decisions give an image one class, and the images of {dataset} have several: "
            "mend the source, or leave images out with --exclude",
            exit_code=2,
        )
    state = _State(dataset, root, entries, class_names, given.new_classes)
    named = [row.path for decisions in given.labels for row in decisions.rows if not row.image_id]
    state.coming = {_id_of(path) for path in named}
    for decisions in given.labels:
        state.take(decisions)
    for name, image_ids in given.excluded.items():
        state.leave_out(name, image_ids)
    return state.result()


class _State:
    """The data set while decision after decision is applied."""

    def __init__(
        self, dataset: str, root: Path, entries: Sequence[Entry], class_names: Mapping[int, str], new: Sequence[str]
    ) -> None:
        self.dataset, self.root = dataset, root
        self.entries = {entry.image_id: entry for entry in entries}
        self.class_names = dict(class_names)
        self.new_classes = list(new)
        self.captioned = any(entry.captions is not None for entry in entries)
        self.asked = any(entry.questions is not None for entry in entries)
        self.places: dict[str, str] = {}
        self.decided: dict[str, Decision] = {}
        self.out: set[str] = set()
        self.coming: set[str] = set()  # ids of images that any of the files may add
        self.new: dict[str, str] = {}  # image id -> real path
        self.notes: list[str] = []

    def take(self, decisions: Decisions) -> None:
        """One file of decisions."""
        done: Counter[tuple[str, str]] = Counter()
        gone: list[str] = []
        here: dict[str, Decision] = {}
        for decision in decisions.rows:
            image_id = self._known(decision, decisions.file)
            if image_id is not None:
                if _is_first(decision, here.setdefault(image_id, decision)):
                    self._decide(image_id, decision, done)
            elif decision.image_id in self.coming:
                done[_LATER] += 1
            elif decision.image_id:
                gone.append(decision.image_id)
            else:
                place = _real(decision.path, decisions.file)
                if decision.action == "exclude":
                    done[("new image is not added", "new images are not added")] += 1
                elif decision.action == "confirm":
                    raise UserError(
                        f"{decision.where}: {decision.path[:120]!r} is no image of {self.dataset}, and one that is new "
                        "cannot be confirmed: give its class in the column label"
                    )
                elif not _is_there(place):
                    gone.append(decision.path)
                else:
                    here[self._add(place, decision)] = decision
                    done[("new image is added to train", "new images are added to train")] += 1
        if gone and len(gone) == len(decisions.rows):
            raise UserError(
                f"{decisions.file}: none of the {counted(len(gone), 'image')} that it decides about is in "
                f"{self.dataset} or on the disk (first: {gone[0][:120]!r}): a list of another data set, or of images "
                "that are gone"
            )
        left = "about images that are gone, and left aside" + _first(gone)
        done[f"decision is {left}", f"decisions are {left}"] += len(gone)
        done[("row is undecided", "rows are undecided")] += decisions.undecided
        self.notes += [f"{decisions.file.name}: {counted(count, *what)}" for what, count in done.items() if count]

    def leave_out(self, name: str, image_ids: Sequence[str]) -> None:
        """One exclude list."""
        there = [image_id for image_id in image_ids if image_id in self.entries]
        gone = [image_id for image_id in image_ids if image_id not in self.entries]
        if not there:
            raise UserError(
                f"{name}: none of the {counted(len(gone), 'image')} to leave out is in {self.dataset} (first: "
                f"{gone[0][:120]!r}): an exclude list of another data set? It holds image ids, as the manifest has them"
            )
        self.out |= set(there)
        self.notes.append(f"{Path(name).name}: {counted(len(there), 'image is', 'images are')} left out")
        if gone:
            self.notes.append(
                f"{Path(name).name}: {counted(len(gone), 'image')} to leave out not there anyway{_first(gone)}"
            )

    def result(self) -> Corrected:
        """What is left and what was added."""
        kept = [entry for entry in self.entries.values() if entry.image_id not in self.out]
        added = {entry.image_id: self.new[entry.image_id] for entry in kept if entry.image_id in self.new}
        root, entries = self.root, kept
        if added:
            root = Path(os.path.commonpath([self.root, *(Path(place).parent for place in added.values())]))
            prefix = "" if root == self.root else f"{self.root.relative_to(root).as_posix()}/"
            paths = {image_id: Path(place).relative_to(root).as_posix() for image_id, place in added.items()}
            entries = [replace(entry, path=paths.get(entry.image_id, prefix + entry.path)) for entry in kept]
        used = {class_id for entry in entries for class_id in entry.classes}
        empty = [name for class_id, name in self.class_names.items() if class_id not in used]
        names = {class_id: name for class_id, name in self.class_names.items() if class_id in used}
        if empty and names:
            self.notes.append(
                f"{counted(len(empty), 'class has', 'classes have')} no image left and "
                f"{'is' if len(empty) == 1 else 'are'} no longer a class: {', '.join(empty[:5])[:200]}"
            )
        return Corrected(root, entries, names, frozenset(added), self.notes)

    def _add(self, place: str, decision: Decision) -> str:
        """A new image; its id, by which later decisions may name it."""
        name = self._class(decision)
        image_id = _id_of(decision.path)
        image_id = image_id if image_id not in self.entries else place.lstrip("/")
        ids = {called: class_id for class_id, called in self.class_names.items()}
        self.entries[image_id] = Entry(
            place, image_id, ids[name], name, "train", () if self.captioned else None, () if self.asked else None
        )
        self.new[image_id], self.places[place], self.decided[image_id] = place, image_id, decision
        return image_id

    def _known(self, decision: Decision, file: Path) -> str | None:
        """The image of the data set that a decision is about, those that earlier decisions added among them."""
        if decision.image_id:
            return decision.image_id if decision.image_id in self.entries else None
        if not self.places:
            root = os.path.realpath(self.root)
            self.places = {f"{root}/{entry.path}": entry.image_id for entry in self.entries.values()}
        return self.places.get(_real(decision.path, None)) or self.places.get(_real(decision.path, file))

    def _decide(self, image_id: str, decision: Decision, done: Counter[tuple[str, str]]) -> None:
        before = self.decided.get(image_id)
        if before is not None and (before.action, before.label) != (decision.action, decision.label):
            done[_OTHERWISE] += 1
        self.decided[image_id] = decision
        self.out.discard(image_id)
        entry = self.entries[image_id]
        if decision.action == "exclude":
            self.out.add(image_id)
            done[("image is left out", "images are left out")] += 1
            return
        if decision.action == "confirm" and not decision.label:
            done[_CONFIRMED] += 1
            return
        name = self._class(decision)
        if decision.action == "confirm" and name != entry.class_name:
            raise UserError(
                f"{decision.where}: image {image_id[:120]!r} is of class {entry.class_name!r} and confirmed as "
                f"{name!r}: take the action label"
            )
        same = name == entry.class_name
        done[_CONFIRMED if same else ("image has another label", "images have another label")] += 1
        if not same:
            ids = {called: class_id for class_id, called in self.class_names.items()}
            self.entries[image_id] = replace(entry, class_id=ids[name], class_name=name)

    def _class(self, decision: Decision) -> str:
        """The class that a decision names, in the manifest's spelling."""
        if not self.class_names:
            raise UserError(f"{decision.where}: {self.dataset} has no classes, so that no image can have a label")
        known = list(self.class_names.values())
        same = [name for name in known if spelling_key(name) == spelling_key(decision.label)]
        if decision.label in known:
            return decision.label
        if len(same) == 1:
            return same[0]
        new = next((name for name in self.new_classes if spelling_key(name) == spelling_key(decision.label)), None)
        if new is None:
            raise UserError(
                f"{decision.where}: class {decision.label[:80]!r} is none of {self.dataset} "
                f"({nearest(decision.label, known)[:400]}); a class that is meant to be new is named with --new-class"
            )
        self.class_names[max(self.class_names) + 1] = new
        self.notes.append(f"{new!r} is a new class")
        return new


def _is_first(decision: Decision, other: Decision) -> bool:
    """Whether a row is the first about its image; a second one, under another name of the image, has to say the same.

    Raises:
        UserError: it says something else.
    """
    if (decision.action, decision.label) != (other.action, other.label):
        raise UserError(
            f"{decision.where}: image {(decision.image_id or decision.path)[:120]!r} is decided otherwise than in "
            f"{other.where.rpartition(', ')[2]}: keep one of the two"
        )
    return decision is other


def without_copies(dataset: str, added: frozenset[str], facts: Mapping[str, str | None]) -> tuple[set[str], list[str]]:
    """New images to leave away since their bytes are in the data set already, or stand twice among them, and a line.

    Args:
        facts: image id -> sha256 of the file, None where it cannot be read.
    """
    seen = {digest for image_id, digest in facts.items() if image_id not in added and digest is not None}
    twice: set[str] = set()
    for image_id in sorted(added):
        digest = facts[image_id]
        if digest is not None and digest in seen:
            twice.add(image_id)
        elif digest is not None:
            seen.add(digest)
    if not twice:
        return twice, []
    have = counted(len(twice), "new image is", "new images are")
    return twice, [f"{have} in {dataset} already, byte for byte, and not added{_first(sorted(twice))}"]


def _real(path: str, file: Path | None) -> str:
    """A path with the links of its folder followed; from the working folder, or from that of the list that names it."""
    here = Path(os.path.realpath(Path(path).parent)) / Path(path).name
    if file is None or Path(path).is_absolute() or _is_there(str(here)):
        return str(here)
    beside = Path(os.path.realpath(file.parent / Path(path).parent)) / Path(path).name
    return str(beside if _is_there(str(beside)) else here)


def _is_there(place: str) -> bool:
    """Whether there is such a file, or an archive that it may be a member of."""
    path = Path(place)
    try:
        return path.is_file() or any(each.name.lower().endswith(ARCHIVES) and each.is_file() for each in path.parents)
    except OSError:  # a name that no file can have
        return False


def _id_of(path: str) -> str:
    """The id of a new image: its path as the list has it, below the working folder or the root of all."""
    parts = [part for part in Path(os.path.normpath(path)).as_posix().split("/") if part not in ("", "..")]
    return "/".join(parts)


def _first(some: Sequence[str]) -> str:
    return f" (first: {', '.join(name[:80] for name in some[:SHOWN])})" if some else ""
