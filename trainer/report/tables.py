"""The tables people read: one a data set and protocol, mean ± 95 % interval over the seeds, in percent."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stages.command import table, visible
from stages.numbers import most
from trainer.metrics import OWN_SCALE
from trainer.ranks import METRICS as RETRIEVAL
from trainer.report import several
from trainer.report.verdict import verdict
from trainer.runs.record import Estimate, Estimates, Prediction, ProtocolRecord, RunRecord, summarize

ORDER = (
    "accuracy", "macro_accuracy", "head", "medium", "tail", "base", "new", "h", "generalized", "map", "cf1", "of1",
    "map_head", "map_medium", "map_tail", *RETRIEVAL,
)  # fmt: skip
CONFIDENCE = {"ece": 100, "adaptive_ece": 100, "nll": 1, "brier": 1}
"""Measures of confidence, and what they are shown in: percent, nats, and a sum of squares between 0 and 2."""
BEFORE = "uncalibrated_"
MOST_PAIRS = 20
"""Pairs of classes that are listed."""


def cell(entry: Estimate | None, metric: str = "") -> str:
    """`72.8 ± 0.4` in percent, or on the metric's own scale; a dash where it was not measured."""
    if entry is None or entry.mean is None:
        return "-"
    scale = 1 if metric in OWN_SCALE else 100
    mean = f"{scale * entry.mean:.1f}"
    return mean if entry.ci95 is None else f"{mean} ± {scale * entry.ci95:.1f}"


WRITTEN = {"map": "mAP", "cf1": "CF1", "of1": "OF1"}
"""Metrics that the field writes otherwise than a key of JSON."""


def title_of(metric: str) -> str:
    """A metric as people write it: `macro accuracy`, `mAP tail`."""
    first, _, rest = metric.partition("_")
    return f"{WRITTEN.get(first, first)} {rest.replace('_', ' ')}".rstrip()


def has_intervals(estimates: Estimates) -> bool:
    """Whether any metric has an interval: none has one where there is a single seed."""
    return any(
        entry.ci95 is not None
        for by_method in estimates.values()
        for by_metric in by_method.values()
        for entry in by_metric.values()
    )


def metrics_of(by_method: Mapping[str, Mapping[str, Estimate]]) -> list[str]:
    """The metrics of a protocol, in the field's order, without those of confidence."""
    found = {metric for by_metric in by_method.values() for metric in by_metric}
    found = {metric for metric in found if metric.removeprefix(BEFORE) not in CONFIDENCE}
    return [m for m in ORDER if m in found] + sorted(found - set(ORDER))


def most_shots(record: RunRecord) -> dict[str, ProtocolRecord]:
    """Of each protocol the one with the most shots, by key; of several shares of wrong labels the largest."""
    found: dict[str, tuple[str, ProtocolRecord]] = {}
    for key, about in record.protocols.items():
        if about.name not in found or _size(about) > _size(found[about.name][1]):
            found[about.name] = (key, about)
    return dict(found.values())


def _size(about: ProtocolRecord) -> tuple[float, float]:
    return most(about.shots), about.noise or 0.0


def text_tables(record: RunRecord) -> str:
    """All tables of one data set as plain text, with the notes that belong to them."""
    blocks = []
    for protocol, headers, rows in _tables(record):
        head = (
            f"{record.dataset}: {record.protocols[protocol].title}, {record.seeds_text}, encoder {record.encoder} "
            f"(percent{', mean ± 95 % interval' if has_intervals(summarize(record)) else ''})"
        )
        blocks.append(f"{head}\n\n{table(headers, rows)}")
    for protocol, headers, rows in _confidence_tables(record):
        blocks.append(f"{record.dataset}: {record.protocols[protocol].title}, {LEGEND}\n\n{table(headers, rows)}")
    notes = "\n".join(f"note: {note}" for note in record.notes)
    return "\n\n".join([*blocks, notes] if notes else blocks)


def markdown_tables(record: RunRecord) -> str:
    """The same tables as Markdown."""
    from tabulate import tabulate

    lines = []
    titled = [(record.protocols[protocol].title, headers, rows) for protocol, headers, rows in _tables(record)]
    titled += [
        (f"{record.protocols[protocol].title}: {LEGEND}", headers, rows)
        for protocol, headers, rows in _confidence_tables(record)
    ]
    for title, headers, rows in titled:
        cells = [[f"`{method}`", *rest] for method, *rest in rows]
        lines += [
            f"### {title}",
            "",
            tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True),
            "",
        ]
    return "\n".join([*lines, *(f"- {note}" for note in record.notes), ""])


