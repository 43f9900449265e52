"""Fit every method of every protocol and seed; then, and only then, read the test split and judge.

`run` is the whole of `trainer run` as a function; `record.py` and `trainer/checkpoints.py` say what is written.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import UserError
from stages.command import progress
from stages.files import remove_tree, replaced_folder
from stages.lock import store_lock
from stages.params import Params
from stages.stores.provenance import code_version
from trainer.confidence import Calibration, Unseen, unseen
from trainer.data import Images
from trainer.data.captions import CaptionFeatures
from trainer.data.features import Features, Split
from trainer.ends import end_notes
from trainer.methods import check_names
from trainer.multilabel.features import LabelFeatures
from trainer.protocols import PROTOCOLS, Protocol, TestSplits, settled
from trainer.runs.choice import serving_protocol
from trainer.runs.fits import fit_or_load, processes
from trainer.runs.inputs import Inputs
from trainer.runs.judged import Finished, Fitted, Judged, judge
from trainer.runs.paired import pairs
from trainer.runs.planned import Planned, draw_notes, measurable, planned, tasks_of
from trainer.runs.record import (
    Confused,
    FitRecord,
    Origin,
    ProtocolRecord,
    RunRecord,
    Validation,
    number,
)
from trainer.runs.written import write

if TYPE_CHECKING:
    import numpy as np

CONFUSED = 3
"""Pairs of classes of a fit that the record names."""


def run(params: Params, inputs: Inputs, *, results: Path | None = None, jobs: int | None = None) -> RunRecord:
    """Fit and judge all that the settings ask for on one data set.

    Args:
        params: `evaluation` says which protocols, methods, shots and seeds; `train` how.
        inputs: see `trainer.runs.inputs.load_inputs`.
        results: where `runs/DATASET/` is written, and finished fits are kept until then, so that an interrupted run
            goes on where it was with the same outcome. None writes nothing.
        jobs: see `fit_and_judge`.

    Raises:
        UserError: an unknown name, a class with fewer images than shots, features that cannot be learned from, a
            folder that cannot be written, or that another run is writing.
    """
    if results is None:
        return fit_and_judge(params, inputs, jobs=jobs).record
    name = inputs.known.dataset
    kept, folder = results / ".fits" / name, results / "runs" / name
    with store_lock(folder, what=f"trainer run --dataset {name}", beside=kept):
        finished = fit_and_judge(params, inputs, jobs=jobs, keep=kept)
        with replaced_folder(folder) as new:
            write(finished, new)
        remove_tree(kept)
    return finished.record


def fit_and_judge(params: Params, inputs: Inputs, *, jobs: int | None = None, keep: Path | None = None) -> Finished:
    """`run` without its files: the predictors are still at hand.

    Args:
        jobs: processes that fit side by side; None takes one a core, and one alone on a GPU. Each computes with one
            thread, so the results are the same bytes for any number.
        keep: folder of finished fits. None keeps none.
    """
    known, asked = inputs.known, params.evaluation
    protocols = settled(asked, inputs.others)
    _require_methods(asked.methods, protocols)
    protocols, notes = measurable(inputs, protocols)
    plan, unable = planned(inputs, protocols, params, said=notes)
    notes += unable
    if asked.student_encoder is not None and not any(getattr(each.method, "reads_student", False) for each in plan):
        notes.append(f"--student-encoder {asked.student_encoder}: no method of this run reads it")
    tasks = tasks_of(inputs, plan)
    classifying = [protocol for protocol in protocols if protocol.reads == "classes"]
    drawing = [protocol for protocol in classifying if protocol.gives_labels]
    notes += draw_notes(inputs.features, drawing) if inputs.features is not None and drawing else []
    fits = [(each.method, tasks[each.protocol.key, each.seed, each.source], each.seed) for each in plan]
    long = any(protocol.long_fits for protocol in protocols)
    fitted = fit_or_load(fits, jobs=processes(known, len(fits), jobs, long=long), keep=keep, device=known.device)
    done = list(progress(fitted, what=f"training {known.dataset}", total=len(plan), unit="fit"))
    unseen_by = _unseen(inputs.features, plan, tasks, every=asked.checkpoints == "all")
    again = [
        (each.method, images.refit, each.seed)
        for each, images in zip(plan, unseen_by, strict=True)
        if images is not None and images.refit is not None
    ]
    refits = fit_or_load(again, jobs=processes(known, len(again), jobs), keep=keep, device=known.device)
    measured = list(_measured(plan, unseen_by, done, refits, inputs.features))
    notes += _calibrated_on(plan, [calibration for calibration, _ in measured])
    views = any(getattr(each.method, "reads_views", False) for each in plan)
    tests = TestSplits(views)  # from here on, and not before, a test split may be read
    judged = tuple(
        judge(Fitted(each, predictor, seconds, validation, calibration), inputs, tests)
        for each, (predictor, seconds), (calibration, validation) in zip(plan, done, measured, strict=True)
    )
    notes += [line for each in judged for line in each.score.notes]
    for protocol in protocols:
        notes += protocol.remarks(inputs.of(protocol.reads), tests)
    for protocol in protocols:
        own = [(each.plan.key, each.predictor.info) for each in judged if each.plan.protocol.key == protocol.key]
        notes += end_notes(own, where=protocol.key)
    notes = [*dict.fromkeys(notes), *_unmeasured(judged)]
    test = tests.of(inputs.features) if inputs.features is not None and classifying else None
    record = _record(params, inputs, protocols, notes, judged, tests)
    return Finished(record if test is None else _with_pairs(record, judged, test), inputs, judged, test)


def _require_methods(names: Sequence[str], protocols: Sequence[Protocol]) -> None:
    """Refuse names that no protocol of the run has, and say which protocols have them.

    Raises:
        UserError: one is none's.
    """
    registries = [protocol.registry() for protocol in protocols]
    known = {name for registry in registries for name in registry.names}
    for name in names:
        others = [each for each, protocol in PROTOCOLS.items() if name in protocol.registry().methods]
        if name not in known and others:
            have = " and ".join(dict.fromkeys(protocol.name for protocol in protocols))
            raise UserError(f"{name} is no method of {have}: --protocol {' or '.join(others)}", exit_code=2)
    check_names(names, registries)


def _unseen(
    features: Features | None, plan: Sequence[Planned], tasks: Mapping[tuple[str, int, str], Any], *, every: bool
) -> list[Unseen | None]:
    """For each fit the images that it is measured on before the test, where all classes are judged, or always."""
    left: dict[tuple[str, int], Images] = {}
    found: list[Unseen | None] = []
    for each in plan:
        key = each.protocol.key, each.seed
        if (
            features is None
            or each.protocol.reads != "classes"
            or each.protocol.learns_from_others
            or not (every or each.protocol.judges_all)
        ):
            found.append(None)
            continue
        if key not in left:
            left[key] = each.protocol.left_over(features, seed=each.seed)
        found.append(unseen(tasks[*key, each.source], left[key], seed=each.seed))
    return found


def _measured(
    plan: Sequence[Planned],
    unseen_by: Sequence[Unseen | None],
    done: Sequence[tuple[Any, float]],
    refits: Iterator[tuple[Any, float]],
    features: Features | None,
) -> Iterator[tuple[Calibration | None, Validation | None]]:
    """Calibration and validation of each fit; `refits` score images which the fit itself learned from."""
    for each, images, (predictor, _) in zip(plan, unseen_by, done, strict=True):
        if images is None or features is None:
            yield None, None
            continue
        scorer = predictor if images.refit is None else next(refits)[0]
        yield images.measured(scorer, each.protocol.text(features, each.source))


def _calibrated_on(plan: Sequence[Planned], calibrations: Sequence[Calibration | None]) -> list[str]:
    """A line on each protocol that judges confidence: which images its temperatures were fitted on."""
    lines = []
    for each, calibration in zip(plan, calibrations, strict=True):
        if not each.protocol.judges_all:
            continue
        if calibration is None:
            lines.append(
                f"{each.protocol.key}: probabilities are as the methods give them: no labelled image was held out to "
                "fit a temperature on"
            )
        else:
            lines.append(f"{each.protocol.key}: temperatures fitted on {calibration.images} {calibration.source}")
    return list(dict.fromkeys(lines))


def _unmeasured(fits: Sequence[Judged]) -> list[str]:
    """Lines on metrics that no test image was there for."""
    without: dict[str, dict[str, None]] = {}
    for judged in fits:
        for metric, value in judged.score.metrics.items():
            if number(value) is None:
                without.setdefault(judged.plan.protocol.key, {})[metric] = None
    return [f"{key}: not measured without test images: {', '.join(m)}" for key, m in without.items()]


def _with_pairs(record: RunRecord, fits: Sequence[Judged], test: Split) -> RunRecord:
    """The same record, with the methods of the protocol that serves compared on the same images."""
    key, actual = serving_protocol(record), test.images.labels
    if key is None:
        return record
    right: dict[str, dict[int, "np.ndarray"]] = {}
    for judged in fits:
        if judged.plan.protocol.key == key and judged.score.predictions is not None:
            found = (judged.score.predictions == actual).cpu().numpy()
            right.setdefault(judged.plan.key, {})[judged.plan.seed] = found
    return record.model_copy(update={"pairs": tuple(pairs(key, right))})


def _confused(judged: Judged, inputs: Inputs, tests: TestSplits) -> tuple[Confused, ...]:
    """The classes that a fit confused most."""
    if judged.score.predictions is None or inputs.features is None:
        return ()
    test, names = tests.of(inputs.features), inputs.features.class_names
    actual = test.images.labels.cpu()
    of = actual.bincount(minlength=len(names))
    wrong = judged.score.predictions.cpu() != actual
    found = Counter(zip(actual[wrong].tolist(), judged.score.predictions.cpu()[wrong].tolist(), strict=True))
    most = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:CONFUSED]
    return tuple(Confused(actual=names[a], predicted=names[p], images=n, of=int(of[a])) for (a, p), n in most)


def _record(
    params: Params, inputs: Inputs, protocols: Sequence[Protocol], notes: Sequence[str], fits: Sequence[Judged],
    tests: TestSplits,
) -> RunRecord:  # fmt: skip
    known, read = inputs.known, [inputs.of(kind) for kind in dict.fromkeys(each.reads for each in protocols)]
    sources = {each.plan.source for each in fits}
    said = [note for each in read if each is not None for note in each.notes_on(sources)]
    return RunRecord(
        dataset=known.dataset,
        encoder=known.encoder,
        notes=tuple(dict.fromkeys([*said, *notes])),
        sources=known.sources,
        classes=len(known.class_names),
        protocols={
            each.key: ProtocolRecord(
                name=each.name,
                shots=each.shots,
                up_to=each.up_to,
                title=each.title,
                headline=each.headline,
                noise=getattr(each, "noise", None),
            )
            for each in protocols
        },
        evaluation=params.evaluation,
        train=params.train,
        fits=tuple(
            FitRecord(
                protocol=judged.plan.protocol.key,
                method=judged.plan.key,
                source=judged.plan.source,
                seed=judged.plan.seed,
                metrics={name: number(value) for name, value in judged.score.metrics.items()},
                info=_info(judged),
                validation=judged.validation,
                confused=_confused(judged, inputs, tests),
            )
            for judged in fits
        ),
        test_images=max(len(tests.of(each).image_ids) for each in read if each is not None),
        origin=_origin(read, tests),
        timing=_timing(fits),
    )


def _info(judged: Judged) -> dict[str, str | bool | int | float | None]:
    """What was chosen, without seconds."""
    chosen: dict[str, str | bool | int | float | None] = {
        name: number(value) if isinstance(value, float) else value
        for name, value in judged.predictor.info.items()
        if not name.endswith("seconds")
    }
    found = judged.calibration
    if found is not None:
        chosen |= {"temperature": found.temperature, "calibrated_on": f"{found.images} {found.source}"}
    return chosen


def _origin(read: Sequence[Features | LabelFeatures | CaptionFeatures | None], tests: TestSplits) -> Origin:
    """Where the features come from; images without classes are counted a split."""
    known = next(each for each in read if each is not None)
    images: dict[str, tuple[int, ...]]
    if isinstance(known, Features):
        splits = {"train": known.train, "val": known.val, "test": tests.of(known)}
        images = {
            name: tuple(each.images.labels.bincount(minlength=len(known.class_names)).tolist())
            for name, each in splits.items()
        }
    elif isinstance(known, LabelFeatures):
        several = {"train": known.train, "val": known.val, "test": tests.of(known)}
        images = {name: tuple(each.images.counts.tolist()) for name, each in several.items()}
    else:
        pairs = {"train": known.train, "val": known.val, "test": tests.of(known)}
        images = {name: (len(each),) for name, each in pairs.items()}
    stored = known.stored if isinstance(known, LabelFeatures) else known if isinstance(known, Features) else None
    return Origin(
        source=known.source,
        licence=known.licence,
        images=images,
        prompts=stored.prompts if stored else {},
        contents=known.contents,
        code_version=code_version(),
        source_notes=stored.source_notes if stored else {},
    )


def _timing(fits: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """protocol -> method -> mean seconds of one fit."""
    found: dict[str, dict[str, list[float]]] = {}
    for judged in fits:
        found.setdefault(judged.plan.protocol.key, {}).setdefault(judged.plan.key, []).append(judged.seconds)
    return {protocol: {m: sum(v) / len(v) for m, v in by.items()} for protocol, by in found.items()}
