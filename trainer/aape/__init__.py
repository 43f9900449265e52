"""The paper's method: aggregator (eq. 1), generator h (eq. 2), classifier g (eq. 3, 4), their losses and their step.

`trainer/training.py` trains what stands here; `trainer/methods/aape.py` makes a method of it.
"""

from trainer.aape.aggregator import PromptTargets, build_aggregator
from trainer.aape.classifier import Classifier
from trainer.aape.learner import AAPELearner, Learners, Start, start_targets
from trainer.aape.schedule import distills, rates, schedule

__all__ = [
    "AAPELearner",
    "Classifier",
    "Learners",
    "PromptTargets",
    "Start",
    "build_aggregator",
    "distills",
    "rates",
    "schedule",
    "start_targets",
]
