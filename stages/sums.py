"""SHA256SUMS beside the files of a result, as `sha256sum -c` reads it: what has changed is refused and not served."""

import hashlib
import re
from pathlib import Path

from stages.errors import UserError
from stages.files import sha256_file, write_text

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS into every folder of a finished result that holds files.

    Raises:
        UserError: the disk is full or read-only.
    """
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        files = sorted(file for file in place.iterdir() if file.is_file() and file.name != SUMS)
        if files:
            write_text(place / SUMS, "".join(f"{sha256_file(file)}  {file.name}\n" for file in files))


def read_summed(file: Path, *, mend: str) -> bytes | None:
    """The content of a file that is what the SHA256SUMS beside it says, where there is one; None where it is missing.

    Args:
        mend: what to do about a fault.

    Raises:
        OSError: the file cannot be read.
        UserError: it has changed, it is named and missing, or SHA256SUMS is damaged.
    """
    content = file.read_bytes() if file.exists() else None
    named = _named(file.with_name(SUMS), mend)
    if named is None or (content is None and file.name not in named):
        return content
    if content is None:
        raise UserError(f"{file}: is missing, and {SUMS} beside it names it: {mend}")
    if file.name not in named:
        raise UserError(f"{file.with_name(SUMS)}: damaged, it does not name {file.name}: {mend}")
    if hashlib.sha256(content).hexdigest() != named[file.name]:
        raise UserError(f"{file}: has changed since it was written (its sha256 is not that in {SUMS}): {mend}")
    return content


def _named(sums: Path, mend: str) -> dict[str, str] | None:
    """File name -> its sum; None where there is no SHA256SUMS."""
    try:
        lines = sums.read_bytes().decode("utf-8", "replace").splitlines(keepends=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{sums}: cannot be read ({error.strerror or error}): {mend}") from error
    found = {each[2]: each[1] for each in map(_LINE.fullmatch, lines) if each}
    if len(found) < len(lines) or not lines:
        raise UserError(f"{sums}: damaged: {mend}")
    return found
