"""`trainer predict`."""

from pathlib import Path
from typing import Annotated

import typer

from stages import command
from stages.command import JsonOption, ResultsOption, say
from trainer.cli.app import RESULTS, CheckpointOfOption, CheckpointOption, DeviceOption, MethodOption, app, serving


@app.command()
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATHS",
            help="Image files, folders of them, or embeddings (.npz, .npy, .safetensors, .pt, Parquet).",
        ),
    ],
    checkpoint: CheckpointOption = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 3,
    abstain_below: Annotated[
        float | None,
        typer.Option(help="No label where the likeliest class has a probability below this.", metavar="P"),
    ] = None,
    error_rate: Annotated[
        float | None,
        typer.Option(
            "--error-rate",
            "--alpha",
            metavar="SHARE",
            help="Also a set of classes for each image that misses the right one in at most this share of images.",
        ),
    ] = None,
    none_of_these: Annotated[
        bool,
        typer.Option("--none-of-these", help="No label for images far from all that was learned from."),
    ] = False,
    keep: Annotated[
        float, typer.Option(help="Share of images of the classes that --none-of-these may not leave without a label.")
    ] = 0.95,
    batch: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: DeviceOption = "auto",
    results: ResultsOption = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images never seen: encoder and head only, no language model."""
    from stages.device import pick_device
    from trainer.confidence.answers import Wanted, counts
    from trainer.predict import find_images, predict_files, predictions_csv, predictions_table, unreadable

    wanted = Wanted(abstain_below, error_rate, none_of_these, keep)
    pick_device(device)  # a name that torch does not know is refused before anything is read
    files = find_images(paths)
    folder = serving(checkpoint, results, dataset, method)
    rows, notes = predict_files(files, folder, top=top, batch=batch, device=device, wanted=wanted)
    for note in notes:
        say(f"note: {note}")
    write = predictions_csv if as_csv else predictions_table
    command.show(rows, as_json=as_json, text=lambda: write(rows, top=top))
    bad = unreadable(rows)
    for line in (*counts(rows, wanted), *([bad] if bad else [])):
        say(line)
    if all(row["error"] for row in rows):
        raise typer.Exit(1)
