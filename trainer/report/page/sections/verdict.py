"""What to take from the run, in five lines (`trainer.report.verdict`)."""

from trainer.report.page.blocks import Facts, Section
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
    found = verdict(of.record)
    return Section("verdict", "Verdict", [Facts([(TITLES[label], getattr(found, label)) for label in LABELS])])
