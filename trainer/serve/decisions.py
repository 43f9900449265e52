"""The file of decisions, which `pipeline ingest --labels` takes: one row a decision, whole at every moment.

Every change is written to a file beside it, synced and renamed before it is answered: a server that is killed has lost
none that it said yes to, and the next one goes on from the file. A change names the decision that its page knew, so
that of two windows the second is told instead of writing over the first.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import UserError
from stages.command import visible
from stages.decisions import read_table, write_list
from stages.text import counted, read_text
from trainer.serve.lists import DataSet, Given, WalkList, given_in, key_of

COLUMNS = ("image_id", "path", "action", "label")


@dataclass(frozen=True, slots=True)
class Decision:
    """What stands about an item.

    Attributes:
        given: None: undecided.
        step: the change that made it so; 0: none did.
    """

    given: Given | None = None
    step: int = 0


UNDECIDED = Decision()


@dataclass(frozen=True, slots=True)
class Change:
    """One wish of a page.

    Attributes:
        item: its place in the list.
        given: the decision; None takes back the one that stands.
        seen: step of what the page knew to stand.
    """

    item: int
    given: Given | None
    seen: int


class ConflictError(Exception):
    """Another window was first; nothing was changed."""


class Decisions:
    """Decisions about the items of a list, in memory and on disk.

    Args:
        file: where they are written; what it holds already is gone on from, and rows about other images are kept.

    Attributes:
        notes: lines for the user.

    Raises:
        UserError: the file is the list itself, or is none of decisions.
    """

    def __init__(self, file: Path, walk: WalkList, dataset: DataSet) -> None:
        if file.exists() and file.samefile(walk.file):
            raise UserError(f"{file}: is the list itself: name another file with --out", exit_code=2)
        self.file, self.notes = file, list[str]()
        self._items, self._classes = walk.items, dataset.classes
        self._lock = threading.Lock()
        self._now: dict[int, Decision] = {}
        self._steps: dict[int, dict[int, Decision]] = {}  # step -> what stood before about its items
        self._step = 0
        self._touched: list[tuple[int, int]] = []  # (step, item), ascending
        self._elsewhere: list[dict[str, str]] = []
        self._added = {at: item.path for at, item in enumerate(walk.items) if item.by_path}  # by a row with this path
        self._on_disk = _stamp(file)
        if self._on_disk:
            self._resume(dataset)
        taken = {at: given for at, given in walk.given.items() if self.of(at).given is None}
        if taken:
            for at, given in taken.items():
                self._apply({at: given})
            self._write()
            self.notes.append(f"{file}: takes over {counted(len(taken), 'decision')} that {walk.file} has already")

    def _resume(self, dataset: DataSet) -> None:
        places = {key_of(item.image_id, item.path): at for at, item in enumerate(self._items)}
        undecided = 0
        for line, cells in self._rows():
            image_id = dataset.id_of(cells.get("image_id", ""), cells.get("path", ""))
            where = f"{self.file}, line {line}"
            at = places.get(key_of(image_id, cells.get("path", "")))
            if at is None:
                self._elsewhere.append(cells)
                continue
            if not cells.get("image_id", "").strip():
                self._added[at] = cells["path"]
            given = given_in(cells, where, dataset, image_id)
            if given is None:
                undecided += 1
            elif self.of(at).given not in (None, given):
                raise UserError(f"{where}: a second decision on {self._items[at].name[:80]!r} that is not the first")
            else:
                self._apply({at: given})
        for count, one, what in (
            (len(self._now), "decision", "on this list, gone on from"),
            (len(self._elsewhere), "row", "about images that are not in this list, kept"),
            (undecided, "row", "without a decision, left away"),
        ):
            self.notes += [f"{self.file}: {counted(count, one)} {what}"] * bool(count)

    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        """The rows of the file; none where it has but its header, everything having been undone."""
        if read_text(self.file).strip() == ",".join(COLUMNS):
            return []
        header, rows = read_table(self.file)
        others = [name for name in header if name not in COLUMNS]
        if others or not {"image_id", "path"} & set(header) or not {"action", "label"} & set(header):
            shown = visible(", ".join(header))[:120]
            raise UserError(
                f"{self.file}: has other columns ({shown}) than decisions ({', '.join(COLUMNS)}), and is not written "
                "over: name another file with --out (one that was filled in is a --list)"
            )
        return rows

    @property
    def step(self) -> int:
        """The last change."""
        return self._step

    def of(self, item: int) -> Decision:
        """What stands about an item."""
        return self._now.get(item, UNDECIDED)

    def count(self) -> int:
        """Rows of this list in the file."""
        with self._lock:
            return sum(now.given is not None for now in self._now.values())

    def since(self, step: int) -> tuple[int, list[int]]:
        """The last change, and the items that changed after `step`, each once."""
        with self._lock:
            first = bisect_right(self._touched, (step, len(self._items)))
            return self._step, list(dict.fromkeys(item for _, item in self._touched[first:]))

    def decide(self, changes: Sequence[Change]) -> int:
        """Write changes, all or none; returns their step.

        Raises:
            ConflictError: one of the items was decided by another window meanwhile.
            UserError: the file cannot be written; nothing changed.
        """
        with self._lock:
            if any(self.of(change.item).step != change.seen for change in changes):
                raise ConflictError
            before = self._apply({change.item: change.given for change in changes})
            try:
                self._write()
            except BaseException:
                del self._steps[self._step]
                self._put(before)
                raise
            return self._step

    def undo(self, step: int | None) -> list[int]:
        """Take a change back; returns its items.

        Args:
            step: None takes the last one that stands.

        Raises:
            ConflictError: it was undone already, or its items were decided again since; or there is none.
            UserError: as `decide`.
        """
        with self._lock:
            number = max(self._steps, default=0) if step is None else step
            before = self._steps.get(number)
            if before is None or any(self.of(item).step != number for item in before):
                raise ConflictError
            was = {item: self.of(item) for item in before}
            self._step += 1
            self._put(before)
            try:
                self._write()
            except BaseException:
                self._put(was)
                raise
            del self._steps[number]
            return list(before)

    def _apply(self, wanted: Mapping[int, Given | None]) -> dict[int, Decision]:
        """Change what stands; returns what stood before."""
        self._step += 1
        before = {item: self.of(item) for item in wanted}
        self._steps[self._step] = before
        self._put({item: Decision(given, self._step) for item, given in wanted.items()})
        return before

    def _put(self, wanted: Mapping[int, Decision]) -> None:
        self._now |= wanted
        self._touched += [(self._step, item) for item in sorted(wanted)]

    def _write(self) -> None:
        if _stamp(self.file) != self._on_disk:
            raise UserError(f"{self.file}: another program changed or removed it: start `trainer serve` again")
        standing = sorted(self._now.items(), key=lambda entry: (entry[1].step, entry[0]))
        rows = [self._row(at, now.given) for at, now in standing if now.given is not None]
        write_list(self.file, COLUMNS, [*self._elsewhere, *rows])
        self._on_disk = _stamp(self.file)

    def _row(self, at: int, given: Given) -> dict[str, str]:
        item = self._items[at]
        if at in self._added and given.action == "confirm" and item.label is not None:
            given = Given("label", item.label)
        label = "" if given.label is None else self._classes[given.label]
        named = ("", self._added[at]) if at in self._added else (item.image_id, item.path)
        cells = (*named, given.action, label)
        return dict(zip(COLUMNS, cells, strict=True))


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when another program writes the file; empty where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
