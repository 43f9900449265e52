"""A contact sheet: pictures side by side, each with a title and a line below it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from stages.command import visible
from stages.files import atomic_file

MOST = 200
"""Images of a sheet."""
SIDE, GAP, CAPTION, HEAD = 200, 16, 44, 104
"""Pixels: a thumbnail, the space around it, the text below it, the text above all."""
_Face = Callable[[str], ImageFont.FreeTypeFont]
"""Family of fonts -> its font in the size and weight of a line."""
INK, PALE, BACKGROUND, GREY = "#1a1a1a", "#6b6b6b", "#ffffff", "#e3e3e3"


class NoPicture(Exception):
    """A picture that cannot be read; the message is one short line."""


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        place: where it lies, as a user would open it.
        load: gives the picture, or raises `NoPicture`.
    """

    title: str
    caption: str
    place: str
    load: Callable[[], Image.Image]


def draw_sheet(
    cells: Sequence[Cell], file: Path, *, title: str, notes: Sequence[str] = (), asked: Image.Image | None = None
) -> list[str]:
    """Write a PNG with the first `MOST` cells, row by row.

    An image that cannot be read gets a grey cell with the reason.

    Args:
        notes: up to two lines below the title.
        asked: a picture beside the title.

    Returns:
        One line for every image that could not be read.

    Raises:
        UserError: the file cannot be written.
    """
    shown = list(cells[:MOST])
    columns = max(3, min(5 if len(shown) <= 20 else 10, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    step = SIDE + GAP
    sheet = Image.new("RGB", (GAP + columns * step, HEAD + rows * (step + CAPTION)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    left = GAP
    if asked is not None:
        side = HEAD - 2 * GAP
        sheet.paste(_thumbnail(asked, side), (GAP, GAP))
        left += side + GAP
    width = sheet.width - left - GAP
    _write(draw, (left, 18), _short(title, _font(20, bold=True), width), INK, _font(20, bold=True))
    for line, note in enumerate(notes[:2]):
        _write(draw, (left, 48 + 20 * line), _short(note, _font(13), width), PALE, _font(13))
    unread = []
    for place, cell in enumerate(shown):
        x, y = GAP + place % columns * step, HEAD + place // columns * (step + CAPTION)
        try:
            sheet.paste(_thumbnail(cell.load(), SIDE), (x, y))
        except NoPicture as error:
            reason = visible(str(error))
            unread.append(f"{visible(cell.place)}: {reason}")
            draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), GREY)
            _write(draw, (x + 10, y + 10), _wrapped(reason, _font(13), SIDE - 20), PALE, _font(13))
        _write(draw, (x, y + SIDE + 4), _short(cell.title, _font(15, bold=True), SIDE), INK, _font(15, bold=True))
        _write(draw, (x, y + SIDE + 23), _short(cell.caption, _font(13), SIDE), PALE, _font(13))
    with atomic_file(file) as work:
        sheet.save(work, format="PNG")
    return unread


def _thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture in a square, on pale grey."""
    return ImageOps.pad(picture, (side, side), Image.Resampling.LANCZOS, color="#f4f4f4")


def _font(size: int, *, bold: bool = False) -> _Face:
    return partial(_loaded, size, bold)


def _loaded(size: int, bold: bool, family: str) -> ImageFont.FreeTypeFont:
    """A family in a size; matplotlib's own alone has a bold face."""
    return _file(family, size, "bold" if bold and family == _own() else "normal")


@cache
def _file(family: str, size: int, weight: str) -> ImageFont.FreeTypeFont:
    from stages import fonts

    font = fonts.font_of(family, weight)
    assert font is not None, family
    return ImageFont.truetype(font.fname, size, index=font.face_index)


def _own() -> str:
    from stages import fonts

    return fonts.OWN


def _runs(text: str) -> list[tuple[str, str]]:
    """The text cut where another family of fonts is needed: (family, piece); what no font has is drawn as a box."""
    from stages import fonts

    found = ((fonts.family_of(char) or fonts.OWN, char) for char in text)
    return [(family, "".join(char for _, char in piece)) for family, piece in groupby(found, key=lambda each: each[0])]


def _length(text: str, face: _Face) -> float:
    """Pixels that a line takes."""
    return sum(face(family).getlength(piece) for family, piece in _runs(text))


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, ink: str, face: _Face) -> None:
    """One line, or several, from their upper left corner; pieces in other fonts stand on the same base line."""
    base = face(_own()).getmetrics()[0]
    for number, line in enumerate(text.split("\n")):
        x, y = at[0], at[1] + base + number * 1.25 * base
        for family, piece in _runs(line):
            draw.text((x, y), piece, ink, face(family), anchor="ls")
            x += face(family).getlength(piece)


def _short(text: str, face: _Face, width: int) -> str:
    """One line of printable text that fits into `width` pixels."""
    line = visible(text)[:300]
    if _length(line, face) <= width:
        return line
    while line and _length(line + "…", face) > width:
        line = line[:-1]
    return line.rstrip() + "…"


def _wrapped(text: str, face: _Face, width: int) -> str:
    """Some lines of printable text, each of which fits into `width` pixels."""
    lines = [""]
    for word in text[:160].split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if _length(longer, face) <= width else [*lines, word]
    return "\n".join(_short(line, face, width) for line in lines if line)
