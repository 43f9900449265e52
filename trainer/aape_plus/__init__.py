"""The parts of AAPE+, this project's own method on top of the paper's; `trainer/methods/aape_plus.py` joins them."""

from trainer.aape_plus.attention import attended_by_each, attended_cosines
from trainer.aape_plus.gaussian import Gaussian, discriminant, discriminant_without, fit_gaussian
from trainer.aape_plus.ridge import Ridge, fit_ridge, leave_one_out, regression
from trainer.aape_plus.scores import Scores, similarity
from trainer.aape_plus.stacking import calibrated, weigh
from trainer.aape_plus.voices import Chosen, Voice, Voices

__all__ = [
    "Chosen",
    "Gaussian",
    "Ridge",
    "Scores",
    "Voice",
    "Voices",
    "attended_by_each",
    "attended_cosines",
    "calibrated",
    "discriminant",
    "discriminant_without",
    "fit_gaussian",
    "fit_ridge",
    "leave_one_out",
    "regression",
    "similarity",
    "weigh",
]
