"""How sure a classifier may be: its probabilities brought in line with what it gets right on images it has not seen.

One scalar a classifier, the temperature, divides its logits (Guo et al., "On calibration of modern neural networks",
ICML 2017): the likeliest class stays the same, only how sure it is changes. It is fitted on labelled images that the
classifier did not learn from; test images have no say.
"""

from trainer.confidence.distance import Distance
from trainer.confidence.held_out import Unseen, unseen
from trainer.confidence.measures import BINS, Observed, measures, observe, reliability
from trainer.confidence.temperature import Calibration, fit_temperature

__all__ = [
    "BINS", "Calibration", "Distance", "Observed", "Unseen", "fit_temperature", "measures", "observe",
    "reliability", "unseen",
]  # fmt: skip
