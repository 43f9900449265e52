"""What a run without few-shot says of each of its protocols: the method that is best on validation images, where there
are any, its control, and what the methods saw of the test split.
"""

from __future__ import annotations

import shlex

from stages.numbers import Shots, most
from stages.params import Params
from trainer.protocols import PROTOCOLS
from trainer.report.several import gain, percent
from trainer.runs.choice import ranked
from trainer.runs.record import RunRecord, summarize

CONTROLS = {
    "semi-supervised": ("aape-plus", "cones", "logistic", "zero-shot"),
    "unsupervised": ("zero-shot",),
    "transductive": ("aape-plus", "cones", "logistic", "zero-shot"),
    "long-tailed": ("logistic", "zero-shot"),
    "multitask": ("multitask-alone", "aape", "zero-shot"),
    "meta": ("aape", "zero-shot"),
    "label-noise": ("logistic", "zero-shot"),
    "base-to-new": ("zero-shot",),
    "cross-dataset": ("zero-shot",),
    "domain-generalization": ("zero-shot",),
}
"""Protocol -> what its methods are to be compared with, the closest first."""
ABOUT = {
    "aape-plus": ", which learns from the labelled images alone",
    "cones": ", which learns from the labelled images alone",
    "logistic": ", regression on the labelled images alone",
    "zero-shot": ", which learns from no image",
    "multitask-alone": ", the same steps on each data set alone",
}


def lines(record: RunRecord) -> dict[str, str]:
    """Label -> line: `best`, `beside`, `saw` of the protocol; of several, each with its name, by the most shots.

    Of several shares of wrong labels each has its lines.
    """
    found: dict[str, str] = {}
    keys: dict[tuple[str, float | None], str] = {}
    for key, about in sorted(record.protocols.items(), key=lambda each: most(each[1].shots)):
        if about.name in CONTROLS and any(fit.protocol == key for fit in record.fits):
            keys[about.name, about.noise] = key
    shares = {share for _, share in keys if share is not None}
    for (name, share), key in keys.items():
        own = {"best": _best(record, key), "beside": _beside(record, key), "saw": _saw(record, key)}
        said = name if share is None or len(shares) == 1 else f"{name} of {100 * share:g} %"
        found |= own if len(keys) == 1 else {f"{said}, {label}": line for label, line in own.items()}
    return found


def few_shot(record: RunRecord) -> str:
    """The command that fits classifiers which can be used, with shots that the data set has."""
    asked = [shots for shots in record.evaluation.shot_numbers if shots != 0]
    shots: Shots = max(asked, key=most, default=16)
    counts = record.origin.images.get("train", ())
    scarce = bool(counts) and shots != "all" and min(counts) < most(shots)
    return f"{run_of(record)} --protocols few-shot --shots {shots}{' --up-to' * scarce}"


def run_of(record: RunRecord) -> str:
    """`trainer run` on the data set of a run, with its encoder where that is not the usual one."""
    other = f" --encoder {shlex.quote(record.encoder)}" * (record.encoder != Params().encoder)
    return f"trainer run --dataset {record.dataset}{other}"


def _best(record: RunRecord, key: str) -> str:
    order = ranked(record, key)
    metric = _metric(record, key)
    measured = [each for each in order if each.validation is not None]
    if len(order) == 1:
        name = order[0].name
        return f"{name}, {_named(metric)} {_tested(record, key, name)} on the test images; the only method fitted"
    if not measured:
        return (
            "not chosen: no method was measured on labelled images beside the test images, which choose nothing; the "
            f"table shows all {len(order)}"
        )
    first, validation = measured[0], measured[0].validation
    assert validation is not None
    others = [each.name for each in order if each.validation is None]
    tested = f"{first.name}, {_named(metric)} {_tested(record, key, first.name)} on the test images"
    without = f"; not measured on them: {', '.join(others)}" * bool(others)
    likeliest = " the likelihood of" * (first.by_loss and validation.loss is not None)
    how = f"chosen of {len(measured)} methods by{likeliest}" if len(measured) > 1 else "the only one measured on"
    return f"{tested}; {how} {validation.images} ({100 * validation.accuracy:.1f} %){without}"


def _beside(record: RunRecord, key: str) -> str:
    order = ranked(record, key)
    names = [each.name for each in order]
    control = next((name for name in CONTROLS[record.protocols[key].name] if name in names), None)
    if control is None:
        return f"no control fitted (--methods {_fittable(record, key)})"
    here = f"{control}{ABOUT.get(control, '')}, {_tested(record, key, control)}"
    best = next((each.name for each in order if each.validation is not None), None)
    if best is None:
        return here
    if best == control:
        return f"{here}: it is the best itself"
    return here + gain(record, key, best, control, metric=_metric(record, key), said=f"{best} ")


def _fittable(record: RunRecord, key: str) -> str:
    about = record.protocols[key]
    known = PROTOCOLS[about.name].registry().methods
    labelled = about.shots != 0
    return next(name for name in CONTROLS[about.name] if name in known and (labelled or name == "zero-shot"))


def _saw(record: RunRecord, key: str) -> str:
    by_method = dict.fromkeys(fit.method for fit in record.fits if fit.protocol == key)
    saw = {fit.method: str(fit.info["saw"]) for fit in record.fits if fit.protocol == key and "saw" in fit.info}
    if not saw:
        return "nothing of the test split before the end"
    parts = [
        f"{', '.join(name for name in saw if saw[name] == what)} {what}, while judging"
        for what in dict.fromkeys(saw.values())
    ]
    others = len(by_method) - len(saw)
    return "; ".join(parts) + "; the others nothing of the test split" * bool(others)


def _named(metric: str) -> str:
    return metric.replace("_", " ")


def _metric(record: RunRecord, key: str) -> str:
    return record.protocols[key].headline[0]


def _tested(record: RunRecord, key: str, method: str) -> str:
    return percent(summarize(record)[key].get(method, {}).get(_metric(record, key)))