def text_verdict(record: RunRecord) -> str:
    """The lines of one data set as plain text; nothing of one without classes."""
    found = _verdict(record)
    return "\n  ".join([f"verdict on {record.dataset}", *(f"{label}: {line}" for label, line in found)]) * bool(found)


def markdown_verdict(record: RunRecord) -> str:
    """The heading of a data set, and where it has classes its lines as Markdown."""
    found = _verdict(record)
    return "\n".join(
        [f"## {record.dataset}", "", *(f"- **{label}**: {escaped(text)}" for label, text in found), "", ""]
    )


def _verdict(record: RunRecord) -> list[tuple[str, str]]:
    """Labels and lines; of several classes an image those of `several`."""
    if record.one_class:
        return list(verdict(record).said.items())
    method, rows = several.lines(record)
    command = f"trainer predict PATHS --dataset {record.dataset}"
    serves = ("next", f"`{command}` takes {method}; PATHS: new images, or a file of their embeddings")
    return [*((several.LABELS[title], line) for title, line in rows), *[serves] * (method is not None)]


def markdown_pairs(predictions: Sequence[Prediction]) -> str:
    """The classes that are taken for another most often, as Markdown; nothing where every image is right."""
    from tabulate import tabulate

    images = Counter(line.actual for line in predictions)
    pairs = Counter((line.actual, line.predicted) for line in predictions if line.actual != line.predicted)
    most = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_PAIRS]
    if not most:
        return ""
    rows = [[escaped(actual), escaped(taken), f"{n} of {images[actual]}"] for (actual, taken), n in most]
    return "\n".join(
        [
            "\n### Classes confused most",
            "",
            "Test images, by the method that is best on validation images.",
            "",
            tabulate(rows, headers=["class", "taken for", "images"], tablefmt="github", disable_numparse=True),
            "",
        ]
    )


def role(method: str) -> str:
    """What a method is in pictures: `aape`, `aape-plus`, `variant` (of AAPE, or a control) or `other`."""
    name = method.split("@")[0]
    if name in ("aape-plus", "aape-plus-unlabelled", "aape-plus-views"):
        return "aape-plus"
    return "aape" if name == "aape" else "variant" if name.startswith("aape") else "other"


def escaped(name: str) -> str:
    """A class name on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", visible(name))


def _tables(record: RunRecord) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Protocol, headers and rows of each table."""
    for protocol, by_method in summarize(record).items():
        names = metrics_of(by_method)
        seconds = record.timing.get(protocol, {})
        rows = [
            [method, *(cell(by_metric.get(m), m) for m in names), _seconds(seconds.get(method))]
            for method, by_metric in by_method.items()
        ]
        saw = saw_before(record, protocol)
        headers = ["method", *names, "seconds"]
        if saw:
            headers.append(SAW)
            for row in rows:
                row.append(saw.get(row[0], "nothing"))
        yield protocol, headers, rows


SAW = "saw before it judged"
"""Column of what methods that learn while they judge saw of the test split; a label is never among it."""


def saw_before(record: RunRecord, protocol: str) -> dict[str, str]:
    """What the methods of a protocol saw of the test split, by method; those that saw nothing are not there."""
    return {fit.method: str(fit.info["saw"]) for fit in record.fits if fit.protocol == protocol and "saw" in fit.info}


LEGEND = "confidence (ECE in percent, NLL in nats; before: without the temperature)"


def _confidence_tables(record: RunRecord) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Protocol, headers and rows of each table of confidence: every measure as served, then without the temperature."""
    headers = [word for head in ("ECE", "adaptive ECE", "NLL", "Brier") for word in (head, "before")]
    for protocol, by_method in summarize(record).items():
        if any("ece" in by_metric for by_metric in by_method.values()):
            yield (
                protocol,
                ["method", *headers],
                [
                    [
                        method,
                        *(
                            scaled(by_metric.get(f"{prefix}{metric}"), scale)
                            for metric, scale in CONFIDENCE.items()
                            for prefix in ("", BEFORE)
                        ),
                    ]
                    for method, by_metric in by_method.items()
                ],
            )


def scaled(entry: Estimate | None, scale: int) -> str:
    """The mean over the seeds; a dash where it was not measured."""
    if entry is None or entry.mean is None:
        return "-"
    return f"{scale * entry.mean:.1f}" if scale > 1 else f"{entry.mean:.3f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
