"""What the columns of a table mean: found by their names, or as the settings' `columns` say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.errors import UserError, nearest

ROLES: dict[str, tuple[str, ...]] = {
    "image": ("image", "path", "file", "filename", "filepath", "imagepath", "imagefile", "imagename", "img"),
    "class": ("classname", "class", "category", "label", "target"),
    "class_id": ("classid", "labelid"),
    "labels": ("labels", "classes", "tags", "categories", "classnames"),
    "split": ("split", "subset"),
    "caption": ("caption", "captions", "sentence", "sentences", "text"),
    "question": ("question",),
    "question_id": ("questionid",),
    "choices": ("choices",),
    "answers": ("directanswers", "answers", "answer", "correct", "multiplechoiceanswer"),
}
"""Our name -> names of columns, the first that is there; case, spaces, `_` and `-` do not count."""


@dataclass(frozen=True)
class Table:
    """One file's rows.

    Attributes:
        columns: our name -> one value a row.
        lines: for each row its number, from 1.
        counted: what the numbers count: lines of a text file, rows of another.
        holds: name of the column that holds the images themselves; the image column is then their paths or None.
        names: class names by class id, where the file says them.
        called: our name -> the column's own, for messages.
        rivals: further columns that could be the class as well.
        order: the class names, of a table with a column of 0 and 1 for each; `labels` then lists those of a row.
        aside: columns that are not taken, of such a table.
        signed: whether such a table says -1 where others say 0.
    """

    file: Path
    columns: dict[str, Sequence[Any]]
    lines: Sequence[int]
    counted: str = "line"
    holds: str | None = None
    names: list[str] | None = None
    called: Mapping[str, str] = field(default_factory=dict)
    rivals: Sequence[str] = ()
    order: Sequence[str] | None = None
    aside: Sequence[str] = ()
    signed: bool = False

    def where(self, row: int) -> str:
        """A row's place, for messages."""
        return f"{self.file}, {self.counted} {self.lines[row]}"


def find_columns(header: Sequence[str], wanted: Mapping[str, str], *, where: str) -> dict[str, str]:
    """Our name -> column of the file, for the columns that are there.

    Raises:
        UserError: the settings name a column that is not there, or a role that does not exist; a column stands twice.
    """
    for role, column in wanted.items():
        if role not in ROLES:
            raise UserError(f"columns: {role!r} is none of ours; {nearest(role, list(ROLES))}", exit_code=2)
        if column not in header:
            raise UserError(
                f"{where}: no column {column!r} for {role}; {nearest(column, list(header)[:30])}", exit_code=2
            )
    plain = {_plain(name): name for name in reversed(header)}
    found = dict(wanted)
    for role, names in ROLES.items():
        known = next((plain[name] for name in names if name in plain), None)
        if role not in found and known is not None and known not in wanted.values():
            found[role] = known
    if "labels" in found and "labels" not in wanted and {"class", "class_id", "caption", "question"} & set(found):
        del found["labels"]  # tags beside what such files are read for
    for column in found.values():
        if list(header).count(column) > 1:
            raise UserError(f"{where}: column {column!r} stands twice in the header")
    return found


def rivals(header: Sequence[str], roles: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Columns that could be the class as well as the one that is taken, unless the settings name it."""
    if "class" in wanted or "class" not in roles:
        return []
    return [name for name in header if name not in roles.values() and _plain(name) in ROLES["class"]]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " _-")


def require_image(file: Path, roles: Mapping[str, str], header: Sequence[str]) -> None:
    """Refuse a table that names no images.

    Raises:
        UserError: with the columns that there are.
    """
    if "image" in roles:
        return
    said = {"class", "labels", "caption", "question"} & set(roles)
    others = "" if said else ", and --column class=COLUMN (or caption=)"
    addresses = [name for name in header if "url" in name.lower()]
    mend = f"name it with --column image=COLUMN{others}"
    if addresses:
        mend = f"download what {addresses[0]!r} names first, e.g. with img2dataset; or {mend}"
    raise UserError(
        f"{file}: no column of images (looked for {', '.join(ROLES['image'])}; the file has "
        f"{', '.join(header)[:200]}); {mend}"
    )
