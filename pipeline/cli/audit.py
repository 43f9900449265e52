"""`pipeline audit`: which images and labels to doubt."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import CACHE, app, say_note
from stages import command
from stages.command import CacheOption, DatasetOption, EncoderOption, JsonOption, ParamsOption, say
from stages.errors import UserError


@app.command(reads=True)
def audit(
    dataset: DatasetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write audit.csv, audit.json, exclude lists and contact sheets there.", metavar="DIR"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Findings of each kind to print.")] = 5,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the list as CSV, to be filled in.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find copies across splits and classes, wrong labels, outliers and bad pictures, before anything is trained."""
    import json

    from pipeline.audit import COLUMNS, check_folder, tables, write_report
    from pipeline.audit import audit as run
    from stages.command import visible
    from stages.datasets import chosen
    from stages.decisions import list_text
    from stages.stores.artifacts import only_encoder
    from stages.text import counted

    if as_csv and as_json:
        raise UserError("--json or --csv, not both", exit_code=2)
    settings = command.settings(params, {"encoder": encoder})
    wanted = only_encoder(cache, settings.encoder) if encoder is None else settings.encoder
    names = chosen(dataset, settings, cache=cache)
    if len(names) > 1 and (as_csv or out is not None):
        raise UserError(f"one data set a list: choose with --dataset: {', '.join(names)}", exit_code=2)
    reports = []
    for name in names:
        if out is not None:
            check_folder(out, cache, name)
        report = run(cache, name, wanted)
        reports.append(report.as_json())
        counts = ", ".join(f"{count} {split}" for split, count in report.images.items())
        found = f"{counted(len(report.findings), 'finding')} about images, {len(report.classes)} about classes"
        say(f"{name}: {counts} images; {found}")
        for note in report.notes:
            say(f"{name}: {visible(note)}")
        if as_csv:
            command.put(list_text(COLUMNS, report.listed()).rstrip("\n"))
        elif not as_json:
            command.put(tables(report, top=top))
        if out is not None:
            written = list(write_report(report, out))
            say(f"wrote {visible(str(out))}/: {', '.join(written)}")
            say(
                f"next: put right the source of {name} itself, which comes as embeddings, and ingest it again"
                if report.root is None
                else f"next: fill in the columns action and label, then `pipeline ingest {name} --labels "
                f"{out / 'audit.csv'}`; or leave all images of a kind out with --exclude "
                f"{out / 'exclude-KIND.csv'} (of wrong-label and outlier some are right: look first)"
            )
        elif report.findings and not as_csv and not as_json:
            say("next: --out DIR writes lists to fill in, exclude lists and contact sheets")
    if as_json:
        command.put(json.dumps(reports[0] if len(reports) == 1 else reports, indent=1, ensure_ascii=False))
    say_note(_note(cache, names, wanted))


def _note(cache: Path, names: list[str], encoder: str) -> str:
    """The honest line about the encoder, where embeddings were looked at."""
    from stages import ImageStore
    from stages.stores.artifacts import encoder_of

    stores = [ImageStore(cache, name, encoder_of(cache, name, encoder)) for name in names]
    return next((store.provenance().note for store in stores if store.exists()), "")
