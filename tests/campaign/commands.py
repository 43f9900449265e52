"""Run a command as it is typed, in this process, and look at what it says and leaves."""

import contextlib
import hashlib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

RAW = "--debug shows where"
"""What a line ends with whose error the command did not know."""
REST = re.compile(r"\.part$|^\..*\.(new|old)$")


@dataclass(frozen=True)
class Done:
    """What a command said."""

    words: Sequence[str]
    code: int
    out: str
    err: str


def typed(words: Sequence[str], folder: Path) -> Done:
    """Type these words in this folder."""
    from stages import command

    out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), sys.argv
    command.stop_on_signals = lambda: None
    os.chdir(folder)
    sys.argv = list(words)
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            importlib.import_module(f"{words[0]}.cli").main()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        code, _ = -1, err.write(f"Traceback: {type(error).__name__}: {error}")
    finally:
        os.chdir(before)
        sys.argv = argv
    return Done(words, code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def without_pictures() -> None:
    """Pictures take seconds, and are drawn of what the rest of a report says: leave them out."""
    from stages import extras

    extras.find_spec = lambda name: None if name in ("matplotlib", "vl_convert") else find_spec(name)


def faults(done: Done, names: Sequence[str]) -> list[str]:
    """What is wrong with how a command ended.

    Args:
        names: what its line has to name, one of them; () where it need not.
    """
    found = []
    if done.code not in (0, 1, 2):
        found.append(f"exit code {done.code}")
    if "Traceback" in done.err or "Traceback" in done.out:
        found.append("a traceback")
    if RAW in done.err:
        found.append("a raw error")
    if "Warning: " in done.err:
        found.append("a warning")
    lines = [line for line in done.err.splitlines() if line.lower().startswith("error: ")]
    if done.code and len(lines) != 1 and not (done.code == 1 and not lines and "faults" in done.out):
        found.append(f"{len(lines)} lines of error")
    if done.code and lines and names and not any(name in lines[0] for name in names):
        found.append("the line does not name it")
    return found


def tree_of(folder: Path) -> dict[Path, str]:
    """Every file below a folder, hidden ones too, with a hash."""
    found = {}
    for here, _, names in os.walk(folder):
        for name in names:
            file = Path(here) / name
            if name.endswith(".lock"):
                continue
            data = str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()
            found[file.relative_to(folder)] = hashlib.sha256(data).hexdigest()
    return found


def rests(folder: Path) -> list[str]:
    """What half-written files and folders would be called."""
    return [str(path) for path in folder.rglob("*") if REST.search(path.name)]
