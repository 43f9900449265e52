"""What to take from the run, in five lines (`trainer.report.verdict`), and the notes of the run."""

import shlex
from collections.abc import Sequence

from trainer.checkpoints import kept_ranked
from trainer.report import several
from trainer.report.page.blocks import Block, Code, Facts, Fold, Section, Text
from trainer.report.page.dataset import DataSet
from trainer.report.verdict import verdict

TITLES = {
    "best": "Best method",
    "beside": "Beside it",
    "text": "What text was worth",
    "sure": "How sure",
    "next": "What next",
    "saw": "What was seen",
}


def section(of: DataSet) -> Section | None:
    """The verdict."""
    notes = of.record.notes
    if not of.judges_classes:
        return _without_a_class(of)
    found = verdict(of.record)
    blocks: list[Block] = [Facts([(TITLES.get(label, label), line) for label, line in found.said.items()])]
    if found.method is not None or kept_ranked(of.run):
        blocks.append(Code(use(of), f"How to use {found.method or of.best}"))
    return Section("verdict", "Verdict", [*blocks, *_folded(notes)])


def _without_a_class(of: DataSet) -> Section | None:
    """Of several classes an image, what is best there; else the notes alone."""
    notes = of.record.notes
    method, rows = several.lines(of.record)
    if method is None:
        return Section("verdict", "Notes", [Text(notes, points=True)]) if notes else None
    use = f"trainer predict FOLDER {_asked(of)}    # FOLDER: new images"
    return Section("verdict", "Verdict", [Facts(rows), Code(use, f"How to use {method}"), *_folded(notes)])


def _folded(notes: Sequence[str]) -> list[Block]:
    if not notes:
        return []
    return [Fold(f"{len(notes)} note{'s' * (len(notes) != 1)} of this run", [Text(notes, points=True)])]


def use(of: DataSet) -> str:
    """The commands that put the best method to use."""
    asked = _asked(of)
    return f"trainer predict FOLDER {asked}    # FOLDER: new images\ntrainer export --to DIR {asked}"


def _asked(of: DataSet) -> str:
    words = ["--dataset", shlex.quote(of.name)]
    if str(of.results) != "results":
        words += ["--results", shlex.quote(str(of.results))]
    return " ".join(words)
