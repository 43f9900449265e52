"""A Parquet file of a store in pieces, pages against their checksums; any fault of it is one line."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.stores.columns import DAMAGE, first_line


def batches(file: Path, rows: int, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
    """Some columns (None: all), in tables of at most `rows` rows."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            for batch in opened.iter_batches(rows, columns=list(columns) if columns else None):
                yield pa.Table.from_batches([batch])
    except DAMAGE as error:
        raise damaged(file, error) from error


def groups(file: Path, columns: Sequence[str]) -> "Iterator[pa.Table]":
    """Some columns, row group by row group."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            for group in range(opened.num_row_groups):
                yield opened.read_row_group(group, columns=list(columns))
    except DAMAGE as error:
        raise damaged(file, error) from error


def guarded(read: Callable[..., Any], file: Path, **how: Any) -> Any:
    """What a function reads from a file; a fault of it in one line."""
    try:
        return read(file, **how)
    except DAMAGE as error:
        raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> UserError:
    """The line about a file that pyarrow could not read."""
    return UserError(f"{file}: damaged ({first_line(error)}); write the store again")
