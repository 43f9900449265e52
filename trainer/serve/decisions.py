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
from stages.files import write_text
from stages.text import counted
from trainer.record import csv_text
from trainer.serve.lists import DataSet, Given, WalkList, decision_of, key_of, read_rows

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
        self._elsewhere: list[list[str]] = []
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
        for line, cells in read_rows(self.file, ("action", "label")):
            image_id, path = cells.get("image_id", ""), cells.get("path", "")
            found = dataset.id_of(image_id, path)
            at = places.get(key_of(found, path))
            given = decision_of(self.file, line, cells, dataset, is_new=not found)
            if at is None:
                self._elsewhere.append([cells.get(column, "") for column in COLUMNS])
            elif given is not None:
                if self.of(at).given not in (None, given):
                    raise UserError(
                        f"{self.file}, line {line}: a second decision on {(image_id or path)[:80]!r} that is not the "
                        "first: remove one of the two"
                    )
                self._apply({at: given})
        if self._now:
            self.notes.append(f"{self.file}: goes on from {counted(len(self._now), 'decision')} on this list")
        if self._elsewhere:
            self.notes.append(
                f"{self.file}: keeps {counted(len(self._elsewhere), 'row')} about images not in this list"
            )

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
        write_text(self.file, csv_text(COLUMNS, [*self._elsewhere, *rows]))
        self._on_disk = _stamp(self.file)

    def _row(self, at: int, given: Given) -> list[str]:
        label = "" if given.label is None else self._classes[given.label]
        return [self._items[at].image_id, self._items[at].path, given.action, label]


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when another program writes the file; empty where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
