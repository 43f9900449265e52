"""What to take from the run, in five lines (`trainer.report.verdict`), and the notes of the run."""

import shlex

from trainer.report.page.blocks import Block, Code, Facts, Fold, Section, Text
from trainer.report.page.dataset import DataSet
from trainer.report.verdict import LABELS, verdict

TITLES = {
    "best": "Best method",
    "beside": "Beside it",
    "text": "What text was worth",
    "sure": "How sure",
    "next": "What next",
}


def section(of: DataSet) -> Section | None:
    """The verdict."""
    notes = of.record.notes
    if not of.judges_classes:
        return Section("verdict", "Notes", [Text(notes, points=True)]) if notes else None
    found = verdict(of.record)
    blocks: list[Block] = [Facts([(TITLES[label], getattr(found, label)) for label in LABELS])]
    if found.method is not None:
        blocks.append(Code(use(of), f"How to use {found.method}"))
    if notes:
        blocks.append(Fold(f"{len(notes)} note{'s' * (len(notes) != 1)} of this run", [Text(notes, points=True)]))
    return Section("verdict", "Verdict", blocks)


def use(of: DataSet) -> str:
    """The commands that put the best method to use."""
    words = ["--dataset", shlex.quote(of.name)]
    if str(of.results) != "results":
        words += ["--results", shlex.quote(str(of.results))]
    asked = " ".join(words)
    return f"trainer predict FOLDER {asked}    # FOLDER: new images\ntrainer export --to DIR {asked}"
