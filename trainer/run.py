"""Fit every method of every protocol and seed; then, and only then, read the test split and judge.

`run` is the whole of `trainer run` as a function; `trainer/record.py` and `trainer/checkpoints.py` say what is written.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import UserError
from stages.artifacts import NO_LLM
from stages.command import progress, say
from stages.files import remove_tree, replaced_folder, write_text
from stages.lock import store_lock
from stages.numbers import amount, most
from stages.params import Params
from stages.provenance import code_version
from stages.sums import write_sums
from stages.text import counted
from trainer.able import able_methods
from trainer.captions import CaptionFeatures
from trainer.checkpoint import save_checkpoint
from trainer.checkpoints import EVERY, KEPT, folder_name
from trainer.choice import AT, serving_protocol
from trainer.confidence import Calibration, Distance, Observed, Unseen, measures, observe, reliability, unseen
from trainer.data import ClassText, Images, Task, check_task
from trainer.draws import fewer
from trainer.features import Features, Split, StoredFeatures
from trainer.fits import FinishedFits, timed_fit
from trainer.inputs import Inputs
from trainer.methods import check_names
from trainer.paired import pairs
from trainer.protocols import Protocol, Score, TestSplits, scores, settled
from trainer.record import (
    CLASSES,
    CURVES,
    OUTCOMES,
    PREDICTIONS,
    RELIABILITY,
    ClassCount,
    Confused,
    Curve,
    FitRecord,
    Origin,
    Outcome,
    Prediction,
    ProtocolRecord,
    Reliability,
    RunRecord,
    Validation,
    csv_text,
    number,
    save_record,
    write_lines,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

CONFUSED = 3
"""Pairs of classes of a fit that the record names."""
FITS_A_PROCESS = 12
"""Fewer fits than this a process are not worth starting it."""
LONG_FITS_AT_ONCE = 4
"""Processes that hold a language model each, where `--jobs` does not say."""


@dataclass(frozen=True)
class Planned:
    """One fit to be made.

    Attributes:
        source: the prompt source; `none` for a method that reads no prompts.
        key: the method's name in tables.
    """

    protocol: Protocol
    method: Any
    source: str
    key: str
    seed: int


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


def run(params: Params, inputs: Inputs, *, results: Path | None = None, jobs: int | None = None) -> RunRecord:
    """Fit and judge all that the settings ask for on one data set.

    Args:
        params: `evaluation` says which protocols, methods, shots and seeds; `train` how.
        inputs: see `trainer.inputs.load_inputs`.
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
    check_names(asked.methods, [protocol.registry() for protocol in protocols])
    protocols, notes = _measurable(inputs, protocols)
    plan, unable = _plan(inputs, protocols, params)
    notes += unable
    if not plan:
        raise UserError("; ".join(dict.fromkeys(notes)), exit_code=2)
    tasks = _tasks(inputs, plan)
    classifying = [protocol for protocol in protocols if protocol.reads == "classes"]
    notes += _spent(inputs.features, classifying) if inputs.features is not None and classifying else []
    fits = [(each.method, tasks[each.protocol.key, each.seed, each.source], each.seed) for each in plan]
    long = any(protocol.long_fits for protocol in protocols)
    fitted = _fit_or_load(fits, jobs=_jobs(known, len(fits), jobs, long=long), keep=keep, device=known.device)
    done = list(progress(fitted, what=f"training {known.dataset}", total=len(plan), unit="fit"))
    unseen_by = _unseen(inputs.features, plan, tasks, every=asked.checkpoints == "all")
    again = [
        (each.method, images.refit, each.seed)
        for each, images in zip(plan, unseen_by, strict=True)
        if images is not None and images.refit is not None
    ]
    refits = _fit_or_load(again, jobs=_jobs(known, len(again), jobs), keep=keep, device=known.device)
    measured = list(_measured(plan, unseen_by, done, refits, inputs.features))
    notes += _calibrated_on(plan, [calibration for calibration, _ in measured])
    tests = TestSplits()  # from here on, and not before, a test split may be read
    judged = tuple(
        _judge(Fitted(each, predictor, seconds, validation, calibration), inputs, tests)
        for each, (predictor, seconds), (calibration, validation) in zip(plan, done, measured, strict=True)
    )
    notes += [line for each in judged for line in each.score.notes]
    for protocol in protocols:
        notes += protocol.remarks(inputs.of(protocol.reads), tests)
    notes = [*dict.fromkeys(notes), *_unmeasured(judged)]
    test = tests.of(inputs.features) if inputs.features is not None and classifying else None
    record = _record(params, inputs, protocols, notes, judged, tests)
    return Finished(record if test is None else _with_pairs(record, judged, test), inputs, judged, test)


