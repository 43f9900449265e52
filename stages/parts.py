"""The finished parts of an unfinished store: they lie in `cache/.work/` until it is complete, then become one file."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import Store
from stages.files import atomic_file, remove_tree
from stages.provenance import Provenance


class Parts:
    """The finished parts of one store, made under one set of inputs and settings.

    Parts made under other inputs or settings have another key and are never mixed in. DVC deletes a stage's outputs
    before it runs, which is why the parts do not lie in the store's own folder.
    """

    def __init__(self, store: Store, provenance: Provenance, *, part_rows: int) -> None:
        key = json.dumps([_origin(provenance), part_rows], sort_keys=True)
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

    def save(self, index: int, table: pa.Table) -> None:
        """Keep a finished part, whole or not at all."""
        with atomic_file(self.part(index)) as path:
            pq.write_table(table, path, compression="zstd")

    def finish(
        self, parts: int, *, provenance: Provenance, merge: Callable[[pa.Table], pa.Table] | None = None
    ) -> Provenance:
        """Join all parts, write the store, and remove the work folder.

        Parts of an embedding store lie in the store's order and are passed on one by one, so that memory does not grow
        with their number; `merge` sees all rows at once.
        """
        tables = (pq.read_table(self.part(i), partitioning=None) for i in range(parts))
        if merge is not None:
            written = self.store.write(merge(pa.concat_tables(tables)), provenance)
        else:
            with self.store.writing(provenance, precision=str(provenance.settings["precision"])) as writer:
                for table in tables:
                    writer.add(table)
            written = writer.provenance
        remove_tree(self.folder.parent)
        return written


def is_current(store: Store, provenance: Provenance) -> bool:
    """Whether the store on disk was already made from exactly these inputs and settings."""
    return store.exists() and _origin(store.provenance()) == _origin(provenance)


def _origin(provenance: Provenance) -> dict[str, object]:
    origin = provenance.model_dump(exclude={"store", "dataset", "content"})
    origin["settings"] = {k: v for k, v in origin["settings"].items() if not k.startswith("found_")}
    return origin
