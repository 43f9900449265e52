"""Articles of a MediaWiki XML export (a Wikipedia dump), one after the other, packed by bzip2 or not.

The file is read once from front to back in pieces, so that memory does not grow with it. An export has no DTD: one that
has is refused, and with it entities that unfold without end or name other files.
"""

import bz2
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from xml.parsers import expat

from stages.errors import UserError

PIECE = 2**20
LONGEST = 2**24
"""Characters of an article at most; MediaWiki takes 2 MB."""
DEEPEST = 32
"""Elements inside each other; an export has six."""
MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x1f\x8b": "packed by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\xfd7zXZ": "packed by xz",
    b"PK": "a zip archive",
    b"PAR1": "a Parquet file",
}
EXPECTED = "expected a MediaWiki XML export, .xml or .xml.bz2"


@dataclass(frozen=True)
class Page:
    """An article.

    Attributes:
        redirect: the title that it sends to; None where it has a text of its own.
        text: with its markup; empty of a redirect.
    """

    title: str
    redirect: str | None
    text: str


def is_dump(file: Path) -> bool:
    """Whether a file is named like a dump, or like a packed one, which is then refused by what it is."""
    return file.name.lower().endswith((".xml", ".bz2", ".xml.gz", ".xml.7z", ".xml.zst", ".xml.xz", ".xml.zip"))


def pages(file: Path) -> Iterator[Page]:
    """The articles (name space 0) of an export, with the last revision of each.

    Raises:
        UserError: missing, unreadable, cut off, packed in another way, not XML, or not an export; the line where it can
            be said.
    """
    reader = _Reader(file)
    try:
        with _open(file) as stream:
            while piece := stream.read(PIECE):
                yield from reader.feed(piece)
            yield from reader.feed(b"", last=True)
    except EOFError as error:
        raise UserError(f"{file}: ends in the middle: it was cut off; get it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{file}: cannot be read ({reason}); {EXPECTED}") from error


def _open(file: Path) -> BinaryIO | bz2.BZ2File:
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found") from error
    for magic, what in MAGIC.items():
        if start.startswith(magic):
            raise UserError(f"{file}: is {what}; {EXPECTED}: unpack it first")
    return bz2.open(file) if start.startswith(b"BZh") else file.open("rb")


class _Reader:
    """What expat finds, gathered into pages."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.path: list[str] = []
        self.page: dict[str, str] = {}
        self.parts: list[str] | None = None
        self.length = 0
        self.found: list[Page] = []

    def feed(self, piece: bytes, *, last: bool = False) -> list[Page]:
        """The pages that end in this piece."""
        try:
            self.parser.Parse(piece, last)
        except expat.ExpatError as error:
            where = f"{self.file}, line {error.lineno}"
            if last:
                raise UserError(f"{where}: the XML ends in the middle: it was cut off; get it again") from error
            raise UserError(f"{where}: not readable as XML ({expat.ErrorString(error.code)}); {EXPECTED}") from error
        found, self.found = self.found, []
        return found

    def _doctype(self, *_: object) -> None:
        line = self.parser.CurrentLineNumber
        raise UserError(f"{self.file}, line {line}: holds a DTD, which no export has; {EXPECTED}")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        if not self.path and tag != "mediawiki":
            raise UserError(f"{self.file}: its outermost element is <{tag[:40]}>; {EXPECTED}, which begins <mediawiki>")
        if len(self.path) == DEEPEST:
            raise UserError(f"{self.file}, line {self.parser.CurrentLineNumber}: elements too deep; {EXPECTED}")
        self.path.append(tag)
        inside = self.path[1:]
        if inside == ["page"]:
            self.page = {}
        elif inside == ["page", "redirect"]:
            self.page["redirect"] = attributes.get("title", "")
        elif inside in (["page", "title"], ["page", "ns"], ["page", "revision", "text"]):
            self.parts, self.length = [], 0

    def _characters(self, text: str) -> None:
        if self.parts is None:
            return
        self.length += len(text)
        if self.length > LONGEST:
            title = self.page.get("title", "?")
            raise UserError(f"{self.file}: page {title!r:.80}: more than {LONGEST} characters; {EXPECTED}")
        self.parts.append(text)

    def _end(self, name: str) -> None:
        tag = self.path.pop()
        if self.parts is not None:
            self.page[tag] = "".join(self.parts)
            self.parts = None
        if self.path[1:] or tag != "page":
            return
        page, title = self.page, self.page.get("title", "").strip()
        if title and page.get("ns", "0").strip() == "0":
            redirect = page.get("redirect")
            self.found.append(Page(title, redirect, page.get("text", "") if redirect is None else ""))
