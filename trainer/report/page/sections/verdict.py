"""What to take from the run, in a few lines."""

from stages import UserError
from trainer.report.page.blocks import Section, Text
from trainer.report.page.dataset import DataSet
from trainer.report.tables import cell, most_shots

BASELINE = "logistic"


def section(of: DataSet) -> Section | None:
    """The method that is best on validation images, and logistic regression beside it."""
    key = {about.name: key for key, about in most_shots(of.record).items()}.get("few-shot")
    if key is None:
        raise UserError("few-shot was not among the protocols")
    best = of.best
    by_method = of.estimates[key]
    lines = [
        f"Best on validation images: {best.name}. Its accuracy on the test images: "
        f"{cell(by_method.get(best.name, {}).get('accuracy'))} %."
    ]
    if best.name != BASELINE and BASELINE in by_method:
        lines.append(f"Logistic regression on the same features: {cell(by_method[BASELINE].get('accuracy'))} %.")
    return Section("verdict", "Verdict", [Text(lines)])
