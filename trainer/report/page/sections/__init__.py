"""The sections of the page, in its order. A further one is a file here that returns a `Section`, and a line below.

A section that has nothing to say of a data set returns None; one that lacks what it needs raises a UserError, and the
page says that it is left out and why.
"""

from collections.abc import Callable
from pathlib import Path

from trainer.report.page.blocks import Section
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections import (
    classes,
    confusion,
    data,
    errors,
    labels,
    language,
    methods,
    noise,
    prompts,
    provenance,
    reliability,
    retrieval,
    shots,
    studies,
    verdict,
)

OF_DATASET: dict[str, Callable[[DataSet], Section | None]] = {
    "Verdict": verdict.section,
    "Methods": methods.section,
    "Accuracy by shots": shots.section,
    "Accuracy by wrong labels": noise.section,
    "Confusion": confusion.section,
    "Classes": classes.section,
    "Confidence": reliability.section,
    "Worst errors": errors.section,
    "Several classes an image": labels.section,
    "Retrieval": retrieval.section,
    "Captions": language.captions,
    "Answers": language.answers,
    "The data": data.section,
    "Sentences": prompts.section,
    "Provenance": provenance.section,
}
"""Title -> what makes the section of one data set."""
OF_PAGE: dict[str, Callable[[Path], Section | None]] = {"Studies": studies.section}
"""Title -> what makes a section from the results folder, for all data sets at once."""