def _measurable(inputs: Inputs, protocols: Sequence[Protocol]) -> tuple[list[Protocol], list[str]]:
    """The protocols that this data set can be tested by, and lines on the others and on what cannot be measured.

    Raises:
        UserError: there is none.
    """
    found, notes, dataset = [], [], inputs.known.dataset
    for protocol in protocols:
        features = inputs.of(protocol.reads)
        reason = f"the data set has no {protocol.reads}" if features is None else protocol.unfit(features)
        textless = isinstance(features, Features) and not (features.has_templates or features.sources)
        if reason is None and protocol.serves_new_classes and textless:
            reason = "new classes are known by their text alone, and none is embedded"
        if reason is None:
            found.append(protocol)
            notes += protocol.caveats(features)
        else:
            notes.append(f"{dataset}: {protocol.name} is left out: {reason}")
    if not found:
        raise UserError("; ".join(dict.fromkeys(notes)))
    return found, list(dict.fromkeys(notes))


def _plan(inputs: Inputs, protocols: Sequence[Protocol], params: Params) -> tuple[list[Planned], list[str]]:
    """All fits, and lines on the methods that a protocol cannot judge.

    Raises:
        UserError: a method that was named lacks something.
    """
    plan, notes, asked = [], [], params.evaluation
    for protocol in protocols:
        features = inputs.of(protocol.reads)
        assert features is not None
        own = [name for name in asked.methods if name in protocol.registry().names]
        strange = [name for name in asked.methods if name not in own]
        if strange:
            notes.append(f"{protocol.name}: left out are methods of other protocols: {', '.join(strange)}")
        if isinstance(features, Features):
            chosen, lacking = able_methods(features, own, settings=params.train) if own else ([], [])
            notes += lacking
        else:
            chosen = protocol.methods(own, features, settings=params.trained)
        able = [method for method in chosen if not protocol.serves_new_classes or method.serves_new_classes]
        if len(able) < len(chosen):
            names = ", ".join(method.name for method in chosen if method not in able)
            notes.append(f"{protocol.name}: methods that know no class but their own are left out: {names}")
        plan += [
            Planned(protocol, method, source, key, seed)
            for seed in asked.seeds_for(features.dataset)
            for method in able
            for source, key in _sources(features, method)
        ]
    return plan, list(dict.fromkeys(notes))


def _tasks(inputs: Inputs, plan: Sequence[Planned]) -> dict[tuple[str, int, str], Any]:
    """(protocol, seed, source) -> its task, checked."""
    tasks: dict[tuple[str, int, str], Any] = {}
    for each in plan:
        key = each.protocol.key, each.seed, each.source
        if key not in tasks:
            tasks[key] = each.protocol.task(inputs.of(each.protocol.reads), each.source, seed=each.seed)
            if isinstance(tasks[key], Task):
                check_task(tasks[key])
    return tasks


def _unseen(
    features: Features | None, plan: Sequence[Planned], tasks: Mapping[tuple[str, int, str], Any], *, every: bool
) -> list[Unseen | None]:
    """For each fit the images that it is measured on before the test, where all classes are judged, or always."""
    left: dict[tuple[str, int], Images] = {}
    found: list[Unseen | None] = []
    for each in plan:
        key = each.protocol.key, each.seed
        if features is None or each.protocol.reads != "classes" or not (every or each.protocol.judges_all):
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


