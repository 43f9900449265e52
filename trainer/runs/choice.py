"""Which method serves: the one that is best on validation images, by the record of a run. Test images have no say.

The verdict, the report, `predict`, `explain` and `export` all ask here.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stages.numbers import most
from trainer.methods import METHODS
from trainer.runs.record import FitRecord, RunRecord, Validation

AT = "@"
"""Between a method and a prompt source that is not the main one: `cupl@written`."""


FEW_SHOT = "few-shot"
SERVING = (FEW_SHOT, "semi-supervised", "unsupervised")
"""Protocols that fit classifiers of new images; of a run those of the first that it has are kept."""


@dataclass(frozen=True)
class Ranked:
    """A method of a run, with what it showed on validation images.

    Attributes:
        name: as in tables.
        validation: mean over the seeds; None where nothing was held out.
        by_loss: whether its place is by the likelihood of these images, and not by how many were right.
    """

    name: str
    validation: Validation | None
    by_loss: bool = False


def serving_protocol(record: RunRecord) -> str | None:
    """Key of the protocol whose classifiers are kept, with the most shots; None where a run has none of `SERVING`."""
    name = first_serving({about.name for about in record.protocols.values()})
    found = [(most(about.shots), key) for key, about in record.protocols.items() if about.name == name]
    return max(found)[1] if found else None


def first_serving(names: Collection[str]) -> str | None:
    """The protocol whose classifiers are kept, among those of a run."""
    return next((name for name in SERVING if name in names), None)


def ranked(record: RunRecord, protocol: str | None = None) -> list[Ranked]:
    """The methods from best to worse; none where no protocol of `SERVING` was run.

    Args:
        protocol: the key of another one. But for few-shot, where a protocol has no images left that no choice was made
            on, the methods' own validation images stand in.

    Of few-shot accuracy counts, the mean over the seeds, then loss, then the order of the registry. Of other protocols
    loss counts, then accuracy: their images are mostly those that choices were made on, and who chooses most by counted
    images has most of them right. A method without a measure comes last.
    """
    serving = serving_protocol(record)
    measured = protocol is None and serving is not None and record.protocols[serving].name == FEW_SHOT
    protocol = protocol or serving
    by_loss = protocol is not None and record.protocols[protocol].name != FEW_SHOT
    by_method: dict[str, list[FitRecord]] = {}
    for fit in record.fits:
        if fit.protocol == protocol:
            by_method.setdefault(fit.method, []).append(fit)
            measured = measured or fit.validation is not None
    found = [
        Ranked(name, _mean([fit.validation if measured else _chosen_on(fit, record.dataset) for fit in fits]), by_loss)
        for name, fits in by_method.items()
    ]
    return sorted(found, key=lambda each: (*_badness(each), *place(each.name)))


def _chosen_on(fit: FitRecord, dataset: str) -> Validation | None:
    """What a fit noted of the validation images that it made its choices on."""
    accuracy, loss = fit.info.get("val_accuracy"), fit.info.get("val_loss")
    if not isinstance(accuracy, float):
        return None
    images = f"validation images of {dataset} that choices were made on"
    return Validation(accuracy=accuracy, loss=loss if isinstance(loss, float) else None, images=images)


def serving_labels(record: RunRecord) -> str | None:
    """Key of the protocol of several classes an image whose classifiers serve: multi-label, else with a long tail, with
    the most shots.
    """
    found = [
        (about.name == "multi-label", most(about.shots), key)
        for key, about in record.protocols.items()
        if about.name.startswith("multi-label")
    ]
    return max(found)[2] if found else None


class BestOfLabels(NamedTuple):
    """The method of several classes an image that serves.

    Attributes:
        mean: its mAP on what it was chosen by, over the seeds.
        on: what that is.
    """

    name: str
    mean: float
    on: str


def best_of_labels(record: RunRecord) -> BestOfLabels | None:
    """The method of several classes an image with the best mAP on images to choose by, or without any on sentences."""
    protocol = serving_labels(record)
    found: dict[str, list[float]] = {}
    for fit in record.fits:
        value = fit.info.get("val_map")
        if fit.protocol == protocol and isinstance(value, float):
            found.setdefault(fit.method, []).append(value)
    means = {name: math.fsum(values) / len(values) for name, values in found.items()}
    if not means or protocol is None:
        return None
    name, mean = max(means.items(), key=lambda each: each[1])
    by_words = record.protocols[protocol].shots == 0
    return BestOfLabels(name, mean, "sentences, alone and mixed" if by_words else "images to choose by")


def place(name: str) -> tuple[int, int, str]:
    """Methods in the order of the registry, the main prompt source first."""
    method, _, source = name.partition(AT)
    order = list(METHODS)
    return order.index(method) if method in order else len(order), bool(source), name


def _badness(of: Ranked) -> tuple[bool, float, float]:
    found = of.validation
    if found is None:
        return True, 0.0, 0.0
    loss = math.inf if found.loss is None else found.loss
    return (False, loss, -found.accuracy) if of.by_loss else (False, -found.accuracy, loss)


def _mean(measured: Sequence[Validation | None]) -> Validation | None:
    """Over the seeds; None where one of them has no measure."""
    found = [each for each in measured if each is not None]
    if not found or len(found) < len(measured):
        return None
    losses = [each.loss for each in found if each.loss is not None]
    return Validation(
        accuracy=round(math.fsum(each.accuracy for each in found) / len(found), 8),
        loss=round(math.fsum(losses) / len(losses), 6) if len(losses) == len(found) else None,
        images=found[0].images,
    )
