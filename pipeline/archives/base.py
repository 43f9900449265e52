"""What all archives share: members, faults, limits."""

import errno
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOST_MEMBER = 2**30
"""Bytes of a packed member; larger ones are no images (the largest picture that is decoded has 0.7 GB of pixels)."""
MOST_GROWTH = 200
"""Times that a packed archive may unpack to its own size, once that is over `MOST_MEMBER`: photographs hardly grow."""


class ContainerError(OSError):
    """A container that is damaged or not to be trusted; `strerror` is one short line."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)


@dataclass(frozen=True, slots=True)
class Packed:
    """How a zip archive holds a member: bytes there, deflated or not, and the checksum of what it unpacks to."""

    size: int
    deflated: bool
    crc: int


@dataclass(frozen=True, slots=True)
class Member:
    """Where a file lies inside an archive, in bytes: in the unpacked tar, or where a zip has its header."""

    name: str
    offset: int
    size: int
    packed: Packed | None = None

    @property
    def shown(self) -> str:
        """Its name for messages."""
        return ascii(self.name[:120])


def is_inside(path: str) -> bool:
    """Whether a relative path stays in its folder: not absolute, no `..`, no NUL, not empty."""
    return bool(path) and "\0" not in path and not path.startswith("/") and ".." not in PurePosixPath(path).parts


def check_name(name: str) -> None:
    """Refuse a member's name that leads out of the archive's folder."""
    if not is_inside(name):
        raise ContainerError(f"member {name[:120]!a} leaves the archive's folder")


def check_growth(unpacked: int, file_size: int) -> None:
    """Refuse an archive that unpacks to far more than it is."""
    if unpacked > MOST_MEMBER and unpacked > MOST_GROWTH * file_size:
        raise ContainerError(
            f"unpacks to over {MOST_GROWTH} times its own size ({unpacked} bytes so far): not read, as it may be made "
            "to fill the machine; unpack it by hand if you trust it"
        )


def read_at(file: Path, offset: int, size: int) -> bytes:
    """Bytes of a file, through a handle of its own: threads and worker processes do not disturb each other."""
    with file.open("rb") as handle:
        return os.pread(handle.fileno(), size, offset)


@contextmanager
def one_line(kind: str) -> Iterator[None]:
    """Whatever the libraries raise on broken or hostile bytes, as one line; faults of the disk pass."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise _damaged(kind, error) from error
    except OSError as error:
        if isinstance(error, ContainerError) or error.errno is not None:
            raise
        raise _damaged(kind, error) from error


def _damaged(kind: str, error: Exception) -> ContainerError:
    return ContainerError(f"damaged, cut off or not a {kind} archive ({' '.join(str(error).split())[:120]})")
