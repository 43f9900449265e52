"""`trainer suggest`: which images to label next."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages import UserError, command
from stages.command import EncoderOption, JsonOption, ParamsOption, ResultsOption, say
from trainer.cli.app import (
    CACHE,
    RESULTS,
    CheckpointOption,
    DeviceOption,
    FeaturesOption,
    MethodOption,
    app,
    serving,
)

if TYPE_CHECKING:
    from trainer.predict import ImageEncoder
    from trainer.suggest import Classifier, Known


@app.command()
def suggest(
    pool: Annotated[
        list[Path],
        typer.Argument(
            metavar="POOL", help="Unlabelled images: files, folders of them, or embeddings (.npz, .npy, Parquet, ...)."
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=10_000, help="Images to label.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="Write suggest.csv, to be filled in, and a contact sheet there.", metavar="DIR")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set that the labels are for; default the only one.", metavar="NAME"),
    ] = None,
    checkpoint: CheckpointOption = None,
    method: MethodOption = None,
    encoder: EncoderOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: DeviceOption = "auto",
    params: ParamsOption = None,
    features: FeaturesOption = CACHE,
    results: ResultsOption = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the list as CSV, to be filled in.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rank unlabelled images by what their label would add; needs no trained method and no label to begin with."""
    from stages import ManifestStore
    from stages.command import table, visible
    from stages.decisions import list_text, require_unfilled, write_list
    from stages.device import pick_device
    from trainer.predict import find_images
    from trainer.suggest import COLUMNS, known_of, require_same, sheet
    from trainer.suggest import suggest as run

    if as_csv and as_json:
        raise UserError("--json or --csv, not both", exit_code=2)
    if out is not None:
        require_unfilled(out / "suggest.csv")
    pick_device(device)
    settings = command.settings(params, {"encoder": encoder})
    files = find_images(pool)
    name = _dataset(features, dataset)
    known = known_of(features, name, settings.encoder)
    wanted = settings.encoder if encoder is not None else known.encoder or settings.encoder
    model, classifier = _classifier(files, known, wanted, checkpoint, method, results, device)
    require_same(known, model.name, model.fingerprint)
    found = run(files, model, known, classifier, n=n, batch=batch)
    for note in [*found.notes, *([f"note: {model.note}"] if model.note else [])]:
        say(visible(note))
    headers = ["rank", "score", "path", "suggested", "probability"]
    if as_csv:
        command.put(list_text(COLUMNS, found.rows).rstrip("\n"))
    else:
        rows = [["" if row[key] is None else visible(str(row[key])) for key in headers] for row in found.rows]
        command.show(found.rows, as_json=as_json, text=lambda: table(headers, rows))
    if out is None:
        say("next: --out DIR writes the list to fill in, and a contact sheet")
        return
    write_list(out / "suggest.csv", COLUMNS, found.rows)
    title = f"{len(found.rows)} of {found.total} images to label" + (f" for {name}" if name else "")
    sheet(found, out / "suggest.png", title=title)
    say(f"wrote {visible(str(out))}/: suggest.csv, suggest.png")
    if name and ManifestStore(features, name).provenance().root is None:
        say(f"next: add the images with their labels to the source of {name}, which comes as embeddings, and ingest it")
        return
    list_ = out / "suggest.csv"
    files = [Path(str(row["path"])) for row in found.rows]
    below = Path(os.path.commonpath([file.parent for file in files])) if files[0].is_absolute() else Path.cwd()
    as_source = f"pipeline ingest NAME --source {list_} --images {shlex.quote(str(below))}"
    line = f"pipeline ingest {name} --labels {list_}" if name else as_source
    say(f"next: fill in the column label, then `{line}`")


def _dataset(cache: Path, asked: str | None) -> str | None:
    """The data set that was named, or the only one of the cache; None where the cache has none.

    Raises:
        UserError: several, or none of this name.
    """
    from stages.stores.artifacts import ManifestStore, partition_values

    if asked is not None:
        ManifestStore(cache, asked).require()
        return asked
    there = partition_values(cache, ManifestStore, "dataset")
    if len(there) > 1:
        raise UserError(f"{cache}: several data sets; choose with --dataset: {', '.join(there)}", exit_code=2)
    return there[0] if there else None


def _classifier(
    files: list[Path],
    known: "Known",
    encoder: str,
    checkpoint: Path | None,
    method: str | None,
    results: Path,
    device: str,
) -> "tuple[ImageEncoder, Classifier | None]":
    """The encoder, and who classifies: what was trained, else what is labelled, else nobody."""
    from trainer.checkpoints import KEPT, kept_in
    from trainer.predict import load_encoder_for, load_with_encoder
    from trainer.suggest import quick, trained

    has_run = known.dataset is not None and kept_in(results / "runs" / known.dataset)
    if checkpoint is not None or method is not None or has_run:
        folder = serving(checkpoint, results, known.dataset, method)
        found, model = load_with_encoder(folder, device=device, files=files)
        return model, trained(found)
    say(f"no checkpoint in {results / 'runs' / (known.dataset or '*') / KEPT}: a cold start")
    return load_encoder_for(files, encoder, known.store, device=device), quick(known)
