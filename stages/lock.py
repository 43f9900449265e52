"""One writer at a time: a lock beside a store's, or a results, folder, with who holds it.

The lock is the kernel's (POSIX record lock, which NFS knows too) and goes with its process, however that ends: one that
a killed command left is taken over at once, and worker processes do not inherit it. The file itself only tells who.
"""

import errno
import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from stages.command import say
from stages.errors import UserError
from stages.files import user_errors

_held: dict[tuple[int, Path], int] = {}
"""(process, lock file) -> the thread that holds it: the system does not tell the threads of a process apart."""


@contextmanager
def store_lock(folder: Path, *, what: str, beside: Path | None = None) -> Iterator[None]:
    """Keep other commands from writing `folder` while the block runs; a block inside it that asks again passes.

    Args:
        folder: what is written; it need not exist.
        what: the command that writes, as a user would know it: `pipeline embed-images`.
        beside: the lock is the hidden file `.NAME.lock` beside this path; default beside `folder`. Folders that are
            made for it, and a hidden one, are removed again where nothing else came into them.

    Raises:
        UserError: another command holds it; the line says which, since when, and what to do.
    """
    file = _lock_file(beside or folder)
    key, thread = (os.getpid(), file), threading.get_ident()
    if _held.get(key) == thread:
        yield
        return
    if _held.setdefault(key, thread) != thread:
        raise UserError(f"{folder}: another thread of this process is writing it: one at a time")
    missing = [each for each in file.parents if not each.exists()]
    try:
        with user_errors(file):
            handle = _acquire(folder, file)
        try:
            if handle is not None:
                with user_errors(file):
                    _sign(handle, what)
            yield
        finally:
            if handle is not None:
                file.unlink(missing_ok=True)
                os.close(handle)
    finally:
        _remove_empty([*missing, *[file.parent] * file.parent.name.startswith(".")])
        del _held[key]


def require_free(folder: Path, *, beside: Path | None = None) -> None:
    """Tell at once, before anything is loaded, that another command writes `folder`; takes no lock, writes nothing.

    Raises:
        UserError: as `store_lock`.
    """
    file = _lock_file(beside or folder)
    if (os.getpid(), file) in _held:  # closing any handle of it would give the lock away
        return
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(_busy(folder, file)) from error
    finally:
        os.close(handle)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made for a lock and hold nothing now, the innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # something lies there, or it is gone
            return


def _lock_file(path: Path) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}.lock")


def _acquire(folder: Path, file: Path) -> int | None:
    """The locked file's handle; None where the file system knows no locks."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # who was here before removed the folder in the meantime
            if file.parent.is_dir():
                raise
            continue
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, handle):
                return handle
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(_busy(folder, file)) from error
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            say(f"{folder}: this file system knows no locks: do not run two commands on it at once")
            file.unlink(missing_ok=True)
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it in the meantime: there is another one now, or none


def _is(file: Path, handle: int) -> bool:
    try:
        there = file.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _sign(handle: int, what: str) -> None:
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    facts = {"command": what, "process": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(facts).encode(), 0)


def _busy(folder: Path, file: Path) -> str:
    """The line for whoever comes second."""
    try:
        facts = json.loads(file.read_bytes()[:4096])
        what, process, host, since = (str(facts[key])[:200] for key in ("command", "process", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return f"{folder}: another command is writing it: wait until it has ended, then run this one again"
    here = socket.gethostname() == host
    end = f"end it with `kill {process}`" if here else f"end process {process} on {host}"
    return (
        f"{folder}: `{what}` (process {process} on {host}) has been writing it since {since}: wait until it has ended, "
        f"or {end}, then run this command again"
    )
