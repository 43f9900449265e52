"""Tar archives, plain ones and gzipped ones.

A gzipped one is read through an index of the places in it where unpacking may begin, which each process builds once.
"""

import gzip
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.archives.base import (
    MOST_MEMBER,
    ContainerError,
    Member,
    check_growth,
    check_name,
    one_line,
    read_at,
)
from pipeline.archives.kept import Kept, stamp

GZIPPED = (".tar.gz", ".tgz")
MOST_HEADER = 2**26
"""Bytes of a header in a gzipped tar: of names longer than 100 bytes, and of owners and times."""
BLOCK = 512
"""Bytes of a block of a tar; two empty ones are its end."""
SPACING = 2**22
"""Bytes between the places of a gzipped tar where unpacking may begin: half of this is unpacked for one image."""
WINDOW = 2**15
"""Bytes that each such place holds in memory."""
MOST_WINDOWS = 2**30
"""Bytes of them that a process keeps: enough for 128 GB of archives."""


def tar_members(file: Path) -> Iterator[Member]:
    """The regular files of a tar archive, in order; a gzipped one is unpacked once, in memory, piece by piece.

    Raises:
        ContainerError: as `members`.
    """
    packed = file.name.lower().endswith(GZIPPED)
    file_size = file.stat().st_size
    with one_line("gzipped tar" if packed else "plain tar"), gzip.open(file) if packed else file.open("rb") as handle:
        content: Any = _Measured(handle, file_size) if packed else handle
        with tarfile.open(fileobj=content, mode="r:") as archive:
            while (found := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
                if found.isdir():
                    continue
                member = Member(found.name.removeprefix("./"), found.offset_data, found.size)
                if not found.isreg() or found.issparse():
                    raise ContainerError(
                        f"member {member.shown} is a link, a device or a sparse file; only plain files are read"
                    )
                check_name(found.name)
                if not packed and member.offset + member.size > file_size:
                    raise ContainerError(f"cut off in member {member.shown}")
                yield member
            content.seek(archive.offset)
        while block := content.read(2**20):
            if block.strip(b"\0"):
                raise ContainerError("damaged, or several archives joined: bytes after the last member")


def has_end(file: Path) -> bool:
    """Whether a plain tar ends as it should: without its last blocks it may be cut off between two members."""
    size = file.stat().st_size
    return not read_at(file, max(0, size - BLOCK), BLOCK).strip(b"\0")


def read_plain(file: Path, member: Member) -> bytes:
    """A member of a plain tar."""
    return read_at(file, member.offset, member.size)


def read_gzipped(file: Path, member: Member) -> bytes:
    """A member of a gzipped tar.

    Raises:
        ContainerError: too large to be read, or damaged.
    """
    if member.size > MOST_MEMBER:
        raise ContainerError(f"member {member.shown}: {member.size} bytes are too many for an image")
    with one_line("gzipped tar"):
        data = _opened.get(stamp(file), lambda: _Gzip(file)).read(member.offset, member.size)
    if len(data) != member.size:
        raise ContainerError(f"cut off in member {member.shown}")
    return data


class _Measured:
    """What tarfile reads of a gzipped file: no header of hundreds of megabytes, and no more than the file may hold."""

    def __init__(self, file: Any, file_size: int) -> None:
        self.file, self.file_size = file, file_size

    def tell(self) -> int:
        return int(self.file.tell())

    def seek(self, offset: int) -> None:
        check_growth(offset, self.file_size)
        self.file.seek(offset)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise ContainerError(f"a header of {size} bytes: not read, as it may be made to fill the machine")
        check_growth(self.tell() + size, self.file_size)
        return bytes(self.file.read(size))


class _Gzip:
    """A gzipped file with its index; read by one thread at a time."""

    def __init__(self, file: Path) -> None:
        import indexed_gzip

        self.lock = threading.Lock()
        # A handle of its own for each reading (`drop_handles`), so that worker processes may share what was opened.
        self.file = indexed_gzip.IndexedGzipFile(str(file), spacing=SPACING, buffer_size=2**16, drop_handles=True)
        self.weight = (file.stat().st_size // SPACING + 1) * WINDOW

    def read(self, offset: int, size: int) -> bytes:
        with self.lock:
            self.file.seek(offset)
            return bytes(self.file.read(size))


_opened: Kept[_Gzip] = Kept(MOST_WINDOWS, lambda gzipped: gzipped.weight)
