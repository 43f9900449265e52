"""Writing the rows of a store: in its order, in row groups, in parts of at most so many rows.

A part is a Parquet file like any other: its footer has the provenance with the hash of its own rows, so that one part
is a whole store, and the file of a store of one part is what it always was.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.stores.columns import leaves
from stages.stores.content import ContentHash
from stages.stores.provenance import Provenance


@dataclass(frozen=True)
class Layout:
    """What all parts of a store have in common; goes to other processes as it is.

    Attributes:
        provenance: its `content` is filled in for each part.
        row_group: rows of a Parquet row group.
    """

    schema: pa.Schema
    sort_by: tuple[str, ...]
    provenance: Provenance
    row_group: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrow's own form of the schema: pickle forgets that the numbers of an embedding cannot be null."""
        return _layout, (self.schema.serialize().to_pybytes(), self.sort_by, self.provenance, self.row_group)


def _layout(schema: bytes, *others: Any) -> Layout:
    return Layout(pa.ipc.read_schema(pa.py_buffer(schema)), *others)


@dataclass(frozen=True)
class Part:
    """A finished part: rows, and the hash of them that its footer has."""

    rows: int
    content: str


class Order:
    """Checks that rows come in the order of their keys, table after table."""

    def __init__(self, sort_by: tuple[str, ...]) -> None:
        self.sort_by = list(sort_by)
        self._last: list[tuple[bool, Any]] | None = None

    def check(self, table: pa.Table) -> None:
        """Take the next rows, of which there is at least one.

        Raises:
            ValueError: they are not in order, among themselves or after those before.
        """
        keys = table.select(self.sort_by)
        first, last = ([(v is None, v) for v in keys.slice(i, 1).to_pylist()[0].values()] for i in (0, len(keys) - 1))
        in_order = keys.sort_by([(key, "ascending") for key in self.sort_by]).equals(keys)
        if not in_order or (self._last is not None and _comes_before(first, self._last)):
            raise ValueError(f"rows are not in the order of {', '.join(self.sort_by)}")
        self._last = last


class PartWriter:
    """Writes one file; rows lie in row groups of the layout's size, however many tables brought them."""

    def __init__(self, file: Path, layout: Layout) -> None:
        self.file = file
        self.rows = 0
        self.digest = ContentHash(layout.schema)
        self._layout = layout
        self._waiting: list[pa.Table] = []
        schema = layout.schema
        # Unit vectors hardly shrink; left alone they are read many times faster.
        compression = dict.fromkeys(leaves(schema), "zstd") | {"embedding.list.element": "none"}
        self._parquet = pq.ParquetWriter(
            file, schema, compression=compression, store_schema=True, write_page_checksum=True,
            use_dictionary=[field.name for field in schema if field.type == pa.string()],
            write_statistics=[name for name in schema.names if name != "embedding"],
        )  # fmt: skip

    def add(self, table: pa.Table) -> None:
        """Take the next rows, of the layout's schema and in order."""
        self.digest.update(table)
        self.rows += len(table)
        self._waiting.append(table)
        self._flush(whole=True)

    def close(self) -> Part:
        """Write what is left and the footer."""
        self._flush(whole=False)
        part = Part(self.rows, self.digest.hexdigest())
        origin = self._layout.provenance.model_copy(update={"content": part.content})
        self._parquet.add_key_value_metadata(origin.to_footer())
        self._parquet.close()
        return part

    def abandon(self) -> None:
        """Close the file, whatever is in it."""
        with suppress(Exception):
            self._parquet.close()

    def _flush(self, *, whole: bool) -> None:
        waiting, size = sum(map(len, self._waiting)), self._layout.row_group
        if whole and waiting < size:
            return
        table = pa.concat_tables(self._waiting or [self._layout.schema.empty_table()]).combine_chunks()
        end = waiting - waiting % size if whole else waiting
        self._parquet.write_table(table.slice(0, end), row_group_size=size)
        self._waiting = [table.slice(end)] if end < waiting else []


class StoreWriter:
    """Takes the rows of one store in order and cuts them into parts; made by `Store.writing`.

    Args:
        place: index of a part -> the file to write it to.
        part_rows: rows of a part, at most.
    """

    def __init__(self, layout: Layout, place: Callable[[int], Path], *, part_rows: int) -> None:
        self.provenance = layout.provenance
        self.rows = 0
        self.parts: list[Part] = []
        self._layout, self._place, self._part_rows = layout, place, part_rows
        self._order = Order(layout.sort_by)
        self._part = PartWriter(place(0), layout)
        self._whole = self._part.digest
        """Of all rows: as long as there is one part, that one's own."""

    def add(self, table: pa.Table) -> None:
        """Take the next rows.

        Raises:
            ValueError: a column is missing or of another type, or the rows are not in order.
        """
        table = table.select(self._layout.schema.names).cast(self._layout.schema).replace_schema_metadata(None)
        if not len(table):
            return
        self._order.check(table)
        self.rows += len(table)
        while len(table):
            room = self._part_rows - self._part.rows
            if not room:
                self._next()
                continue
            piece, table = table.slice(0, room), table.slice(room)
            self._part.add(piece)
            if self._whole is not self._part.digest:
                self._whole.update(piece)

    def close(self) -> None:
        """Write what is left and fix the provenance."""
        self.parts.append(self._part.close())
        self.provenance = self.provenance.model_copy(update={"content": self._whole.hexdigest()})

    def abandon(self) -> None:
        """Close the file that is being written, whatever is in it."""
        self._part.abandon()

    def _next(self) -> None:
        self.parts.append(self._part.close())
        self._part = PartWriter(self._place(len(self.parts)), self._layout)


def _comes_before(first: list[tuple[bool, Any]], second: list[tuple[bool, Any]]) -> bool:
    """Whether a row's keys sort before another's; an empty value comes last, as in Arrow."""
    for one, other in zip(first, second, strict=True):
        if one != other:
            return one < other
    return False
