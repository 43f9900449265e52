"""What a run leaves in its folder: the record, curves, outcomes, and the classifiers that are kept."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.command import say
from stages.files import write_text
from stages.numbers import most
from stages.sums import write_sums
from trainer.checkpoint import save_checkpoint
from trainer.checkpoints import EVERY, KEPT, folder_name
from trainer.confidence import Distance, reliability, unseen
from trainer.data import ClassText
from trainer.data.features import Features, Split, StoredFeatures
from trainer.multilabel.features import LabelFeatures
from trainer.protocols import scores
from trainer.runs.choice import SERVING, first_serving
from trainer.runs.judged import Finished, Judged, temperature_of
from trainer.runs.record import (
    CLASSES,
    CURVES,
    OUTCOMES,
    PREDICTIONS,
    RELIABILITY,
    ClassCount,
    Curve,
    Outcome,
    Prediction,
    Reliability,
    csv_text,
    save_record,
    write_lines,
)


def write(finished: Finished, folder: Path) -> None:
    """Write the files of one data set into an empty folder."""
    save_record(finished.record, folder)
    write_lines(folder / CURVES, Curve, _curves(finished))
    write_lines(folder / OUTCOMES, Outcome, _outcomes(finished))
    kept = first_fits(finished.fits)
    first = {id(judged) for judged in kept}
    lines = [line for each in kept if each.seen is not None for line in reliability(each.seen, method=each.plan.key)]
    if lines:
        write_lines(folder / RELIABILITY, Reliability, lines)
    _write_sheets(finished, folder)
    if not first:
        say(f"{finished.record.dataset}: {_none_serves(every=finished.record.evaluation.checkpoints == 'all')}")
    for judged in finished.fits:
        plan = judged.plan
        if id(judged) in first:
            own = () if plan.protocol.reads == "classes" else (plan.protocol.key,)
            _keep(judged, finished, folder.joinpath(KEPT, *own, folder_name(plan.key)))
        elif finished.record.evaluation.checkpoints == "all":
            _keep(judged, finished, folder / EVERY / plan.protocol.key / f"seed-{plan.seed}" / folder_name(plan.key))
    write_sums(folder)


def _none_serves(*, every: bool) -> str:
    """A line on a run whose checkpoints no command takes by itself."""
    kept = f"its checkpoints lie in {EVERY}/, for --checkpoint DIR" if every else "no checkpoint is kept"
    return f"{kept}: none of {', '.join(SERVING)}, whose checkpoints serve where none is named, is among the protocols"


def _write_sheets(finished: Finished, folder: Path) -> None:
    """The lines on single test examples, of the first seed of each protocol."""
    rows: dict[str, tuple[tuple[str, ...], list[Sequence[Any]]]] = {}
    first: dict[str, int] = {}
    for judged in finished.fits:
        plan = judged.plan
        if first.setdefault(plan.protocol.key, plan.seed) != plan.seed:
            continue
        for name, sheet in judged.score.sheets.items():
            _, lines = rows.setdefault(name, (("protocol", "method", "seed", *sheet.columns), []))
            lines += [(plan.protocol.key, plan.key, plan.seed, *row) for row in sheet.rows]
    for name, (header, lines) in rows.items():
        write_text(folder / name, csv_text(header, lines))


def first_fits(fits: Sequence[Judged]) -> list[Judged]:
    """Those of the protocol that serves with the first seed and the most shots, one a method and prompt source; and
    those of the first seed of every protocol that judges no classifiers. What looks through a second encoder serves no
    new images.
    """
    found = []
    serves = first_serving({each.plan.protocol.name for each in fits})
    fits = [each for each in fits if not hasattr(each.predictor, "student_logits")]
    for name in dict.fromkeys(each.plan.protocol.name for each in fits):
        able = [each for each in fits if each.plan.protocol.name == name]
        if name != serves and able[0].plan.protocol.reads == "classes":
            continue
        largest = max((each.plan.protocol.shots for each in able), key=most)
        found += [each for each in able if (each.plan.seed, each.plan.protocol.shots) == (able[0].plan.seed, largest)]
    return found


def _keep(judged: Judged, finished: Finished, folder: Path) -> None:
    """Write a checkpoint, and what it says of the test images where the protocol judged all of them."""
    plan, features = judged.plan, finished.inputs.of(judged.plan.protocol.reads)
    assert features is not None
    text = plan.protocol.text(features, plan.source) if isinstance(features, Features | LabelFeatures) else None
    stored = features.stored if isinstance(features, LabelFeatures) else features
    provenance = {
        "dataset": features.dataset,
        "encoder": features.encoder,
        "encoder_fingerprint": features.encoder_fingerprint,
        "width": features.width,
        "name": plan.key,
        "method": plan.method.name,
        "source": plan.source,
        "protocol": plan.protocol.key,
        "seed": plan.seed,
        "shots": plan.protocol.shots,
        "up_to": plan.protocol.up_to,
        "validation": None if judged.validation is None else judged.validation.model_dump(),
        "templates": list(stored.templates) if isinstance(stored, Features) else [],
        "notes": list(features.notes_on([plan.source])),
    }
    served = plan.protocol.served(judged.predictor)
    save_checkpoint(
        folder, served, text, provenance=provenance, calibration=judged.calibration,
        distance=_distance(judged, features),
    )  # fmt: skip
    if judged.score.predictions is not None and finished.test is not None and text is not None:
        lines = list(_predictions(judged, finished.test, text))
        write_lines(folder / PREDICTIONS, Prediction, lines)
        write_lines(folder / CLASSES, ClassCount, _by_class(lines, text.names))


def _distance(judged: Judged, features: StoredFeatures) -> Distance | None:
    """How far images of its classes lie from what it learned from; None where none was held out."""
    plan = judged.plan
    if judged.calibration is None or not isinstance(features, Features):
        return None
    task = plan.protocol.task(features, plan.source, seed=plan.seed)
    images = unseen(task, plan.protocol.left_over(features, seed=plan.seed), seed=plan.seed)
    return None if images is None else images.distance(task.train)


def _curves(finished: Finished) -> Iterator[Curve]:
    for judged in finished.fits:
        for entry in judged.predictor.history:
            yield Curve(
                judged.plan.protocol.key, judged.plan.key, judged.plan.seed, entry.get("epoch"), entry.get("loss"),
                entry.get("loss_task"), entry.get("loss_distill"),
            )  # fmt: skip


def _outcomes(finished: Finished) -> Iterator[Outcome]:
    if finished.test is None:
        return
    ids, actual = finished.test.image_ids, finished.test.images.labels.tolist()
    for judged in finished.fits:
        found = judged.score.within if judged.score.predictions is None else judged.score.predictions
        if found is not None:
            for image_id, label, predicted in zip(ids, actual, found.tolist(), strict=True):
                yield Outcome(judged.plan.protocol.key, judged.plan.key, judged.plan.seed, image_id, label, predicted)


def _predictions(judged: Judged, test: Split, text: ClassText) -> Iterator[Prediction]:
    """Every test image; the predicted class is the one that was judged."""
    predicted = judged.score.predictions
    assert predicted is not None
    names, ids, actual = text.names, iter(test.image_ids), iter(test.images.labels.tolist())
    for start, logits in scores(judged.predictor, test.images, text):
        shares = (logits / temperature_of(judged)).softmax(-1)
        first = predicted[start : start + len(shares), None]
        most = shares.gather(1, first)
        others, second = shares.scatter(1, first, -1).max(1)
        for found, share, other, runner_up in zip(
            first[:, 0].tolist(), most[:, 0].tolist(), others.tolist(), second.tolist(), strict=True
        ):
            yield Prediction(
                next(ids), names[next(actual)], names[found], round(share, 6), names[runner_up], round(other, 6)
            )


def _by_class(lines: Sequence[Prediction], names: Sequence[str]) -> Iterator[ClassCount]:
    images, right = (
        Counter(line.actual for line in some)
        for some in (lines, [line for line in lines if line.actual == line.predicted])
    )
    for name in names:
        accuracy = round(right[name] / images[name], 6) if images[name] else None
        yield ClassCount(name, images[name], right[name], accuracy)
