"""`pipeline verify` and `pipeline doctor`: whether the stores, and the machine, are what the settings need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import CACHE, app
from stages import command
from stages.command import (
    CacheOption,
    DatasetOption,
    EncoderOption,
    JsonOption,
    ParamsOption,
    ResultsOption,
    say,
)
from stages.offers import as_typed

RESULTS = Path("results")


@app.command(reads=True)
def verify(
    dataset: DatasetOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    fix: Annotated[bool, typer.Option("--fix", help="Make again what is wrong, leave the rest alone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every store: schema, widths, norms, NaN, rows against footers and manifests, and where each came from.

    Without --dataset all data sets of the cache are checked.
    """
    from pipeline import verify as stores

    settings = command.settings(params)
    result: dict[str, object] = {}
    lines: list[str] = []
    if fix:
        common = [f"--cache={cache}", *([f"--params={params}"] if params else [])]

        def run(words: Sequence[str]) -> None:
            app([*words, *common], standalone_mode=False)

        fixed = stores.fix(cache, settings, run, dataset)
        report = fixed.report
        result = {"fixed": fixed.done, "not_fixed": fixed.left}
        lines = fixed.done + fixed.left
    else:
        report = stores.verify(cache, dataset)
    faults = [fault.text for fault in report.faults]
    result = {"checked": report.checked, "faults": faults, "notes": report.notes, **result}
    for note in report.notes:
        say(f"note: {note}")
    n_faults = f"{len(faults)} fault{'s' * (len(faults) != 1)}"
    lines += [*faults, f"{report.checked} stores checked, {n_faults}"]
    command.show(result, as_json=as_json, text=lambda: as_typed("\n".join(lines)))
    if faults and not fix:
        say(f"`pipeline verify --fix{f' --dataset {dataset}' if dataset else ''}` makes again what is wrong")
    if faults:
        raise typer.Exit(1)


@app.command()
def doctor(
    encoder: EncoderOption = None,
    llm: Annotated[str | None, typer.Option("--llm", help="Another LLM than the settings'.", metavar="LLM")] = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Look at versions, devices, models, sources and disks before a run; nothing is downloaded or written."""
    from dataclasses import asdict

    from pipeline.doctor import doctor as run

    settings = command.settings(params, {"encoder": encoder, "prompts.llm": llm})
    checks = run(settings, cache, results)
    lines = as_typed("\n".join(map(str, checks)))
    command.show([asdict(check) for check in checks], as_json=as_json, text=lambda: lines)
    if any(check.state == "fault" for check in checks):
        raise typer.Exit(1)
