"""The licence of a source as far as it says so itself: a licence file, a package's metadata, a known set's card."""

from importlib import metadata
from pathlib import Path

from pipeline.ingest.packaged import PREFIX
from pipeline.registry import Card

FILES = ("licence", "license", "copying")
"""Names of licence files, in small letters and without suffix."""
READ, SHOWN = 4096, 120
"""Bytes that are looked at, and characters that are kept."""


def licence_of(source: str, card: Card | None) -> str | None:
    """The licence in words, one line; None where nothing is said.

    Args:
        source: as the user gave it.
        card: of the known data set that the source is; None where it is none.
    """
    if source.startswith(PREFIX):
        return _of_package(source.removeprefix(PREFIX))
    return _of_folder(Path(source)) or (None if card is None else card.licence)


def _of_package(name: str) -> str | None:
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    said = {key: value for key in ("License", "License-Expression") if (value := about[key])}
    return _one_line(said.get("License-Expression", said.get("License", "")))


def _of_folder(folder: Path) -> str | None:
    """The first two lines of a licence file, which name it."""
    try:
        found = sorted(p for p in folder.iterdir() if p.stem.lower() in FILES and p.is_file())
        if not found:
            return None
        with found[0].open("rb") as file:
            text = file.read(READ).decode("utf-8", "replace")
    except OSError:
        return None
    return _one_line("; ".join([line.strip(" \t#*=-") for line in text.splitlines() if line.strip(" \t#*=-")][:2]))


def _one_line(text: str) -> str | None:
    return " ".join(text.split())[:SHOWN] or None
