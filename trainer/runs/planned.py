"""Which fits a run makes: every method of every protocol and seed, on its task, and what is left out with a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stages import UserError
from stages.numbers import amount, most
from stages.params import Params
from stages.stores.artifacts import NO_LLM
from stages.text import counted
from trainer.data import Task, check_task
from trainer.data.draws import fewer
from trainer.data.features import Features, StoredFeatures
from trainer.protocols import PROTOCOLS, Protocol
from trainer.runs.able import able_methods, others
from trainer.runs.choice import AT
from trainer.runs.inputs import Inputs


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


def measurable(inputs: Inputs, protocols: Sequence[Protocol]) -> tuple[list[Protocol], list[str]]:
    """The protocols that this data set can be tested by, and lines on the others and on what cannot be measured.

    Raises:
        UserError: there is none.
    """
    found, notes, reasons, dataset = [], [], {}, inputs.known.dataset
    for protocol in protocols:
        features = inputs.of(protocol.reads)
        reason = _missing(inputs, protocol) if features is None else protocol.unfit(features)
        textless = isinstance(features, Features) and not (features.has_templates or features.sources)
        if reason is None and protocol.serves_new_classes and textless:
            reason = "new classes are known by their text alone, and none is embedded"
        if reason is None:
            found.append(protocol)
            notes += protocol.caveats(features)
        else:
            notes.append(f"{dataset}: {protocol.name} is left out: {reason}")
            reasons[protocol.name] = reason
    if not found:
        raise UserError("; ".join(f"{dataset}: {name} cannot be run: {reason}" for name, reason in reasons.items()))
    return found, list(dict.fromkeys(notes))


def _missing(inputs: Inputs, protocol: Protocol) -> str:
    """Why a data set has nothing that a protocol reads."""
    if protocol.reads == "classes" and inputs.labels is not None:
        return "its images may have several classes, which multi-label is for"
    if protocol.reads == "labels" and inputs.features is not None:
        return "its images have one class each, which few-shot is for"
    return f"the data set has no {protocol.reads}"


def planned(
    inputs: Inputs, protocols: Sequence[Protocol], params: Params, *, said: Sequence[str] = ()
) -> tuple[list[Planned], list[str]]:
    """All fits, and lines on the methods that a protocol cannot judge.

    Args:
        said: lines of `measurable`, which may be the reason why there is no fit.

    Raises:
        UserError: a method that was named lacks something, or no protocol can judge any.
    """
    plan, notes, mends, asked = [], [], [], params.evaluation
    for protocol in protocols:
        features = inputs.of(protocol.reads)
        assert features is not None
        own = [name for name in asked.methods if name in protocol.registry().names]
        strange = [name for name in asked.methods if name not in own]
        if strange:
            notes.append(f"{protocol.name}: left out are methods of other protocols: {', '.join(strange)}")
        judged = partial(_judged, protocol)
        if isinstance(features, Features):
            registry, settings = protocol.registry(), params.train
            chosen, lacking = (
                able_methods(features, own, settings=settings, registry=registry, judged=judged) if own else ([], [])
            )
            notes += lacking
            if not any(map(judged, chosen)):
                mends.append(_instead(protocol, features, params))
        else:
            chosen = protocol.methods(own, features, settings=params.trained)
            notes += protocol.lacking(own, features, settings=params.trained)
        notes += _left_out(protocol, chosen)
        able = [method for method in chosen if judged(method)]
        plan += [
            Planned(protocol, method, source, key, seed)
            for seed in asked.seeds_for(features.dataset)
            for method in able
            for source, key in _sources(features, method)
        ]
    if not plan:
        raise UserError("; ".join(dict.fromkeys([*said, *notes, *filter(None, mends)])), exit_code=2)
    return plan, list(dict.fromkeys(notes))


def _ungiven(protocol: Protocol | type[Protocol], method: Any, *, labels: bool) -> str | None:
    """What a protocol does not give a method: labels, images without labels, or new classes that it can serve."""
    if not labels and not getattr(method, "without_labels", False):
        return "labels"
    late = protocol.gives_unlabelled == "judging" and not getattr(method, "waits", False)
    if getattr(method, "reads_unlabelled", False) and (protocol.gives_unlabelled is None or late):
        return "unlabelled"
    return "new" if protocol.serves_new_classes and not method.serves_new_classes else None


def _judged(protocol: Protocol, method: Any) -> bool:
    """Whether a protocol can judge a method and gives it all that it learns from."""
    return _ungiven(protocol, method, labels=protocol.gives_labels) is None


def _left_out(protocol: Protocol, chosen: Sequence[Any]) -> list[str]:
    """Lines on the methods that a protocol cannot judge."""
    by_reason: dict[str, list[Any]] = {}
    for method in chosen:
        if reason := _ungiven(protocol, method, labels=protocol.gives_labels):
            by_reason.setdefault(reason, []).append(method)
    return [_reason(protocol, reason, methods) for reason, methods in by_reason.items()]


def _reason(protocol: Protocol, reason: str, methods: Sequence[Any]) -> str:
    names = ", ".join(method.name for method in methods)
    if reason == "labels":
        return f"{protocol.name}: no image is labelled: left out are methods that learn from labels: {names}"
    if reason == "new":
        return f"{protocol.name}: methods that know no class but their own are left out: {names}"
    places = [
        name
        for name, each in PROTOCOLS.items()
        if each.gives_unlabelled and all(_ungiven(each, method, labels=False) is None for method in methods)
    ]
    listed = " or ".join([", ".join(places[:-1]), *places[-1:]] if len(places) > 1 else places)
    none = f"of which it gives none{' beforehand' * (protocol.gives_unlabelled == 'judging')}"
    return (
        f"{protocol.name}: left out are methods that learn from images without labels, {none}: {names} "
        f"(--protocols {listed})"
    )


def _instead(protocol: Protocol, features: Features, params: Params) -> str:
    """Methods that a protocol can judge, where it can judge none of those that are asked for."""
    found = others(
        features, settings=params.train, registry=protocol.registry(), judged=partial(_judged, protocol)
    )  # fmt: skip
    return f"choose others for {protocol.name}: --methods {','.join(found)}" if found else ""


def tasks_of(inputs: Inputs, plan: Sequence[Planned]) -> dict[tuple[str, int, str], Any]:
    """(protocol, seed, source) -> its task, checked."""
    tasks: dict[tuple[str, int, str], Any] = {}
    for each in plan:
        key = each.protocol.key, each.seed, each.source
        if key not in tasks:
            tasks[key] = each.protocol.task(inputs.of(each.protocol.reads), each.source, seed=each.seed)
            if isinstance(tasks[key], Task):
                check_task(tasks[key])
    return tasks


def draw_notes(features: Features, protocols: Sequence[Protocol]) -> list[str]:
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
