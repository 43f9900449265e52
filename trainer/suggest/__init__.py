"""What to label next: the images of a pool whose labels would add most."""

from trainer.suggest.known import Classifier, Known, known_of, quick, require_same, trained
from trainer.suggest.suggest import COLUMNS, Suggestion, sheet, suggest

__all__ = [
    "COLUMNS",
    "Classifier",
    "Known",
    "Suggestion",
    "known_of",
    "quick",
    "require_same",
    "sheet",
    "suggest",
    "trained",
]
