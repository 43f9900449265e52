"""Which classes a sentence names: the noun filter of TaI, on words alone.

A class is named where the words of its name, or of another name that it goes by, stand there in a row, singular or
plural. Where several names overlap the longest counts: a "hot dog" names no dog.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def singular(word: str) -> str:
    """An English noun without its plural: by its ending, so that both forms of a word become the same one."""
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith(("ses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def words_of(text: str) -> tuple[str, ...]:
    """Its words, lower case, each in the singular."""
    return tuple(singular(word) for word in re.findall(r"[^\W_]+", text.lower()))


class Nouns:
    """The names of the classes, ready to be looked for.

    Args:
        names: class names.
        also: class name -> further names that it goes by.
    """

    def __init__(self, names: Sequence[str], also: Mapping[str, Sequence[str]] | None = None) -> None:
        self.place: dict[tuple[str, ...], int] = {}
        for label, name in enumerate(names):
            for called in (name, *(also or {}).get(name, ())):
                words = words_of(called)
                if words:
                    self.place.setdefault(words, label)
        self.longest = max(map(len, self.place), default=0)

    def in_text(self, text: str) -> set[int]:
        """The classes that a sentence names."""
        words, found, at = words_of(text), set(), 0
        while at < len(words):
            for length in range(min(self.longest, len(words) - at), 0, -1):
                label = self.place.get(words[at : at + length])
                if label is not None:
                    found.add(label)
                    at += length - 1
                    break
            at += 1
        return found
