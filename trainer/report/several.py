"""A run with several classes an image in three lines: what to take, what stands beside it, what the text was worth."""

from __future__ import annotations

from trainer.metrics import interval95
from trainer.runs.choice import best_of_labels, serving_labels
from trainer.runs.paired import LOGISTIC, control_of
from trainer.runs.record import Estimate, RunRecord, summarize

MAP = "map"
LABELS = {"Best method": "best", "Beside it": "beside", "What text was worth": "text"}
"""Titles of the lines -> their labels in text."""


def lines(record: RunRecord) -> tuple[str | None, list[tuple[str, str]]]:
    """The method that `predict` takes and titles with texts; None and nothing where no method was measured."""
    found, protocol = best_of_labels(record), serving_labels(record)
    if found is None or protocol is None:
        return None, []
    best = found.name
    by_method = summarize(record)[protocol]
    tested = [f"{title} {percent(by_method.get(best, {}).get(metric))}" for metric, title in
              ((MAP, "mAP"), ("of1", "OF1"))]  # fmt: skip
    chosen = f"chosen of {len(by_method)} methods by mAP on {found.on} ({100 * found.mean:.1f} %)"
    chosen = chosen if len(by_method) > 1 else "the only method fitted"
    rows = [("Best method", f"{best}: {', '.join(tested)} on the test images; {chosen}")]
    if LOGISTIC in by_method and best != LOGISTIC:
        here = percent(by_method[LOGISTIC].get(MAP))
        ahead = gain(record, protocol, best, LOGISTIC, said=f"{best} ")
        rows.append(("Beside it", f"logistic regression on the same features, mAP {here}{ahead}"))
    for name in dict.fromkeys([best, *by_method]):
        control = control_of(name)
        if control in by_method and control is not None:
            values = f"{name} {percent(by_method[name].get(MAP))}, {control} {percent(by_method[control].get(MAP))}"
            rows.append(("What text was worth", f"mAP of {values}{gain(record, protocol, name, control)}"))
            break
    return best, rows


def percent(found: Estimate | None) -> str:
    """`72.8 % ± 0.4`."""
    if found is None or found.mean is None:
        return "not measured"
    return f"{100 * found.mean:.1f} %" + ("" if found.ci95 is None else f" ± {100 * found.ci95:.1f}")


def gain(record: RunRecord, protocol: str, first: str, second: str, *, metric: str = MAP, said: str = "") -> str:
    """`: +2.7 ± 1.1 points`, over the seeds that both were measured with."""
    values = {
        (fit.method, fit.seed): fit.metrics.get(metric) for fit in record.fits if fit.protocol == protocol
    }  # fmt: skip
    gaps = [
        own - other for seed in record.seeds
        if (own := values.get((first, seed))) is not None and (other := values.get((second, seed))) is not None
    ]  # fmt: skip
    if not gaps:
        return ""
    mean, half = interval95(gaps)
    spread = "" if half is None else f" ± {100 * half:.1f} over the seeds"
    return f": {said}{100 * mean:+.1f} points{spread}"
