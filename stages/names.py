"""Names that become folders, and names that people read."""

import re
import unicodedata

from stages.errors import UserError

_LEFT_BEHIND = frozenset(
    {"__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found"}
    | {"__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def slug(name: str) -> str:
    """The folder-safe form of an encoder or LLM name: `open_clip:ViT-B-16/openai` -> `open_clip-ViT-B-16-openai`.

    Raises:
        UserError: nothing of the name can stand in a folder name.
    """
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:120]
    if not _SLUG.fullmatch(text):
        raise UserError(f"name {name!r} cannot become a folder name: use letters, digits, '.', '_' or '-'", exit_code=2)
    return text


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left behind by a system or a program.

    `.ipynb_checkpoints`, `.DS_Store` and `._photo.jpg` are hidden; `__MACOSX`, `@eaDir` and `Thumbs.db` are not.
    """
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def dataset_name(name: str) -> str:
    """Check that a data-set name can be used as it stands, as a folder and in SQL.

    Raises:
        UserError: it holds anything but letters, digits, '.', '_' and '-'.
    """
    if not _SLUG.fullmatch(name):
        raise UserError(
            f"data-set name {name!r}: use letters, digits, '.', '_' or '-', first a letter or a digit", exit_code=2
        )
    return name


def display_name(class_name: str) -> str:
    """A class name as a sentence says it: underscores, white space and control characters become spaces."""
    cleaned = "".join(" " if unicodedata.category(c).startswith("C") else c for c in class_name.replace("_", " "))
    return " ".join(cleaned.split())
