"""`results/report.html`: everything that a run found, as one file that loads nothing and opens from disk.

A section is a file of `sections/` and a line in its `__init__.py`; it returns blocks (`blocks.py`), and `files/` shows
them: page.html, style.css, script.js. Class names and sentences are text of strangers: Jinja2 escapes all of it, what
the script reads is JSON with `<`, `>` and `&` escaped, and the page's own policy (CSP) forbids every script but its own
and all loading. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup, escape

from stages import UserError
from stages.files import write_text
from stages.stores.provenance import code_version
from trainer.report.page.blocks import Section
from trainer.report.page.dataset import DataSet
from trainer.report.page.readable import readable
from trainer.report.page.sections import OF_DATASET, OF_PAGE
from trainer.runs.record import RunRecord

FILES = Path(__file__).with_name("files")
PAGE = "report.html"
Of = TypeVar("Of", DataSet, Path)


@dataclass(frozen=True)
class Part:
    """One data set of the page.

    Attributes:
        id: of its anchor.
        left_out: titles of sections, and why they are not there.
    """

    id: str
    name: str
    about: str
    sections: list[Section]
    left_out: list[tuple[str, str]]


def write_page(records: Mapping[str, RunRecord], results: Path, cache: Path) -> Path:
    """Write `results/report.html`.

    Args:
        records: data set -> its run.
        cache: folder of the stores; what is not there any more is left out of the page, and the page says so.

    Raises:
        UserError: the file cannot be written.
    """
    parts = [_part(number, DataSet(record, results, cache)) for number, record in enumerate(records.values(), 1)]
    of_page, _ = _made(OF_PAGE, results)
    file = results / PAGE
    write_text(file, render(parts, of_page))
    return file


def render(parts: list[Part], of_page: list[Section]) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script = (FILES / "script.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, finalize=_printable,
        trim_blocks=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["spoken"] = spoken
    return environment.get_template("page.html").render(
        title="Results" + (f": {parts[0].name}" if len(parts) == 1 else ""),
        datasets=parts,
        of_page=of_page,
        version=code_version(),
        style=Markup((FILES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        json=json_for_script,
    )


def spoken(text: str) -> Markup:
    """A line of ours, escaped, with what stands between backticks set as code."""
    parts = [escape(_printable(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick of someone's name
        return escape(_printable(text))
    return Markup("").join(Markup(f"<code>{part}</code>") if at % 2 else part for at, part in enumerate(parts))


def json_for_script(value: Any) -> Markup:
    """JSON that no text in it can end or turn into HTML, for a `<script type="application/json">`."""
    text = json.dumps(_readable(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _readable(value: Any) -> Any:
    """The same with every control and direction character, and half of a character, written out."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list | tuple):
        return [_readable(each) for each in value]
    if isinstance(value, dict):
        return {key: _readable(each) for key, each in value.items()}
    return value


def _printable(value: Any) -> Any:
    """What Jinja2 prints: our own markup as it is, text with what cannot be seen written out."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(map(readable, value.split("\n")))


def _part(number: int, of: DataSet) -> Part:
    record = of.record
    sections, left_out = _made(OF_DATASET, of)
    classes = f"{record.classes} classes, " if record.classes else ""
    note = of.note and f"; {of.note}"
    about = f"{classes}encoder {record.encoder}, {record.seeds_text}{note}"
    return Part(f"d{number}", record.dataset, about, sections, left_out)


def _made(makers: Mapping[str, Callable[[Of], Section | None]], of: Of) -> tuple[list[Section], list[tuple[str, str]]]:
    """The sections that can be made, and why the others cannot."""
    sections: list[Section] = []
    reasons: dict[str, list[str]] = {}
    for title, make in makers.items():
        try:
            found = make(of)
        except UserError as error:
            reasons.setdefault(str(error), []).append(title)
            continue
        if found is not None:
            sections.append(found)
    return sections, [(", ".join(titles), reason) for reason, titles in reasons.items()]