def _judge(fitted: Fitted, inputs: Inputs, tests: TestSplits) -> Judged:
    """Score a fit on the test split and, where all its images are judged, how far its probabilities can be trusted."""
    plan, features = fitted.plan, inputs.of(fitted.plan.protocol.reads)
    if not isinstance(features, Features):
        score = plan.protocol.score(fitted.predictor, features, plan.source, tests, new_classes=False)
        return Judged(**vars(fitted), score=score, seen=None)
    text = features.text[plan.source]
    new_classes = plan.method.serves_new_classes and text.is_text
    score = plan.protocol.score(fitted.predictor, features, plan.source, tests, new_classes=new_classes)
    seen = None
    if plan.protocol.judges_all:
        test = tests.of(features).images
        before, seen = (
            observe(scores(fitted.predictor, test, text), test.labels, temperature=temperature)
            for temperature in (1.0, _temperature(fitted))
        )
        confidence = measures(seen) | {f"uncalibrated_{name}": value for name, value in measures(before).items()}
        score = replace(score, metrics=score.metrics | confidence)
    return Judged(**vars(fitted), score=score, seen=seen)


def _temperature(fitted: Fitted) -> float:
    return 1.0 if fitted.calibration is None else fitted.calibration.temperature


def _jobs(features: StoredFeatures, fits: int, asked: int | None, *, long: bool = False) -> int:
    """Processes to start: none beside this one for a handful of fits, or where a GPU does the work.

    Args:
        long: each fit takes minutes, and a copy of a language model.
    """
    if features.device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0))
    if long:
        return max(1, min(asked or min(cores, LONG_FITS_AT_ONCE), fits))
    return min(asked or cores, max(1, fits // FITS_A_PROCESS))


def _fit_or_load(
    fits: Sequence[tuple[Any, Any, int]], *, jobs: int, keep: Path | None, device: "torch.device"
) -> Iterator[tuple[Any, float]]:
    """All fits, in their order: those that an interrupted run finished from disk, the others new, each kept at once."""
    if keep is None:
        yield from _fit_all(fits, jobs=jobs)
        return
    finished = FinishedFits(keep)
    files = [finished.file(*each) for each in fits]
    each_once = dict(zip(reversed(files), reversed(fits), strict=True))  # captioning and vqa learn the same
    kept = {file: finished.load(file, device=device) for file in files}  # once: the folder may be cleared meanwhile
    fresh = _fit_all([each_once[file] for file, found in kept.items() if found is None], jobs=jobs)
    for file in files:
        found = kept[file]
        if found is None:
            found = kept[file] = next(fresh)
            finished.keep(file, *found)
        yield found


def _fit_all(fits: Sequence[tuple[Any, Any, int]], *, jobs: int) -> Iterator[tuple[Any, float]]:
    """All fits, in their order, as they get ready."""
    if jobs == 1:
        return (timed_fit(*each) for each in fits)
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", inner_max_num_threads=1):
        ready: Iterator[tuple[Any, float]] = Parallel(n_jobs=jobs, return_as="generator")(
            delayed(timed_fit)(*each) for each in fits
        )
        return ready


def _spent(features: Features, protocols: Sequence[Protocol]) -> list[str]:
    """What to know of the draws: which classes give fewer images than others, where they leave no choice, and where
    validation images come from.
    """
    lines = []
    names = features.class_names
    counts = features.train.images.labels.bincount(minlength=len(names)).tolist()
    asked = sorted({protocol.shots: protocol.up_to for protocol in protocols}.items(), key=lambda each: most(each[0]))
    for shots, up_to in asked if features.indices is None else ():
        short = fewer(counts, max(counts) if shots == "all" else shots, names)
        if short:
            whole = f"{min(counts)} to {max(counts)} images a class, " if shots == "all" else ""
            lines.append(f"{amount(shots, up_to=up_to)}: {whole}{short}")
    shots, up_to = asked[-1]
    spent = sum(count <= most(shots) for count in counts)
    if spent and features.indices is None:
        lines.append(
            f"{amount(shots, up_to=up_to)}: of {counted(spent, 'class', 'classes')} these are all training images: "
            "there every seed trains on the same images, and the interval speaks of starting values, order and "
            "validation images alone"
        )
    if not len(features.val.image_ids):
        lines.append(
            f"{features.dataset} has no validation split: choices are made on training images that are no shots, "
            "drawn by seed, or on a part of the shots where none is left"
        )
    return lines


def _sources(features: StoredFeatures, method: Any) -> list[tuple[str, str]]:
    """The prompt sources a method is fitted with, and the names of the results."""
    if not getattr(method, "uses_prompts", False):
        return [(NO_LLM, method.name)]
    main, *others = features.sources or (NO_LLM,)
    return [(main, method.name), *((source, f"{method.name}{AT}{source}") for source in others)]


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
    said = [note for each in read if each is not None for note in _notes(each, sources)]
    return RunRecord(
        dataset=known.dataset,
        encoder=known.encoder,
        notes=tuple(dict.fromkeys([*said, *notes])),
        sources=known.sources,
        classes=len(known.class_names),
        protocols={
            each.key: ProtocolRecord(
                name=each.name, shots=each.shots, up_to=each.up_to, title=each.title, headline=each.headline
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


def _origin(read: Sequence[Features | CaptionFeatures | None], tests: TestSplits) -> Origin:
    """Where the features come from; images without classes are counted a split."""
    known = next(each for each in read if each is not None)
    images: dict[str, tuple[int, ...]]
    if isinstance(known, Features):
        splits = {"train": known.train, "val": known.val, "test": tests.of(known)}
        images = {
            name: tuple(each.images.labels.bincount(minlength=len(known.class_names)).tolist())
            for name, each in splits.items()
        }
    else:
        pairs = {"train": known.train, "val": known.val, "test": tests.of(known)}
        images = {name: (len(each),) for name, each in pairs.items()}
    return Origin(
        source=known.source,
        licence=known.licence,
        images=images,
        prompts=known.prompts if isinstance(known, Features) else {},
        contents=known.contents,
        code_version=code_version(),
        source_notes=known.source_notes if isinstance(known, Features) else {},
    )


def _notes(features: StoredFeatures, sources: Collection[str]) -> tuple[str, ...]:
    """The notes on what was read, and not those on prompt sources that no method reads."""
    return features.notes_on(sources) if isinstance(features, Features) else features.notes


def _timing(fits: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """protocol -> method -> mean seconds of one fit."""
    found: dict[str, dict[str, list[float]]] = {}
    for judged in fits:
        found.setdefault(judged.plan.protocol.key, {}).setdefault(judged.plan.key, []).append(judged.seconds)
    return {protocol: {m: sum(v) / len(v) for m, v in by.items()} for protocol, by in found.items()}


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
    return f"{kept}: few-shot, whose checkpoints serve where none is named, is not among the protocols"


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
    """Those of few-shot with the first seed and the most shots, one a method and prompt source; and those of the first
    seed of every protocol that judges no classifiers.
    """
    found = []
    for name in dict.fromkeys(each.plan.protocol.name for each in fits):
        able = [each for each in fits if each.plan.protocol.name == name]
        if name != "few-shot" and able[0].plan.protocol.reads == "classes":
            continue
        largest = max((each.plan.protocol.shots for each in able), key=most)
        found += [each for each in able if (each.plan.seed, each.plan.protocol.shots) == (able[0].plan.seed, largest)]
    return found


def _keep(judged: Judged, finished: Finished, folder: Path) -> None:
    """Write a checkpoint, and what it says of the test images where the protocol judged all of them."""
    plan, features = judged.plan, finished.inputs.of(judged.plan.protocol.reads)
    assert features is not None
    text = plan.protocol.text(features, plan.source) if isinstance(features, Features) else None
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
        "templates": list(features.templates) if isinstance(features, Features) else [],
        "notes": list(_notes(features, [plan.source])),
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
        if judged.score.predictions is not None:
            for image_id, label, predicted in zip(ids, actual, judged.score.predictions.tolist(), strict=True):
                yield Outcome(judged.plan.protocol.key, judged.plan.key, judged.plan.seed, image_id, label, predicted)


def _predictions(judged: Judged, test: Split, text: ClassText) -> Iterator[Prediction]:
    """Every test image; the predicted class is the one that was judged."""
    predicted = judged.score.predictions
    assert predicted is not None
    names, ids, actual = text.names, iter(test.image_ids), iter(test.images.labels.tolist())
    for start, logits in scores(judged.predictor, test.images, text):
        shares = (logits / _temperature(judged)).softmax(-1)
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
