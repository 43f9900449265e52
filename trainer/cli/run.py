"""`trainer run` and `trainer report`."""

from pathlib import Path
from typing import Annotated

import typer

from stages import command
from stages.command import DatasetOption, EncoderOption, JsonOption, ParamsOption, ResultsOption, say
from trainer.cli.app import RESULTS, app, numbers, words


@app.command()
def run(
    features: Annotated[
        Path, typer.Option("--features", "--cache", help="Folder of the stores that pipeline wrote.", metavar="DIR")
    ] = Path("cache"),
    dataset: DatasetOption = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="few-shot, base-to-new, cross-dataset, domain-generalization, label-noise; several with commas."
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Method names with commas, or all.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompt sources with commas, the main one first; default all there are.")
    ] = None,
    shots: Annotated[str | None, typer.Option(help="Training images a class; several numbers with commas.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds with commas; the interval is over them.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="cross-dataset: data sets to test on; default the settings' others.")
    ] = None,
    shifts: Annotated[str | None, typer.Option(help="domain-generalization: variants to test on.")] = None,
    noise: Annotated[float | None, typer.Option(min=0, max=1, help="label-noise: share of wrong labels.")] = None,
    indices: Annotated[
        Path | None, typer.Option(help="CSV seed,shots,split,image_id of published draws.", metavar="FILE")
    ] = None,
    encoder: EncoderOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Fits side by side; default one a core, one on a GPU.")
    ] = None,
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
    with_report: Annotated[
        bool, typer.Option("--report/--no-report", help="Also write metrics.json, plots, pictures.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Train every method on the cached features and judge it on the test split."""
    from stages.params import changed
    from trainer.inputs import load_inputs
    from trainer.record import summarize
    from trainer.report import as_json as plain
    from trainer.report import report as write_report
    from trainer.report import text_tables
    from trainer.run import run as run_dataset

    settings = command.settings(params)
    names = command.chosen(dataset, settings)
    asked = {
        "encoder": encoder,
        "evaluation.protocols": protocol and words(protocol, []),
        "evaluation.methods": methods and words(methods, []),
        "evaluation.sources": prompts and words(prompts, []),
        "evaluation.shots": shots and numbers(shots, [], flag="--shots"),
        "evaluation.seeds": seeds and numbers(seeds, [], flag="--seeds"),
        "evaluation.targets": targets and words(targets, []),
        "evaluation.shifts": shifts and {name: words(shifts, []) for name in names},
        "evaluation.noise": noise,
        "evaluation.indices": indices and str(indices),
    }
    given = {path: value for path, value in asked.items() if value is not None}
    settings = changed(settings, given, where="command line")
    done = {}
    for name in names:
        record = run_dataset(
            settings, load_inputs(settings, name, cache=features, device=device), results=results, jobs=jobs
        )
        done[name] = summarize(record)
        if not as_json:
            print(text_tables(record), end="\n\n\n", flush=True)
    if with_report:
        write_report(results)
        say(f"wrote {results}/metrics.json, tables.md, plots/, figures/ and runs/*/checkpoint/")
    if as_json:
        command.show(plain(done), as_json=True, text=str)


@app.command()
def report(
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Gather all runs: metrics.json, tables, plots for DVC, pictures."""
    from trainer.report import as_json as plain
    from trainer.report import report as write_report

    metrics, text = write_report(results)
    command.show(plain(metrics), as_json=as_json, text=lambda: text)
