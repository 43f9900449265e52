"""Parquet with vector columns (lists of float16, 32 or 64, fixed-size or not): every column is a key."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.arrays.base import Values
from stages.arrays.limits import require_memory
from stages.errors import UserError

NAMES_IMAGES = {"image", "images", "path", "file", "filename", "filepath", "image_path", "image_file", "img"}
"""Columns of a table that names or holds images: such a table is a list, whatever vectors stand beside them."""


def has_vectors(file: Path, name: str) -> bool:
    """Whether a Parquet file has a column of vectors of this name, and none that names images."""
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return False
    named = {column.lower() for column in schema.names} & NAMES_IMAGES
    return name in schema.names and _is_list(schema.field(name).type) and not named


def read_tables(files: Sequence[Path], *, labels: Collection[str] = ()) -> dict[str, Values]:
    """The columns of some files; those of the same columns are one table in several pieces.

    Args:
        labels: columns whose rows may be null: -1, and empty text.

    Raises:
        UserError: damaged, a column in files that differ otherwise, a type that is neither numbers, vectors nor text.
    """
    tables: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        tables.setdefault(tuple(sorted(_schema(file).names)), []).append(file)
    home: dict[str, Path] = {}
    for columns, pieces in tables.items():
        for column in columns:
            if column in home:
                raise UserError(
                    f"{pieces[0]}: column {column[:80]!r} stands in {home[column].name} as well, whose other columns "
                    "differ: give each key to one kind of file"
                )
            home[column] = pieces[0]
    require_memory(str(files[0].parent if len(files) > 1 else files[0]), sum(map(_size, files)))
    return {
        column: _column(pieces, column, gaps=column in labels)
        for columns, pieces in tables.items() for column in columns
    }  # fmt: skip


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({' '.join(str(error).split())[:120]})") from error


def _size(file: Path) -> int:
    """Bytes of the file's values once they are read; dictionaries and runs make the file itself no measure of it."""
    about = pq.read_metadata(file)
    wide = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}
    total = 0
    for group in range(about.num_row_groups):
        row_group = about.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            each = wide.get(column.physical_type, 8)
            total += max(int(column.total_uncompressed_size), int(column.num_values) * each)
    return total


def _column(files: Sequence[Path], name: str, *, gaps: bool) -> Values:
    pieces = []
    for file in files:
        try:
            text = [name] if _is_text(_schema(file).field(name).type) else None  # as it is stored: once each
            column = pq.read_table(file, columns=[name], partitioning=None, read_dictionary=text)[name]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: damaged ({' '.join(str(error).split())[:120]})") from error
        pieces.append(_values(column, f"{file}: column {name[:80]!r}", gaps=gaps))
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], list):
        return [str(text) for piece in pieces for text in piece]
    shapes = {np.shape(piece)[1:] for piece in pieces}
    if len(shapes) > 1:
        raise UserError(
            f"{files[0].parent}: {name[:80]!r} is of widths {sorted(shapes)} in its files; one encoder, one width"
        )
    whole: np.ndarray = np.concatenate([np.asarray(piece) for piece in pieces])
    return whole


def _values(column: pa.ChunkedArray, where: str, *, gaps: bool) -> Values:
    kind = column.type
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        require_memory(where, sum(map(_spelled_out, column.chunks)))
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if gaps and column.null_count:
        if _is_text(kind):
            column = column.fill_null("")
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            kind = pa.float64() if pa.types.is_floating(kind) else pa.int64()  # unsigned ones have no -1
            column = column.cast(kind).fill_null(-1)
    if column.null_count:
        raise UserError(f"{where}: {column.null_count} of {len(column)} rows are empty: fill them or leave them out")
    if _is_text(kind):
        return [str(text) for text in column.to_pylist()]
    if _is_list(kind):
        return _vectors(column, where)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"{where}: of type {kind}; expected numbers, vectors or text")
    found: Values = column.to_numpy()
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _spelled_out(chunk: pa.DictionaryArray) -> int:
    """Bytes of the texts of a chunk, each as often as it stands there, as Python keeps them twice."""
    lengths = np.asarray(pc.fill_null(pc.binary_length(chunk.dictionary), 0), np.int64)
    rows = np.asarray(pc.drop_null(chunk.indices), np.int64)
    return 2 * int(lengths[rows].sum()) + 60 * len(chunk)


def _vectors(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Lists of one length as a matrix, lists of lists as an array of three dimensions."""
    shape = [len(column)]
    array: Any = column.combine_chunks()
    while _is_list(array.type):
        if array.null_count:
            raise UserError(f"{where}: {array.null_count} vectors are empty")
        if pa.types.is_fixed_size_list(array.type):
            shape.append(array.type.list_size)
        else:
            lengths = np.unique(np.asarray(pc.list_value_length(array)))
            if len(lengths) > 1:
                raise UserError(
                    f"{where}: vectors of {len(lengths)} widths ({lengths[0]} to {lengths[-1]}); one encoder, one width"
                )
            shape.append(int(lengths[0]) if len(lengths) else 0)
        array = array.flatten()
    if array.null_count:
        raise UserError(f"{where}: {array.null_count} numbers are empty")
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type)):
        raise UserError(f"{where}: vectors of {array.type}; expected numbers")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
