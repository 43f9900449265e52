"""A run in five lines: what to take, what stands beside it, what the text was worth, how sure to be, what next.

A pure function of the record. The rules, with their thresholds, stand in `docs/analysis.md`; the constants are here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from stages.command import visible
from stages.numbers import Shots, most
from trainer.protocols.base_to_new import halves
from trainer.report import alone
from trainer.runs.choice import AT, FEW_SHOT, Ranked, ranked, serving_protocol
from trainer.runs.paired import LOGISTIC, NORMAL, TEXT_CONTROLS, control_of, share95
from trainer.runs.record import Confused, Estimate, Estimates, Paired, RunRecord, summarize

WIDE = 0.03
"""Half-width of the interval over the test images, from which more of them are asked for; fraction of 1."""
STEEP = 0.01
"""Accuracy that the last step of shots must have brought for more shots to be asked for."""
HEARD = 0.02
"""Accuracy on classes never seen that the sentences must bring above the bare template."""
CONFUSED_SHARE, CONFUSED_IMAGES = 0.1, 3
"""Share of a class, and images, that must be taken for one other class to be named."""
TEXT_ALONE = ("zero-shot", "template-ensemble", "cupl")
"""Methods that learn from no image, so that neither seeds nor shots change them."""
ADVICE = 2
"""Things to do next that are said, at most."""
LABELS = ("best", "beside", "text", "sure", "next")


@dataclass(frozen=True)
class Verdict:
    """The five lines of a data set.

    Attributes:
        dataset: its name.
        method: the one that `predict` takes; None where the run kept no classifier.
        best: the method that is best on validation images, and its accuracy on the test images.
        beside: logistic regression on the same features.
        text: the same method with and without text.
        sure: what the numbers leave open.
        next: what to do about it.
        alone: without few-shot, label -> line on the protocols that there are.
    """

    dataset: str
    method: str | None
    best: str
    beside: str
    text: str
    sure: str
    next: str
    alone: dict[str, str] = field(default_factory=dict)

    @property
    def said(self) -> dict[str, str]:
        """Label -> line; without few-shot those on the protocols that there are."""
        if self.method is None:
            return (self.alone or {"best": self.best}) | {"next": self.next}
        return {label: getattr(self, label) for label in LABELS}

    @property
    def lines(self) -> tuple[str, ...]:
        """`best: ...`, `beside: ...`, `text: ...`, `sure: ...`, `next: ...`."""
        return tuple(f"{label}: {line}" for label, line in self.said.items())


def verdict(record: RunRecord) -> Verdict:
    """The verdict on a data set's run, from its record alone; every line says so where it has nothing to go by."""
    protocol, order = serving_protocol(record), ranked(record)
    if protocol is None or not order or record.protocols[protocol].name != FEW_SHOT:
        none = "not measured: few-shot is not among the protocols of this run"
        advice = f"`{alone.few_shot(record)}` fits classifiers that can be used"
        if protocol is not None and order:
            named = "" if order[0].validation is not None else " --method NAME"
            advice = f"`trainer predict NEW-IMAGES --dataset {record.dataset}{named}` classifies new images"
        return Verdict(record.dataset, None, none, none, none, none, advice, alone.lines(record))
    facts = _Facts(record, protocol, order, summarize(record))
    return Verdict(record.dataset, facts.best, _best(facts), _beside(facts), _text(facts), _sure(facts), _next(facts))


@dataclass(frozen=True)
class _Facts:
    """A record, seen from the protocol that serves and the method that is best there."""

    record: RunRecord
    protocol: str
    order: list[Ranked]
    estimates: Estimates

    @property
    def best(self) -> str:
        return self.order[0].name

    def estimate(self, method: str, metric: str = "accuracy", protocol: str | None = None) -> Estimate | None:
        """A measured metric; None where there is none."""
        found = self.estimates.get(protocol or self.protocol, {}).get(method, {}).get(metric)
        return found if found is not None and found.mean is not None else None

    def accuracy(self, method: str) -> float | None:
        found = self.estimate(method)
        return None if found is None else found.mean

    def pair(self, first: str, second: str) -> Paired | None:
        """The paired difference first minus second."""
        for pair in self.record.pairs:
            if (pair.protocol, pair.first, pair.second) == (self.protocol, first, second):
                return pair
        return None

    @property
    def seeds(self) -> int:
        return len(self.record.seeds)


