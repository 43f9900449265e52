"""The hash of a table's values: the same for the same rows, however they are cut into chunks, files and row groups."""

import hashlib
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ContentHash:
    """sha256 over column names, types and values, fed table by table.

    Each leaf of each column has digests of its own (validity, lengths, bytes), so that nothing depends on chunks. The
    work is done on whole Arrow buffers: about a gigabyte a second.

    Args:
        schema: the columns; every table that follows has them in this order.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._digests: dict[str, Any] = {}

    def update(self, table: pa.Table) -> None:
        """Take in the next rows.

        Raises:
            ValueError: the table has other columns.
        """
        if not table.schema.equals(self.schema):
            raise ValueError(f"expected the columns {self.schema.names}, found {table.schema.names}")
        for name, column in zip(table.column_names, table.columns, strict=True):
            for chunk in column.chunks:
                self._feed(name, chunk)

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        leaves = {name: digest.hexdigest() for name, digest in sorted(self._digests.items())}
        # Parquet gives the child of a list another name than Arrow does.
        types = [[field.name, re.sub(r"\b(item|element): ", "", str(field.type))] for field in self.schema]
        return hashlib.sha256(json.dumps([types, leaves], sort_keys=True).encode()).hexdigest()

    def _bytes(self, leaf: str, values: np.ndarray) -> None:
        if values.nbytes:
            self._digests.setdefault(leaf, hashlib.sha256()).update(np.ascontiguousarray(values).data.cast("B"))

    def _feed(self, path: str, array: pa.Array) -> None:
        kind = array.type
        # One byte a row, written also where nothing is null: whether a chunk has nulls must not decide the hash.
        self._bytes(f"{path}?", _numpy(pc.is_valid(array)).view(np.uint8))
        if pa.types.is_struct(kind):
            for field, child in zip(kind, array.flatten(), strict=True):
                self._feed(f"{path}.{field.name}", child)
        elif pa.types.is_fixed_size_list(kind):
            self._feed(f"{path}[]", array.flatten())
        elif pa.types.is_list(kind):
            self._bytes(f"{path}#", _numpy(pc.fill_null(pc.list_value_length(array), 0)).astype("<i4"))
            self._feed(f"{path}[]", array.flatten())
        elif pa.types.is_string(kind):
            array = pc.fill_null(array, "") if array.null_count else array
            self._bytes(f"{path}#", _numpy(pc.binary_length(array)).astype("<i4"))
            self._bytes(path, _text_bytes(array))
        else:
            filled = pc.fill_null(array, pa.scalar(0).cast(kind)) if array.null_count else array
            self._bytes(path, _numpy(filled))


def content_hash(table: pa.Table) -> str:
    """The hash of one table."""
    digest = ContentHash(table.schema.remove_metadata())
    digest.update(table.replace_schema_metadata(None))
    return digest.hexdigest()


def _numpy(array: pa.Array) -> np.ndarray:
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _text_bytes(array: pa.Array) -> np.ndarray:
    """The UTF-8 bytes of all strings of an array, end to end."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
