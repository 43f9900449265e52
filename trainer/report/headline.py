"""The few numbers that `dvc metrics show` prints: a line a method, a column a data set and metric, percent.

DVC makes a line of each file and a column of each number in it, so a method has a file of its own below
`results/headline/`. Everything else is in `results/metrics.json`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.files import user_errors, write_text
from trainer.checkpoints import folder_name
from trainer.report.tables import most_shots
from trainer.runs.record import RunRecord, summarize

FOLDER = "headline"
SHORT = {"few-shot": "accuracy", "base-to-new": "h"}
"""The column of a protocol; that of another is called like the protocol."""

Headline = dict[str, dict[str, dict[str, float]]]
"""method -> data set -> accuracy, h, ... -> percent with one digit behind the point."""


def headline(records: Mapping[str, RunRecord]) -> Headline:
    """The last headline metric of each protocol, mean over the seeds, with the most shots."""
    found: Headline = {}
    for dataset, record in records.items():
        estimates = summarize(record)
        for protocol, about in most_shots(record).items():
            for method, by_metric in estimates.get(protocol, {}).items():
                entry = by_metric.get(about.headline[-1]) if about.headline else None
                if entry is not None and entry.mean is not None:
                    column = SHORT.get(about.name, about.name)
                    found.setdefault(method, {}).setdefault(dataset, {})[column] = round(100 * entry.mean, 1)
    return found


def write_headline(records: Mapping[str, RunRecord], results: Path) -> None:
    """Write `results/headline/METHOD.json`, and remove those of methods that no run has any more."""
    texts = {
        results / FOLDER / f"{folder_name(method)}.json": json.dumps(numbers, indent=1) + "\n"
        for method, numbers in headline(records).items()
    }
    for file in (results / FOLDER).glob("*.json"):
        if file not in texts:
            with user_errors(file):
                file.unlink()
    for file, text in texts.items():
        write_text(file, text)
