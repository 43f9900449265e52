"""Fonts for the user's text in pictures: matplotlib's own, those of the extra `plots`, and those of the machine."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from matplotlib import font_manager, get_data_path
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"
"""Comes with matplotlib."""
PACKAGES = ("manimgx_fonts", "noto_cjk_sans_otc")
"""Of the extra `plots`; they hold font files and nothing else."""
FIRST = "Noto Sans CJK SC"
"""Of the faces that have all Chinese, Japanese and Korean characters, each in a form of its own."""
REGULAR = (400, "normal", "regular")


@cache
def family_of(char: str) -> str | None:
    """The first family of fonts that has the character."""
    if char in "\n\t" or all(_has(OWN, weight, char) for weight in ("normal", "bold")):
        return OWN
    return next((family for family in others() if _has(family, "normal", char)), None)


def _has(family: str, weight: str, char: str) -> bool:
    font = font_of(family, weight)
    return font is not None and font.get_char_index(ord(char)) != 0


@cache
def font_of(family: str, weight: str) -> FT2Font | None:
    """The font that matplotlib takes for a family; None where it cannot be read."""
    wanted = font_manager.FontProperties(family=[family], weight=weight)
    try:
        return font_manager.get_font(font_manager.findfont(wanted, fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):
        return None


@cache
def others() -> tuple[str, ...]:
    """Families beside matplotlib's own: those of the extra, then the machine's, those for text before the rest.

    Left out are slanted, bold and narrow ones, and matplotlib's further ones: for formulas, and one of boxes for all of
    Unicode.
    """
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or []:
            for file in sorted(Path(folder).glob("*.tt[cf]")):
                font_manager.fontManager.addfont(file)
    found = [
        (not _of_extra(font.fname), font.name != FIRST, "Sans" not in font.name, font.name)
        for font in font_manager.fontManager.ttflist
        if (font.style, font.stretch) == ("normal", "normal") and font.weight in REGULAR
        and not font.name.startswith((".", "Last"))
        and not Path(font.fname).is_relative_to(get_data_path())
    ]  # fmt: skip
    return tuple(dict.fromkeys(name for *_, name in sorted(found)))


def _of_extra(file: str) -> bool:
    return Path(file).parent.name in PACKAGES