def share95_of(record: RunRecord, method: str) -> float | None:
    """Half-width of the 95 % interval of a method's accuracy, over the seeds and the choice of the test images."""
    protocol = serving_protocol(record)
    found = None if protocol is None else summarize(record).get(protocol, {}).get(method, {}).get("accuracy")
    if found is None or found.mean is None:
        return None
    return math.hypot(share95(found.mean, record.test_images), found.ci95 or 0.0)


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.mean is None:
        return "no test image to measure on"
    return f"{100 * estimate.mean:.1f} %" + ("" if estimate.ci95 is None else f" ± {100 * estimate.ci95:.1f}")


def _points(difference: float, ci95: float | None = None) -> str:
    return f"{100 * difference:+.1f}" + ("" if ci95 is None else f" ± {100 * ci95:.1f}") + " points"


def _separable(pair: Paired) -> str:
    return "a difference beyond chance" if abs(pair.difference) > pair.ci95 else "no difference beyond chance"


def _best(facts: _Facts) -> str:
    first, *others = facts.order
    measured = facts.estimate(first.name)
    tested = f"{first.name}, {_percent(measured)}" + " right on the test images" * (measured is not None)
    if not others:
        return f"{tested}; the only method fitted"
    if first.validation is None:
        return f"{tested}; the first of {len(facts.order)}, since no method had validation images to be chosen by"
    share = f"{100 * first.validation.accuracy:.1f} %"
    chosen = f"chosen of {len(facts.order)} methods by {first.validation.images} ({share}"
    second = others[0]
    if second.validation is not None and second.validation.accuracy == first.validation.accuracy:
        losses = first.validation.loss, second.validation.loss
        how = "the smaller loss" if losses[0] != losses[1] and losses[0] is not None else "the order of the table"
        return f"{tested}; {chosen}, as {second.name}; {how} decides)"
    behind = "" if second.validation is None else f"; then {second.name}, {100 * second.validation.accuracy:.1f} %"
    return f"{tested}; {chosen}{behind})"


def _beside(facts: _Facts) -> str:
    if facts.estimate(LOGISTIC) is None and not any(each.name == LOGISTIC for each in facts.order):
        return "logistic regression on the same features: not fitted (--methods logistic)"
    here = f"logistic regression on the same features, {_percent(facts.estimate(LOGISTIC))}"
    if facts.best == LOGISTIC:
        return f"{here}: it is the best itself"
    pair = facts.pair(facts.best, LOGISTIC)
    return here if pair is None else f"{here}: {facts.best} {_points(pair.difference, pair.ci95)}, {_separable(pair)}"


def _text_pairs(facts: _Facts) -> Iterator[tuple[str, str]]:
    """Methods with text and their controls, the best one's first, then AAPE+'s, AAPE's, the text alone."""
    names = [each.name for each in facts.order]
    of_best = [name for name in names if facts.best in (name, control_of(name))]
    others = [name for method in TEXT_CONTROLS for name in names if name.partition(AT)[0] == method]
    for name in dict.fromkeys([*of_best, *others]):
        control = control_of(name)
        if control in names and control is not None:
            yield name, control


