"""The finished parts of an unfinished store: they lie in `cache/.work/` until it is complete, then become one file."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import Store
from stages.files import atomic_file, remove_tree
from stages.provenance import EmbeddingProvenance, Provenance

LEFT_OUT = b"left_out"


class Parts:
    """The finished parts of one store, made under one set of inputs and settings.

    Parts made under other inputs or settings have another key and are never mixed in. DVC deletes a stage's outputs
    before it runs, which is why the parts do not lie in the store's own folder.
    """

    def __init__(self, store: Store, provenance: Provenance, *, part_rows: int) -> None:
        key = json.dumps([provenance.made_from, part_rows], sort_keys=True)
        self.store = store
        self.folder: Path = store.work / hashlib.sha256(key.encode()).hexdigest()[:16]

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
        return pq.read_table(self.part(index), partitioning=None, page_checksum_verification=True)

    def tables(self, parts: int) -> Iterator[pa.Table]:
        """The finished parts, one after the other."""
        return (self.read(i).replace_schema_metadata(None) for i in range(parts))

    def finish(self, tables: Iterable[pa.Table], *, provenance: Provenance) -> Provenance:
        """Write the store from tables that come in its order, and remove the work folder; returns what was stored.

        Memory does not grow with the number of tables.
        """
        precision = provenance.precision if isinstance(provenance, EmbeddingProvenance) else "float16"
        with self.store.writing(provenance, precision=precision) as writer:
            for table in tables:
                writer.add(table)
        remove_tree(self.folder.parent)
        return writer.provenance


def is_current(store: Store, provenance: Provenance) -> bool:
    """Whether the store on disk was already made from exactly these inputs and settings."""
    return store.exists() and store.provenance().made_from == provenance.made_from
