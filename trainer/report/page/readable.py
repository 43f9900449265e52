"""Strangers' text as the page shows it: what cannot be seen is written out."""

import unicodedata

from stages.command import visible

JOINERS = "\u200c\u200d"
"""Decide how letters of Persian and Indic scripts, and emoji, are drawn."""


def readable(text: str) -> str:
    """The text with every control, direction and other unseen character, and half of a character, as an escape.

    Spaces of all kinds stay, and what joins letters.
    """
    if text.isprintable():
        return text
    return "".join(c if c in JOINERS or unicodedata.category(c) == "Zs" else visible(c) for c in text)
