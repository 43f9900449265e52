"""The finished pieces of an unfinished store: they lie in `cache/.work/` until it is complete, then become its parts.

One process joins them (`Parts.finish`), or several do (`Parts.finish_by`): the store is the same, byte for byte.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.files import atomic_file, remove_tree
from stages.stores.artifacts import Store
from stages.stores.parted import PartsWriter
from stages.stores.provenance import EmbeddingProvenance, Provenance

LEFT_OUT = b"left_out"


@dataclass(frozen=True)
class Joining:
    """Writes any one part of a store from finished pieces; goes to other processes as it is.

    Attributes:
        cuts: for each part the rows that it takes: file, first row, rows.
    """

    writer: PartsWriter
    cuts: tuple[tuple[tuple[Path, int, int], ...], ...]

    def __call__(self, index: int) -> None:
        """Write part `index`."""
        self.writer.write(index, (_read(file).slice(first, rows) for file, first, rows in self.cuts[index]))


def cuts_of(files: Iterable[tuple[Path, int]], part_rows: int) -> tuple[tuple[tuple[Path, int, int], ...], ...]:
    """Files and their rows, cut into parts of `part_rows` rows, the last one of what is left; at least one part."""
    cuts: list[list[tuple[Path, int, int]]] = [[]]
    room = part_rows
    for file, rows in files:
        first = 0
        while first < rows:
            if not room:
                cuts.append([])
                room = part_rows
            taken = min(room, rows - first)
            cuts[-1].append((file, first, taken))
            first, room = first + taken, room - taken
    return tuple(map(tuple, cuts))


def _read(file: Path) -> pa.Table:
    return pq.read_table(file, partitioning=None, page_checksum_verification=True)


class Parts:
    """The finished parts of one store, made under one set of inputs and settings.

    Parts made under other inputs or settings have another key and are never mixed in. DVC deletes a stage's outputs
    before it runs, which is why the parts do not lie in the store's own folder.
    """

    def __init__(self, store: Store, provenance: Provenance, *, part_rows: int) -> None:
        key = json.dumps([provenance.made_from, part_rows], sort_keys=True)
        self.store = store
        self.folder: Path = store.work / hashlib.sha256(key.encode()).hexdigest()[:16]

    def clear(self, command: str) -> None:
        """Remove what lies here of a store that is complete: its command was killed between writing and removing."""
        lock = self.store.work.with_name(f".{self.store.work.name}.lock")
        if self.folder.exists() or lock.exists():
            with suppress(UserError), self.store.locked(command):  # one that is at it removes them itself
                remove_tree(self.folder)
                with suppress(OSError):  # parts of other settings
                    self.store.work.rmdir()

    def part(self, index: int) -> Path:
        """Where part `index` lies."""
        return self.folder / f"part-{index:06d}.parquet"

    @property
    def rows(self) -> int:
        """Rows of the parts that are complete."""
        return sum(pq.read_metadata(part).num_rows for part in self.folder.glob("part-*.parquet"))

    def has(self, index: int) -> bool:
        """Whether part `index` is complete."""
        return self.part(index).is_file()

    def save(self, index: int, table: pa.Table, left_out: Mapping[str, str] | None = None) -> None:
        """Keep a finished part with its metadata, whole or not at all, and with it what had to be left out, and why."""
        noted = {**(table.schema.metadata or {}), LEFT_OUT: json.dumps(dict(left_out or {}))}
        with atomic_file(self.part(index)) as path:
            pq.write_table(table.replace_schema_metadata(noted), path, compression="zstd", write_page_checksum=True)

    def left_out(self, index: int) -> dict[str, str]:
        """What had to be left out of a finished part, and why."""
        found: dict[str, str] = json.loads((pq.read_schema(self.part(index)).metadata or {}).get(LEFT_OUT, b"{}"))
        return found

    def read(self, index: int) -> pa.Table:
        """A finished part as it was saved."""
        return _read(self.part(index))

    def tables(self, parts: int) -> Iterator[pa.Table]:
        """The finished parts, one after the other."""
        return (self.read(i).replace_schema_metadata(None) for i in range(parts))

    def finish(self, tables: Iterable[pa.Table], *, provenance: Provenance) -> Provenance:
        """Write the store from tables that come in its order, and remove the work folder; returns what was stored.

        Memory does not grow with the number of tables.
        """
        with self.store.writing(provenance, precision=_precision(provenance)) as writer:
            for table in tables:
                writer.add(table)
        remove_tree(self.folder.parent)
        return writer.provenance

    def finish_by(
        self, run: Callable[[Joining, range], object], *, parts: int, provenance: Provenance,
        part_rows: int | None = None,
    ) -> Provenance:  # fmt: skip
        """As `finish` of all finished parts, with the files of the store written by several processes at once.

        Args:
            run: calls the first for every number of the second, in any process and any order, and waits for all; e.g.
                `lambda join, numbers: list(pool.map(join, numbers))`.
            parts: finished parts, `save`d from 0 on.
            part_rows: rows of a file of the store, at most; default `Store.part_rows`.
        """
        files = [self.part(i) for i in range(parts)]
        cuts = cuts_of(((file, pq.read_metadata(file).num_rows) for file in files), part_rows or self.store.part_rows)
        with self.store.writing_parts(provenance, parts=len(cuts), precision=_precision(provenance)) as writer:
            run(Joining(writer, cuts), range(len(cuts)))
        remove_tree(self.folder.parent)
        return self.store.provenance()


def _precision(provenance: Provenance) -> str:
    return provenance.precision if isinstance(provenance, EmbeddingProvenance) else "float16"


def is_current(store: Store, provenance: Provenance) -> bool:
    """Whether the store on disk was already made from exactly these inputs and settings."""
    return store.exists() and store.provenance().made_from == provenance.made_from
