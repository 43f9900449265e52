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
    batch: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: DeviceOption = "auto",
    results: ResultsOption = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images never seen: encoder and head only, no language model."""
    from stages.device import pick_device
    from trainer.predict import find_images, predict_files, predictions_csv, predictions_table, unreadable

    pick_device(device)  # a name that torch does not know is refused before anything is read
    files = find_images(paths)
    folder = serving(checkpoint, results, dataset, method)
    rows, note = predict_files(files, folder, top=top, batch=batch, device=device)
    if note:
        say(f"note: {note}")
    write = predictions_csv if as_csv else predictions_table
    command.show(rows, as_json=as_json, text=lambda: write(rows, top=top))
    if line := unreadable(rows):
        say(line)
    if all(row["error"] for row in rows):
        raise typer.Exit(1)
