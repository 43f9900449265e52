"""A fit judged on the test split, and how far its probabilities can be trusted there."""

from dataclasses import dataclass, replace
from typing import Any

from trainer.confidence import Calibration, Observed, measures, observe
from trainer.data.features import Features, Split
from trainer.protocols import Score, TestSplits, scores
from trainer.runs.inputs import Inputs
from trainer.runs.planned import Planned
from trainer.runs.record import RunRecord, Validation
from trainer.runs.scoring import remembering


@dataclass(frozen=True)
class Fitted:
    """A fit that was planned and made.

    Attributes:
        validation: None where nothing was held out.
        calibration: None where no labelled image was there that it did not learn from, or where nobody asks for it.
    """

    plan: Planned
    predictor: Any
    seconds: float
    validation: Validation | None
    calibration: Calibration | None


@dataclass(frozen=True)
class Judged(Fitted):
    """A fit that was judged on the test split.

    Attributes:
        seen: the test images under the calibrated probabilities, where the protocol judges all of them; else None.
    """

    score: Score
    seen: Observed | None


@dataclass(frozen=True)
class Finished:
    """All fits of a data set, in memory.

    Attributes:
        test: the classified test split of the data set itself; None where no protocol classifies.
    """

    record: RunRecord
    inputs: Inputs
    fits: tuple[Judged, ...]
    test: Split | None


def judge(fitted: Fitted, inputs: Inputs, tests: TestSplits) -> Judged:
    """Score a fit on the test split and, where all its images are judged, how far its probabilities can be trusted."""
    plan, features = fitted.plan, inputs.of(fitted.plan.protocol.reads)
    protocol = plan.protocol.seeded(plan.seed)
    if not isinstance(features, Features):
        score = protocol.score(fitted.predictor, features, plan.source, tests, new_classes=False)
        return Judged(**vars(fitted), score=score, seen=None)
    text = features.text[plan.source]
    new_classes = plan.method.serves_new_classes and text.is_text
    predictor = remembering(fitted.predictor)
    score = protocol.score(predictor, features, plan.source, tests, new_classes=new_classes)
    seen = None
    if plan.protocol.judges_all:
        test = tests.of(features).images
        before, seen = (
            observe(scores(predictor, test, text), test.labels, temperature=temperature)
            for temperature in (1.0, temperature_of(fitted))
        )
        confidence = measures(seen) | {f"uncalibrated_{name}": value for name, value in measures(before).items()}
        score = replace(score, metrics=score.metrics | confidence)
    return Judged(**vars(fitted), score=score, seen=seen)


def temperature_of(fitted: Fitted) -> float:
    """Its logits are divided by this; 1 where nothing was fitted."""
    return 1.0 if fitted.calibration is None else fitted.calibration.temperature
