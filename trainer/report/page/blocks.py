"""What a section is made of: a few kinds of blocks, each of which `files/page.html` knows how to show.

A section needs no template of its own. All text is plain text; it is escaped when the page is rendered. The one
exception is the SVG of a chart, which `trainer.report.page.charts` has drawn and checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Text:
    """Paragraphs, or a list of points."""

    lines: Sequence[str]
    points: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        number: set right, and sorted from the largest at the first click.
        code: set as a name that is typed.
    """

    title: str
    number: bool = False
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, and what it is sorted by where that is not the text.

    Attributes:
        share: fraction of 1, drawn as a bar behind the number.
    """

    text: str
    order: float | None = None
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with sortable columns.

    Attributes:
        caption: what it shows; the name by which a screen reader finds it.
        filtered: the rows can be searched.
        first: rows that are shown before a button shows the rest; None shows all.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    filtered: bool = False
    first: int | None = None
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A picture that was drawn as SVG; what it shows stands in a table or text beside it too.

    Attributes:
        whole: never made smaller, since its text is small already; a narrow page scrolls it.
    """

    svg: Markup
    caption: str
    whole: bool = False
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Code:
    """Commands, or a file; shown as they are."""

    text: str
    label: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when their heading is pressed."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "fold"


@dataclass(frozen=True)
class Picture:
    """A small picture, as a data URI."""

    source: str
    about: str
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Card:
    """One image, or what stands for it, with what opens on click.

    Attributes:
        picture: a data URI of a small JPEG; None where there is none.
        lines: below the picture, the first one stronger.
        blocks: what opens; without any the card does not open.
    """

    title: str
    picture: str | None
    lines: Sequence[str]
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Cards:
    """Cards side by side, which can be searched."""

    caption: str
    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Browser:
    """Rows that the script lists, searches and sorts: too many to lie in the page as elements.

    Attributes:
        data: for `files/script.js`.
    """

    caption: str
    data: dict[str, Any]
    kind: ClassVar[str] = "browser"


Block = Text | Table | Chart | Facts | Code | Fold | Picture | Cards | Browser


@dataclass(frozen=True)
class Section:
    """One section of a data set, or of the page.

    Attributes:
        key: of its anchor; letters and dashes.
        lead: one or two sentences on how to read it.
    """

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    lead: str = ""
