"""The parts of AAPE+, this project's own method on top of the paper's; `trainer/methods/aape_plus.py` joins them."""

from trainer.aape_plus.attention import attended_by_each, attended_cosines
from trainer.aape_plus.choice import calibrated, likeliest, negative_log_likelihood
from trainer.aape_plus.ridge import Ridge, class_scores, fit_ridge, leave_one_out

__all__ = [
    "Ridge",
    "attended_by_each",
    "attended_cosines",
    "calibrated",
    "class_scores",
    "fit_ridge",
    "leave_one_out",
    "likeliest",
    "negative_log_likelihood",
]
