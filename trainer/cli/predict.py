"""`trainer predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages import UserError, command
from stages.command import JsonOption, ParamsOption, ResultsOption, say
from trainer.cli.app import RESULTS, CheckpointOfOption, CheckpointOption, DeviceOption, MethodOption, app, serving

if TYPE_CHECKING:
    from trainer.confidence.answers import Wanted
    from trainer.predict import Extend


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
    add_class: Annotated[
        list[str] | None,
        typer.Option("--add-class", help="Serve this class too, by its name alone; repeatable.", metavar="NAME"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Sentences about added classes: JSON {class: [...]}, or CSV.", metavar="FILE"),
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="Language model that is asked about the added classes.", metavar="LLM")
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="Augmented views a picture, for methods that look at them (tpt, awt); default 16."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: DeviceOption = "auto",
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images never seen: encoder and head only, no language model."""
    from stages.device import pick_device
    from trainer.confidence.answers import Wanted, counts
    from trainer.predict import find_images, predict_files, predictions_csv, predictions_table, unreadable

    wanted = Wanted(abstain_below, error_rate, none_of_these, keep)
    extend = _adding(add_class or [], prompts, llm, params, wanted)
    pick_device(device)  # a name that torch does not know is refused before anything is read
    files = find_images(paths)
    folder = serving(checkpoint, results, dataset, method)
    rows, notes = predict_files(
        files, folder, top=top, batch=batch, device=device, wanted=wanted, extend=extend, views=views
    )
    for note in notes:
        say(f"note: {note}")
    write = predictions_csv if as_csv else predictions_table
    command.show(rows, as_json=as_json, text=lambda: write(rows, top=top))
    bad = unreadable(rows)
    for line in (*counts(rows, wanted), *([bad] if bad else [])):
        say(line)
    if all(row["error"] for row in rows):
        raise typer.Exit(1)


def _adding(
    names: list[str], file: Path | None, llm: str | None, params: Path | None, wanted: "Wanted"
) -> "Extend | None":
    """What adds classes to a checkpoint.

    Raises:
        UserError: (exit code 2) options that do not go together.
    """
    from trainer.new_classes import NewClasses, before_llm, checked_names, with_classes

    if not names:
        if file is not None or llm is not None:
            raise UserError("--prompts and --llm are about added classes: name them with --add-class", exit_code=2)
        return None
    if file is not None and llm is not None:
        raise UserError("--prompts and --llm exclude each other", exit_code=2)
    option = "--error-rate" if wanted.error_rate is not None else "--none-of-these" if wanted.none_of_these else None
    if option is not None:
        raise UserError(
            f"{option} rests on labelled images of every class, and an added class has none: leave one of the two out",
            exit_code=2,
        )
    checked_names(names, [])
    if llm is not None:
        before_llm()
    wanted_classes = NewClasses(
        tuple(names), file, None if llm is None else command.settings(params, {"prompts.llm": llm})
    )
    return lambda found, encoder: with_classes(found, encoder, wanted_classes)
