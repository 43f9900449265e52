"""Small files beside an image that speak of it: `.txt` and `.caption` give captions, `.cls` a class, `.json` both."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from pipeline.ingest.rows import UNKNOWN

SIDECARS = ("cls", "json", "txt", "caption")
MOST_TEXT = 2**22
"""Bytes of a text; longer ones are no labels."""
CLASS_KEYS = ("class_name", "class", "label", "cls", "category")
CAPTION_KEYS = ("captions", "caption", "text")


@dataclass(frozen=True)
class Facts:
    """What is said about one image; None where nothing is."""

    label: int | str | None = None
    unlabelled: bool = False
    captions: list[str | None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return self.label is None and not self.unlabelled and self.captions is None


def facts_of(texts: Mapping[str, Callable[[], bytes]]) -> Facts:
    """What the texts beside an image say; `.cls` and `.txt` count before `.json`.

    Args:
        texts: suffix, one of `SIDECARS` -> how to read its bytes.

    Raises:
        ValueError: a text is too long, not UTF-8, or not what its suffix says.
    """
    has_label, label, captions = False, None, None
    if "json" in texts:
        said = _json(texts["json"]())
        labels = [said[name] for name in CLASS_KEYS if name in said]
        has_label, label = bool(labels), next((_label(value) for value in labels if value is not None), None)
        found = [said[name] for name in CAPTION_KEYS if name in said]
        captions = _captions(next((value for value in found if value is not None), None)) if found else None
    for suffix in ("txt", "caption"):
        if suffix in texts:
            captions = [line for line in _text(texts[suffix]()).splitlines() if line.strip()] or [None]
    if "cls" in texts:
        has_label, label = True, _label(_text(texts["cls"]()))
    return Facts(label, has_label and label is None, captions)


def _label(value: Any) -> int | str | None:
    """A class; None for one that nobody knows, empty or -1."""
    if not isinstance(value, (str, int)):
        raise ValueError(f"expected a class, found {str(value)[:80]!r}")
    text = str(int(value)) if isinstance(value, int) else value.strip()
    if text in ("", str(UNKNOWN)):
        return None
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,8}", text) else text


def _captions(value: Any) -> list[str | None]:
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"expected captions, found {str(value)[:80]!r}")
    return texts


def check_size(size: int) -> None:
    """Refuse what is too long to be a label or captions before it is read."""
    if size > MOST_TEXT:
        raise ValueError(f"{size} bytes are too many for a label or captions")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error


def _json(data: bytes) -> dict[str, Any]:
    text = _text(data)
    try:
        said = from_json(text)
    except ValueError as error:
        raise ValueError(f"not readable as JSON ({error})") from error
    if not isinstance(said, dict):
        raise ValueError(f"expected an object, found {str(said)[:80]!r}")
    return said
