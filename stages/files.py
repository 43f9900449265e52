"""Files that are either whole or not there: atomic writes, folders swapped into place, hashes."""

import errno
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import UserError


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder and their kin into one line that names the file and the mend."""
    try:
        yield
    except OSError as error:
        mends = {
            errno.ENOSPC: "the disk is full: free some space, or name another folder with --cache / --results",
            errno.EDQUOT: "the disk quota is used up: free some space, or name another folder",
            errno.EFBIG: "larger than the system allows a file to be: raise `ulimit -f`, or name another folder",
            errno.EROFS: "the file system is read-only: name another folder with --cache / --results",
            errno.EACCES: "no permission: make the folder writable, or name another with --cache / --results",
            errno.ENOTDIR: "a file stands where a folder is needed: remove it, or name another folder",
            errno.ELOOP: "a symbolic link where a file is needed: remove it, or name another folder",
            errno.EEXIST: "a file stands where a folder is needed: remove it, or name another folder",
        }
        if error.errno is None:
            raise
        mend = mends.get(error.errno, f"cannot be written ({error.strerror or error}): name another folder")
        raise UserError(f"{error.filename or path}: {mend}") from error


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is fsynced and renamed, on failure removed.

    Raises:
        UserError: the disk is full or read-only, or a permission is missing.
    """
    work = path.with_name(f".{path.name}.{os.getpid()}.part")
    with user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_rests(path)
        try:
            yield work
            sync(work)
            work.replace(path)
            sync(path.parent)
        finally:
            work.unlink(missing_ok=True)


def remove_rests(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it; those that still run keep theirs."""
    for rest in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        writer = rest.name.split(".")[-2]
        if writer.isdigit() and not Path(f"/proc/{writer}").exists():
            rest.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, UTF-8."""
    with atomic_file(path) as work:
        work.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small binary file atomically."""
    with atomic_file(path) as work:
        work.write_bytes(data)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` to write to; on success it takes that place, on failure it is removed.

    Nothing that was in `path` before is left in it. For one writer at a time: what a killed one left is removed. One
    that is killed between the two renames leaves no folder in the place.

    Raises:
        UserError: the disk is full or read-only, or a permission is missing; the old folder is untouched.
    """
    place = path.resolve()
    work, old = (place.with_name(f".{place.name}.{end}") for end in ("new", "old"))
    with user_errors(path):
        remove_tree(work)
        remove_tree(old)
        work.mkdir(parents=True)
        try:
            yield work
            if place.exists():
                place.rename(old)
            work.rename(place)
            sync(place.parent)
        finally:
            remove_tree(work)
        remove_tree(old)


def remove_tree(path: Path) -> None:
    """Remove a folder if it is there."""
    with user_errors(path):
        shutil.rmtree(path, ignore_errors=not path.exists())


def read_file(path: Path) -> bytes:
    """The bytes of a file that may be anything: a pipe or a device would be read without end.

    Raises:
        OSError: it is one of these, missing, or cannot be read.
    """
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # a folder has its own error
        raise OSError(errno.EINVAL, "a pipe or a device, no plain file", str(path))
    return path.read_bytes()


LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the small text that Git LFS leaves in place of a file that has not been fetched.

    Raises:
        UserError: the file is one.
    """
    with path.open("rb") as handle:
        if handle.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path}: a Git LFS pointer, not the file itself: run `git lfs pull` in its folder")


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
