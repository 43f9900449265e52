"""`trainer sweep`: one run a point of a study, kept as it is finished, then one table and one picture."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from stages import UserError
from stages.command import say, table
from stages.extras import installed, mend
from stages.files import write_text
from stages.params import Params, changed
from stages.stores.provenance import code_version
from stages.sums import write_sums
from trainer.report.tables import cell
from trainer.runs.inputs import Inputs, load_inputs
from trainer.runs.record import RUN, RunRecord, csv_text, load_record, save_record, summarize
from trainer.runs.run import run
from trainer.studies.study import Study, SweepRow, describe, plain


def sweep(
    study: Study, params: Params, *, cache: Path, folder: Path, datasets: Sequence[str], device: str = "auto",
    jobs: int | None = None,
) -> list[SweepRow]:  # fmt: skip
    """Run every point on every data set; what was finished before under the same settings and stores is taken over.

    Written below `folder`: points/HASH/ (each run's record), table.csv, table.md, and a picture a data set.

    Raises:
        UserError: a setting that does not exist, or whatever `trainer run` refuses.
    """
    points = study.settings()
    settled = [
        changed(params, {**study.set, **point}, where=f"point {number} ({describe(point)})")
        for number, point in enumerate(points, 1)
    ]
    rows: list[SweepRow] = []
    headlines: dict[str, None] = {}
    for name in datasets:
        for point, chosen in zip(points, settled, strict=True):
            inputs = load_inputs(chosen, name, cache=cache, device=device)
            kept = folder / "points" / _key(inputs, chosen)
            record = _finished(kept)
            if record is None:
                say(f"{name}: {describe(point)}")
                record = run(chosen, inputs, jobs=jobs)
                save_record(record, kept)
                write_sums(kept)
            headlines |= dict.fromkeys(m for protocol in record.protocols.values() for m in protocol.headline)
            for protocol, by_method in summarize(record).items():
                rows += [
                    SweepRow(name, point, protocol, method, metrics, record.timing.get(protocol, {}).get(method))
                    for method, metrics in by_method.items()
                ]
    write_text(folder / "table.csv", _csv(rows))
    write_text(folder / "table.md", f"# {study.title}\n\n{study.about}\n\n{as_table(rows, markdown=True)}\n")
    if not installed("matplotlib"):
        say(f"no pictures: matplotlib is not installed: {mend('matplotlib')}")
        return rows
    from trainer.studies.picture import picture

    for name in datasets:
        shown = study.metrics or list(headlines)
        picture(study.title, shown, [row for row in rows if row.dataset == name], folder / f"{name}.png")
    return rows


def as_table(rows: Sequence[SweepRow], *, markdown: bool = False) -> str:
    """All rows as text or Markdown, in percent."""
    from tabulate import tabulate

    paths = list(dict.fromkeys(path for row in rows for path in row.point))
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    headers = ["dataset", *(path.split(".")[-1] for path in paths), "protocol", "method", *metrics, "seconds"]
    lines = [
        [
            row.dataset, *(plain(row.point.get(path, "-")) for path in paths), row.protocol, row.method,
            *(cell(row.metrics.get(metric), metric) for metric in metrics),
            "-" if row.seconds is None else f"{row.seconds:.2f}",
        ]
        for row in rows
    ]  # fmt: skip
    if markdown:
        return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
    return table(headers, lines)


def _key(inputs: Inputs, params: Params) -> str:
    """What decides a run: its settings, the stores it reads, and this code's version."""
    features = inputs.known
    facts = [
        params.evaluation.model_dump(mode="json"), params.train.model_dump(mode="json", by_alias=True),
        features.dataset, features.sources, features.contents, code_version(),
        *([] if inputs.captions is None else [inputs.captions.contents]),
        {name: [other.contents for other in others] for name, others in inputs.others.items()},
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]


def _finished(folder: Path) -> RunRecord | None:
    """The record of a finished point, where it is there and whole."""
    if not (folder / RUN).exists():
        return None
    try:
        return load_record(folder)
    except UserError as error:
        say(f"{error}: done again")
        return None


def _csv(rows: Sequence[SweepRow]) -> str:
    paths = list(dict.fromkeys(path for row in rows for path in row.point))
    lines = [
        [row.dataset, *(plain(row.point.get(path, "")) for path in paths), row.protocol, row.method, metric,
         entry.mean, entry.ci95, entry.n]
        for row in rows
        for metric, entry in row.metrics.items()
    ]  # fmt: skip
    return csv_text(["dataset", *paths, "protocol", "method", "metric", "mean", "ci95", "n"], lines)
