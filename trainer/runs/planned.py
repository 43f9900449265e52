"""Which fits a run makes: every method of every protocol and seed, on its task, and what is left out with a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages import UserError
from stages.numbers import amount, most
from stages.params import Params
from stages.stores.artifacts import NO_LLM
from stages.text import counted
from trainer.data import Task, check_task
from trainer.data.draws import fewer
from trainer.data.features import Features, StoredFeatures
from trainer.protocols import Protocol
from trainer.runs.able import able_methods
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
    found, notes, dataset = [], [], inputs.known.dataset
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
    if not found:
        raise UserError("; ".join(dict.fromkeys(notes)))
    return found, list(dict.fromkeys(notes))


def _missing(inputs: Inputs, protocol: Protocol) -> str:
    """Why a data set has nothing that a protocol reads."""
    if protocol.reads == "classes" and inputs.labels is not None:
        return "its images may have several classes, which multi-label is for"
    if protocol.reads == "labels" and inputs.features is not None:
        return "its images have one class each, which few-shot is for"
    return f"the data set has no {protocol.reads}"


def planned(inputs: Inputs, protocols: Sequence[Protocol], params: Params) -> tuple[list[Planned], list[str]]:
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
            chosen, lacking = (
                able_methods(features, own, settings=params.train, registry=protocol.registry()) if own else ([], [])
            )
            notes += lacking
        else:
            chosen = protocol.methods(own, features, settings=params.trained)
        chosen, unfit = _taught(protocol, chosen)
        notes += unfit
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


def _taught(protocol: Protocol, chosen: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The methods that a protocol gives all they learn from, and lines on the others."""
    labels = [m for m in chosen if not protocol.gives_labels and not getattr(m, "without_labels", False)]
    late = protocol.gives_unlabelled == "judging"
    images = [
        m
        for m in chosen
        if getattr(m, "reads_unlabelled", False)
        and (protocol.gives_unlabelled is None or (late and not getattr(m, "waits", False)))
    ]
    lines = []
    if labels:
        names = ", ".join(method.name for method in labels)
        lines.append(f"{protocol.name}: no image is labelled: left out are methods that learn from labels: {names}")
    if images:
        names = ", ".join(method.name for method in images)
        lines.append(
            f"{protocol.name}: left out are methods that learn from images without labels, of which it gives none"
            f"{' beforehand' * late}: {names} (--protocols semi-supervised, unsupervised"
            f"{'' if late else ' or transductive'})"
        )
    return [method for method in chosen if method not in labels and method not in images], lines


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
