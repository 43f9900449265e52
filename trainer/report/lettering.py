"""Text of the user's in pictures: in every script, no formula, shortened in the middle, never two names alike.

matplotlib's own font has Latin, Greek, Cyrillic, Arabic and more. A character that it lacks is drawn in a font that
comes with the extra `plots` (Noto, for the scripts of the world, Chinese, Japanese, Korean and emoji), else in one that
is installed on the machine, else it is written as `<U+4E2D>`.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, count

from matplotlib.figure import Figure
from matplotlib.text import Text

from stages import fonts

WIDTH = 30
"""Columns of a class name, at most; Chinese, Japanese and Korean characters and emoji take two."""


def plain(text: str, width: int | None = None) -> str:
    """Text on one line that matplotlib draws as it is, without a formula and without a character that no font has.

    Args:
        width: columns, at most: what is longer loses its middle.
    """
    parts = _clusters(text)
    if width is not None and sum(map(_columns, parts)) > width:
        head, tail = _fitting(parts, (width - 1) * 3 // 5), _fitting(parts[::-1], (width - 1) - (width - 1) * 3 // 5)
        parts = [*parts[:head], "…", *parts[len(parts) - tail :]]
    return "".join(parts).replace("$", r"\$")


def labels(names: Sequence[str], width: int = WIDTH) -> list[str]:
    """`plain` for names that stand beside each other: those that would read the same are numbered."""
    short = [plain(name, width) for name in names]
    times, used = Counter(short), set(short)
    for place, name in enumerate(names):
        if times[short[place]] > 1:
            ends = (f" ({number})" for number in count(1))
            short[place] = next(text for end in ends if (text := plain(name, width - len(end)) + end) not in used)
            used.add(short[place])
    return short


def set_fonts(figure: Figure) -> None:
    """Give the figure's texts the fonts that their characters need; nothing changes where matplotlib's own will do."""
    for axes in figure.axes:  # makes the texts of the ticks
        _ = axes.get_xticklabels(), axes.get_yticklabels()
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    for text in texts:
        families = dict.fromkeys(fonts.family_of(char) for char in text.get_text())
        needed = [family for family in families if family not in (None, fonts.OWN)]
        if needed:
            text.set_fontfamily([fonts.OWN, *needed])
            text.set_fontweight("normal")  # the others have no bold


def _clusters(text: str) -> list[str]:
    """What a reader takes for one character each: a letter with its accents, a joined emoji."""
    parts: list[str] = []
    joined = False
    for char in " ".join(unicodedata.normalize("NFC", text).split()):
        mark = unicodedata.category(char).startswith("M") or 0x1F3FB <= ord(char) <= 0x1F3FF  # accents, skin tones
        shown = _shown(char)
        if parts and (mark or joined or char == "\u200d"):
            parts[-1] += shown
        elif shown:
            parts.append(shown)
        joined = char == "\u200d"
    return parts


def _shown(char: str) -> str:
    """The character, its number where no font has it, or nothing where it shows nothing."""
    category = unicodedata.category(char)
    if char in "\u200c\u200d" or 0xFE00 <= ord(char) <= 0xFE0F:  # joiners and variants
        return char if fonts.family_of(char) else ""
    if category == "Cf":
        return ""
    return char if category[0] != "C" and fonts.family_of(char) else f"<U+{ord(char):04X}>"


def _columns(part: str) -> int:
    if part.startswith("<U+"):
        return len(part)
    return 2 if unicodedata.east_asian_width(part[0]) in "WF" else 1


def _fitting(parts: Sequence[str], width: int) -> int:
    """How many of the first parts fit."""
    return sum(taken <= width for taken in accumulate(map(_columns, parts)))
