"""`trainer run` and `trainer report`."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from stages import command
from stages.command import DatasetOption, EncoderOption, JsonOption, ParamsOption, ResultsOption, numbers, say, words
from stages.datasets import chosen
from stages.errors import UserError
from stages.offers import as_typed
from trainer.cli.app import (
    CACHE,
    RESULTS,
    DeviceOption,
    FeaturesOption,
    JobsOption,
    MethodsOption,
    ShotsOption,
    UpToOption,
    app,
)


@app.command()
def run(
    features: FeaturesOption = CACHE,
    dataset: DatasetOption = None,
    protocols: Annotated[
        str | None,
        typer.Option("--protocols", "--protocol", help="Protocol names with commas, such as few-shot,base-to-new."),
    ] = None,
    methods: MethodsOption = None,
    sources: Annotated[
        str | None, typer.Option(help="Prompt sources with commas, the main one first; default all there are.")
    ] = None,
    shots: ShotsOption = None,
    up_to: UpToOption = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds with commas; the interval is over them.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="cross-dataset: data sets to test on; default the settings' others.")
    ] = None,
    together: Annotated[
        str | None, typer.Option(help="multitask, meta: data sets to learn with; default the settings' others.")
    ] = None,
    shifts: Annotated[
        str | None, typer.Option(help="domain-generalization: variants of the data set to test on.")
    ] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="long-tailed: shots of the largest class over those of the smallest.")
    ] = None,
    encoder: EncoderOption = None,
    student_encoder: Annotated[
        str | None,
        typer.Option("--student-encoder", help="Second encoder, for methods of two (nola).", metavar="ENCODER"),
    ] = None,
    device: DeviceOption = "auto",
    jobs: JobsOption = None,
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Also write metrics.json, plots, pictures.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train every method on the cached features and judge it on the test split."""
    from stages.stores.artifacts import refuse_other_encoder
    from trainer.report import as_json as plain
    from trainer.report import report as write_report
    from trainer.report import text_tables, text_verdict
    from trainer.runs.inputs import load_inputs
    from trainer.runs.record import summarize
    from trainer.runs.run import run as run_dataset

    variants = words(shifts)
    if variants is not None and dataset is None:
        raise UserError("--shifts needs --dataset: they are variants of one data set", exit_code=2)
    settings = command.settings(
        params,
        {
            "encoder": encoder,
            "evaluation.protocols": words(protocols),
            "evaluation.methods": words(methods),
            "evaluation.sources": words(sources),
            "evaluation.shots": numbers(shots),
            "evaluation.up_to": up_to,
            "evaluation.seeds": numbers(seeds),
            "evaluation.imbalance": imbalance,
            "evaluation.student_encoder": student_encoder,
            "evaluation.targets": words(targets),
            "evaluation.together": words(together),
            "evaluation.shifts": variants and {dataset: variants},
        },
    )
    asked = {"targets": targets, "together": together, "shifts": shifts, "imbalance": imbalance}
    _say_unread(asked, settings.evaluation.protocols)
    records = []
    names = chosen(dataset, settings, cache=features)
    refuse_other_encoder(features, names, encoder)
    for name in names:
        inputs = load_inputs(settings, name, cache=features, device=device)
        record = run_dataset(settings, inputs, results=results, jobs=jobs)
        records.append(record)
        if not as_json:
            command.put(as_typed(f"{text_tables(record)}\n\n"))
    if with_report:
        write_report(results, features)
        say(f"wrote {results}/runs/, metrics.json, tables.md, plots/, figures/ and report.html")
    if not as_json:
        command.put(as_typed("".join(f"{text}\n" for text in map(text_verdict, records) if text)))
    if as_json:
        command.show(plain({record.dataset: summarize(record) for record in records}), as_json=True, text=str)
    unjudged = [record.dataset for record in records if not record.judged]
    if unjudged:
        raise UserError(
            f"{', '.join(unjudged)}: nothing could be judged, since there is no test image: what was trained is "
            "kept, the tables are empty; put some images into the split `test` (data.NAME.split)"
        )


def _say_unread(asked: Mapping[str, object], protocols: Sequence[str]) -> None:
    """Say which options were given that no protocol of the run reads."""
    from trainer.protocols import protocol_classes

    read = {name for each in protocol_classes(protocols) for name in each.own_settings}
    for name, value in asked.items():
        if value is not None and name not in read:
            say(f"--{name}: not read by {', '.join(protocols)}, and changes nothing")


@app.command()
def report(
    features: FeaturesOption = CACHE,
    results: ResultsOption = RESULTS,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no tables, as after `trainer run`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Gather all runs: metrics.json, tables, plots for DVC, pictures, and report.html to show to others."""
    from trainer.report import as_json as plain
    from trainer.report import report as write_report

    metrics, text = write_report(results, features)
    say(f"wrote {results}/report.html: one file, which opens in any browser")
    if as_json or not quiet:
        command.show(plain(metrics), as_json=as_json, text=lambda: as_typed(text))
