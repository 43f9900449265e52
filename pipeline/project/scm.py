"""git and DVC for a new project: what is there already is used, and nothing is left of a start that fails.

| the folder lies in | done |
|---|---|
| a DVC project | nothing: its `dvc repro` finds these stages |
| a git repository | `dvc init`, with `--subdir` below its root |
| neither | `git init`, `dvc init` |
| neither, with `--no-scm` or without git on this machine | `dvc init --no-scm` |
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.errors import UserError
from stages.extras import installed, mend
from stages.files import remove_tree, user_errors

MADE = (".git", ".dvc", ".dvcignore")
"""What git and DVC make in the folder."""


@dataclass(frozen=True)
class Start:
    """What has to be run in the folder.

    Attributes:
        commands: in this order.
        said: one line on what is done, or what is used instead.
    """

    commands: tuple[tuple[str, ...], ...]
    said: str


def plan(folder: Path, *, scm: bool) -> Start:
    """What a folder, which may not be there yet, needs for `dvc repro`. Nothing is written.

    Args:
        folder: absolute.
        scm: False asks for DVC without git.

    Raises:
        UserError: DVC is not installed.
    """
    if not installed("dvc"):
        raise UserError(f"dvc is not installed, and the project's steps are its stages: {mend('dvc')}")
    dvc = (sys.executable, "-m", "dvc", "init")
    if (found := _above(folder, ".dvc")) is not None:
        return Start((), f"DVC: part of the project {found}")
    if not scm:
        return Start(((*dvc, "--no-scm"),), "DVC initialised, without git")
    if shutil.which("git") is None:
        return Start(((*dvc, "--no-scm"),), "DVC initialised, without git, which this machine lacks")
    found = _above(folder, ".git")
    if found == folder:
        return Start((dvc,), "DVC initialised")
    if found is not None:
        return Start(((*dvc, "--subdir"),), f"DVC initialised, inside the git repository {found}")
    return Start((("git", "init", "--quiet"), dvc), "git and DVC initialised")


def _above(folder: Path, name: str) -> Path | None:
    """The nearest folder, this one or one above it, that holds this entry."""
    return next((each for each in (folder, *folder.parents) if (each / name).exists()), None)


def run(start: Start, folder: Path) -> None:
    """Run the commands of a plan.

    Raises:
        UserError: one fails; says what it said.
    """
    for command in start.commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            shown = " ".join(command).removeprefix(f"{sys.executable} -m ")
            reason = " ".join(done.stderr.removeprefix("ERROR: ").split())[:200]
            raise UserError(f"{folder}: `{shown}` failed ({reason}): mend that, or try --no-scm")


@contextmanager
def removed_on_failure(folder: Path, files: Sequence[str]) -> Iterator[None]:
    """Make the folder; where what follows fails, it is left as it was found.

    Args:
        folder: absolute, may be there already.
        files: names of what will be made in it, beside what git and DVC make.
    """
    first_new = next((each for each in (*reversed(folder.parents), folder) if not each.exists()), None)
    new = [folder / name for name in (*files, *MADE) if not (folder / name).exists()]
    try:
        with user_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:  # Ctrl-C too
        for path in [first_new] if first_new is not None else new:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
        raise
