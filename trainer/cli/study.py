"""`trainer sweep`, `trainer compare` and `trainer ranks`."""

from pathlib import Path
from typing import Annotated

import typer

from stages import command
from stages.command import DatasetOption, JsonOption, ParamsOption, ResultsOption, say, words
from stages.datasets import chosen
from stages.errors import UserError
from trainer.cli.app import CACHE, RESULTS, DeviceOption, FeaturesOption, JobsOption, app


@app.command()
def sweep(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="YAML file, such as studies/lambda.yaml.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="SETTING=VALUES", help="Such as train.lambda=1,3,9; repeatable."),
    ] = None,
    features: FeaturesOption = CACHE,
    dataset: DatasetOption = None,
    metrics: Annotated[str | None, typer.Option(help="Metrics to plot, with commas.")] = None,
    device: DeviceOption = "auto",
    jobs: JobsOption = None,
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Run a grid or list of settings; finished points are kept, so a stopped sweep goes on."""
    from dataclasses import asdict

    from stages.names import slug
    from stages.params import read_yaml, read_yaml_text
    from trainer.studies.study import study_of
    from trainer.studies.sweep import as_table
    from trainer.studies.sweep import sweep as run

    settings = command.settings(params)
    if (recipe is None) == (not over):
        raise UserError("give either a recipe file or --over SETTING=VALUES", exit_code=2)
    if recipe is not None:
        raw, name = read_yaml(recipe), recipe.stem
    else:
        grid = {}
        for text in over or ():
            path, separator, values = text.partition("=")
            if not separator or not values or path in grid:
                raise UserError(f"--over {text!r}: expected SETTING=VALUE,VALUE,..., each setting once", exit_code=2)
            grid[path] = [read_yaml_text(word, where=f"--over {path}") for word in words(values) or ()]
        raw, name = {"title": f"Sweep over {', '.join(grid)}", "grid": grid}, slug("-".join(grid))
    study = study_of(raw, where=str(recipe or "--over"), metrics=words(metrics))
    folder = results / "sweeps" / name
    rows = run(
        study, settings, cache=features, folder=folder, datasets=chosen(dataset, settings, cache=features),
        device=device, jobs=jobs,
    )  # fmt: skip
    command.show([asdict(row) for row in rows], as_json=as_json, text=lambda: as_table(rows))
    say(f"wrote {folder}/table.csv, table.md and pictures")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder.")],
    second: Annotated[Path | None, typer.Argument(metavar="RESULTS", help="Another; default the same.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="FIRST,SECOND: one method of each folder; default every method they share.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Metrics with commas.")] = "accuracy,base,new,h",
    as_json: JsonOption = False,
) -> None:
    """Two runs, or two methods of one run, side by side with paired tests over seeds and over test images."""
    from dataclasses import asdict

    from trainer.runs.record import finished_runs
    from trainer.studies.compare import compare as run

    pair = words(methods) or []
    if methods is not None and len(pair) != 2:
        raise UserError(f"--methods {methods!r}: expected two methods with a comma", exit_code=2)
    if second is None and not pair:
        there = dict.fromkeys(fit.method for record in finished_runs(first).values() for fit in record.fits)
        raise UserError(
            f"one results folder: name two methods with --methods FIRST,SECOND; {first} has: "
            f"{', '.join(there) or 'no run yet'}",
            exit_code=2,
        )
    found = run(first, second or first, methods=(pair[0], pair[1]) if pair else None, metrics=words(metrics) or [])

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def small(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}"

    headers = ("dataset", "protocol", "metric", "first", "second", "first %", "second %", "difference", "ci95",
               "p (seeds)", "p (images)", "seeds")  # fmt: skip
    rows = [
        (
            c.dataset, c.protocol, c.metric, c.first, c.second, percent(c.mean_first), percent(c.mean_second),
            f"{100 * c.difference:+.1f}", percent(c.ci95), small(c.p_seeds), small(c.p_images), c.seeds,
        )
        for c in found.rows
    ]  # fmt: skip
    command.show([asdict(c) for c in found.rows], as_json=as_json, text=lambda: command.table(headers, rows))
    for note in found.notes:
        say(f"note: {note}")


@app.command()
def ranks(
    folders: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders of `trainer run`.")],
    method: Annotated[str, typer.Option(help="The method that is spoken of.")] = "aape-plus",
    methods: Annotated[
        str | None, typer.Option(help="Methods to compare, with commas; default all with the main prompt source.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="Metrics with commas; one ranking each.")] = "accuracy,h",
    curves: Annotated[str | None, typer.Option(help="Methods of the picture of accuracy over shots.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and pictures; default none are written.", metavar="FOLDER")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Mean ranks of all methods over many runs, and where one of them is best or not separable from the best."""
    from trainer.analysis.ranked import CURVES, pictures, plain_of, text_of, write_tables
    from trainer.analysis.ranking import ranking, settings_of
    from trainer.runs.record import finished_runs

    settings = settings_of(folders, metrics=words(metrics) or [], methods=words(methods))
    found = ranking(settings, subject=method)
    for note in found.notes:
        say(f"note: {note}")
    if out is not None:
        write_tables(found, settings, out)
        records = [record for folder in folders for record in finished_runs(folder).values()]
        drawn = pictures(found, records, out, subject=method, curves=words(curves) or CURVES)
        say(f"wrote {out}/ranks.md, ranks.csv, settings.csv{''.join(f', {path.name}' for path in drawn)}")
    command.show(plain_of(found), as_json=as_json, text=lambda: text_of(found))