def _text(facts: _Facts) -> str:
    found = next(_text_pairs(facts), None)
    if found is None:
        return "not fitted: no method with and without text (--methods aape-plus,aape-plus-no-text)"
    name, control = found
    pair = facts.pair(name, control)
    if pair is None:
        return f"{name} beside {control}: no test image to measure on"
    what = {"aape": "the sentences", "cupl": "the sentences, beside the bare template where nothing is learnt,"}
    worth = what.get(name.partition(AT)[0], "the text")
    return (
        f"{worth} brought {_points(pair.difference, pair.ci95)}: {name} {_percent(facts.estimate(name))}, {control} "
        f"{_percent(facts.estimate(control))}, {_separable(pair)}{_on_new_classes(facts)}"
    )


@dataclass(frozen=True, order=True)
class _NewGain:
    """What a method has on classes never seen above the bare template, and its accuracy there."""

    gain: float
    method: str
    mean: float


def _new_gain(facts: _Facts) -> _NewGain | None:
    """That of the method that is best on classes never seen; None where it was not measured."""
    gains = [
        _NewGain(found.mean - bare.mean, method, found.mean)
        for key, about in facts.record.protocols.items()
        if about.name == "base-to-new" and about.shots == facts.record.protocols[facts.protocol].shots
        and (bare := facts.estimate("zero-shot", "new", key)) is not None
        for method in ("aape-plus", *(f"aape-plus{AT}{source}" for source in facts.record.sources))
        if (found := facts.estimate(method, "new", key)) is not None
        and found.mean is not None and bare.mean is not None
    ]  # fmt: skip
    return max(gains, default=None)


def _on_new_classes(facts: _Facts) -> str:
    found = _new_gain(facts)
    if found is None:
        return ""
    size, side = f"{100 * abs(found.gain):.1f}", "above" if found.gain > 0 else "below"
    where = "level with" if size == "0.0" else f"{size} points {side}"
    _, new = halves(facts.record.classes)
    chance, images = 1 / max(1, len(new)), sum(facts.record.origin.images.get("test", ())[new.start :])
    images = images or facts.record.test_images * len(new) // facts.record.classes
    alike = images > 0 and found.mean - share95(found.mean, images) <= chance
    by_chance = f", no better than chance ({100 * chance:.1f} % for {len(new)} classes)" * alike
    return f"; on classes never seen {found.method} is {where} the bare template{by_chance}"


def _sure(facts: _Facts) -> str:
    accuracy, images = facts.accuracy(facts.best), facts.record.test_images
    if accuracy is None:
        return "not at all: there is no test image"
    both = share95_of(facts.record, facts.best) or 0.0
    seeds = "1 seed, which shows no spread" if facts.seeds == 1 else f"{facts.seeds} seeds"
    parts = [
        f"± {100 * both:.1f} points with the choice of the {images} test images counted in ({seeds})",
        _calibration(facts),
    ]
    return "; ".join(part for part in parts if part)


def _calibration(facts: _Facts) -> str:
    found = facts.estimate(facts.best, "ece")
    return (
        "" if found is None or found.mean is None else f"probabilities are off by {100 * found.mean:.1f} points (ECE)"
    )


def _next(facts: _Facts) -> str:
    return "; ".join(advice for advice, _ in zip(_advice(facts), range(ADVICE)))  # noqa: B905


