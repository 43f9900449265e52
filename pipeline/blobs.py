"""The bytes of one image of a manifest, wherever it lies: the one way to them, for worker processes too.

A manifest's path names a file below the manifest's root, or an image inside a container file:

    red/01.jpg                            a file
    shard-000.tar/red/01.jpg              a member of a tar archive; also .tar.gz, .tgz and .zip
    train.parquet/image/17                column `image`, row 17 of a Parquet file
    data-00000-of-00001.arrow/image/17    the same of an Arrow stream file (Hugging Face `datasets`)

Nothing is unpacked to disk. What each process keeps (indices of archives, row groups) is bounded.
"""

import errno
import re
import threading
from bisect import bisect_right
from pathlib import Path
from typing import Any

from pipeline.archives import ARCHIVES, ContainerError, Member, is_archive, is_inside, members, read_member
from pipeline.archives.kept import Kept, stamp
from stages.files import read_file

TABLES = (".parquet", ".arrow")
MOST_MEMBERS = 1_000_000
"""Members of archives that a process keeps in its index (about 200 bytes each)."""
MOST_BYTES = 256 * 2**20
"""Bytes of Parquet row groups that a process keeps."""
MOST_FILES = 256
"""Table files that a process keeps open."""


def read_bytes(root: Path, path: str) -> bytes:
    """The bytes of the image that the manifest calls `path`, below the manifest's `root`.

    Raises:
        OSError: it is not there, cannot be read, or would lie outside the root; `strerror` is one short line.
    """
    if not is_inside(path):
        raise PermissionError(errno.EACCES, "leaves the image folder", path)
    container = _container(Path(root), path)
    if container is None:
        return read_file(Path(root) / path)
    file, inside = container
    if is_archive(file.name):
        return _from_archive(file, inside)
    column, _, row = inside.rpartition("/")
    if not column or not re.fullmatch(r"[0-9]{1,12}", row):
        raise FileNotFoundError(errno.ENOENT, "no such column and row", path)
    return _from_table(file, column, int(row))


def _container(root: Path, path: str) -> tuple[Path, str] | None:
    """The container file that a path goes through, and the rest of the path; None for a plain file."""
    lower = path.lower()
    if not any(f"{suffix}/" in lower for suffix in (*ARCHIVES, *TABLES)):
        return None
    parts = path.split("/")
    for end in range(1, len(parts)):
        file = root.joinpath(*parts[:end])
        if file.name.lower().endswith((*ARCHIVES, *TABLES)) and file.is_file():
            return file, "/".join(parts[end:])
    return None


_archives: Kept[dict[str, Member]] = Kept(MOST_MEMBERS, len)


def _from_archive(file: Path, name: str) -> bytes:
    index = _archives.get(stamp(file), lambda: {member.name: member for member in members(file)})
    if name not in index:
        raise FileNotFoundError(errno.ENOENT, "no such member", f"{file}/{name}")
    return read_member(file, index[name])


# Parquet and Arrow files: a column of bytes, or of struct{bytes, path} as Hugging Face `datasets` writes it


class _TableFile:
    """One open table file: images by column and row."""

    def __init__(self, file: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.lock = threading.Lock()
        self.stamp = stamp(file)
        if file.suffix.lower() == ".arrow":
            self.table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()  # mapped, not read
            self.table.validate(full=True)  # damaged offsets would crash the process
            self.rows = len(self.table)
        else:
            self.table = None
            self.parquet = pq.ParquetFile(file, memory_map=True)
            groups = range(self.parquet.num_row_groups)
            self.starts = [0]
            for group in groups:
                self.starts.append(self.starts[-1] + self.parquet.metadata.row_group(group).num_rows)
            self.rows = self.starts[-1]

    def read(self, column: str, row: int) -> Any:
        if self.table is not None:
            return _bytes_of(self.table.column(column))[row].as_py()
        group = bisect_right(self.starts, row) - 1
        values = _groups.get((self.stamp, column, group), lambda: self._group(column, group))
        return values[row - self.starts[group]].as_py()

    def _group(self, column: str, group: int) -> Any:
        with self.lock:
            table = self.parquet.read_row_group(group, columns=[column])
        return _bytes_of(table.column(column))


def _bytes_of(column: Any) -> Any:
    """The bytes of an image column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


_tables: Kept[_TableFile] = Kept(MOST_FILES, lambda file: 1)
_groups: Kept[Any] = Kept(MOST_BYTES, lambda values: int(values.nbytes))


def _from_table(file: Path, column: str, row: int) -> bytes:
    import pyarrow as pa

    try:
        table = _tables.get(stamp(file), lambda: _TableFile(file))
        value = table.read(column, row) if row < table.rows else None
    except (pa.ArrowException, KeyError, IndexError, ValueError) as error:
        raise ContainerError(f"no readable column {column!r} ({' '.join(str(error).split())[:120]})") from error
    if not isinstance(value, bytes):
        raise FileNotFoundError(errno.ENOENT, "no image in this row", f"{file}/{column}/{row}")
    return value