def _advice(facts: _Facts) -> Iterator[str]:
    """What to do, the most useful first; the last one always holds."""
    accuracy, images = facts.accuracy(facts.best), facts.record.test_images
    if accuracy is None:
        yield "put some images into the split `test` (data.NAME.split): nothing could be measured"
        return
    chance, open_ = 1 / facts.record.classes, share95(accuracy, images)
    if accuracy - open_ <= chance:
        yield (
            f"look at the images and their labels: this is no better than chance ({100 * chance:.1f} %), and the "
            "encoder may not see the difference"
        )
        return
    if facts.order[0].validation is None and len(facts.order) > 1:
        yield "images for the split `val`, or more shots: nothing told the methods apart before the test"
    of_seeds = getattr(facts.estimate(facts.best), "ci95", None)
    learns = facts.best.partition(AT)[0] not in TEXT_ALONE
    if learns and (of_seeds is None or of_seeds > open_):
        left = "one shows no spread" if of_seeds is None else f"these {facts.seeds} leave ± {100 * of_seeds:.1f} points"
        yield f"more seeds (--seeds {','.join(map(str, range(1, max(3, 2 * facts.seeds) + 1)))}): {left}"
    if open_ > WIDE:
        needed = math.ceil(accuracy * (1 - accuracy) * (NORMAL / WIDE) ** 2 / 10) * 10
        yield (
            f"more test images: {max(needed, images + 10)} would leave ± {100 * WIDE:.0f} points, these {images} leave "
            f"± {100 * open_:.1f}"
        )
    steep = _steep(facts)
    if steep:
        yield steep
    confused = _confused(facts)
    if confused:
        actual, predicted = visible(confused.actual), visible(confused.predicted)
        yield (
            f"look at the labels of '{actual}': {confused.images} of its {confused.of} test images were taken for "
            f"'{predicted}'"
        )
    gain = _new_gain(facts)
    pair = next(_text_pairs(facts), None)
    worth = pair and facts.pair(*pair)
    if (gain is not None and gain.gain > HEARD) or (worth and worth.difference > worth.ci95):
        yield "better sentences (a larger --llm, or your own: `pipeline import-prompts`): here text is worth something"
    if not steep:
        yield _curve(facts, learns=learns)


def _curve(facts: _Facts, *, learns: bool) -> str:
    """The command that fits with several numbers of shots: the best method, and where it learns nothing two others."""
    about, counts = facts.record.protocols[facts.protocol], facts.record.origin.images.get("train", ())
    shots = _numbers(about.shots, max(counts, default=None))
    if len(shots) < 2:
        return "more images a class: from one alone nothing can be seen of what more would bring"
    scarce = min(counts) < most(shots[-1]) if counts else about.shots in ("all", 1)
    up_to = " --up-to" * (about.up_to or scarce)
    methods = facts.best.partition(AT)[0] if learns else f"{facts.best.partition(AT)[0]},aape-plus,{LOGISTIC}"
    command = f"{alone.run_of(facts.record)} --methods {methods} --shots {','.join(map(str, shots))}"
    return f"`{command}{up_to}` shows whether {'more ' * learns}images a class would help"


def _numbers(shots: Shots, there: int | None) -> list[Shots]:
    """Numbers of shots that make a curve, of the training images that the largest class has; None where not known."""
    bound = math.inf if there is None else there
    if shots == "all":
        return [*[each for each in (1, 2, 4, 16) if each < bound][-2:], shots]
    last = int(min(shots, bound))
    return [last // 4, last // 2, last] if last >= 4 else sorted({1, int(min(2, bound)), int(min(4, bound))})


def _steep(facts: _Facts) -> str | None:
    """More shots, where the last step of them brought something."""
    shots = {about.shots: key for key, about in facts.record.protocols.items() if about.name == "few-shot"}
    numbers = sorted(shots, key=most)
    if len(numbers) < 2:
        return None
    last, before = (facts.estimate(facts.best, protocol=shots[each]) for each in (numbers[-1], numbers[-2]))
    if last is None or before is None or last.mean is None or before.mean is None:
        return None
    gain, noise = last.mean - before.mean, math.hypot(last.ci95 or 0.0, before.ci95 or 0.0)
    if gain < STEEP or gain < noise:
        return None
    return f"more images a class: from {numbers[-2]} to {numbers[-1]} shots brought {_points(gain)}"


def _confused(facts: _Facts) -> Confused | None:
    """The classes that the best method confuses most, where they are worth a look."""
    for fit in facts.record.fits:
        if (fit.protocol, fit.method) == (facts.protocol, facts.best) and fit.confused:
            most = fit.confused[0]
            enough = most.images >= CONFUSED_IMAGES and most.images >= CONFUSED_SHARE * most.of
            return most if enough else None
    return None
