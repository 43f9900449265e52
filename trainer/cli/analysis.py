"""`trainer explain`, `trainer export`, `trainer cost` and `trainer gap`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stages import command
from stages.command import DatasetOption, EncoderOption, JsonOption, ParamsOption, ResultsOption, numbers, say, words
from stages.datasets import chosen
from trainer.cli.app import (
    CACHE,
    RESULTS,
    CheckpointOfOption,
    CheckpointOption,
    DeviceOption,
    FeaturesOption,
    MethodOption,
    MethodsOption,
    ShotsOption,
    UpToOption,
    app,
    serving,
)


@app.command()
def explain(
    paths: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    checkpoint: CheckpointOption = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    features: FeaturesOption = CACHE,
    top: Annotated[int, typer.Option(min=1, help="Classes to explain for each image.")] = 3,
    nearest: Annotated[int, typer.Option(min=0, help="Reference prompts to show for each class.")] = 3,
    figure: Annotated[Path | None, typer.Option(help="Also draw a picture (PNG).", metavar="FILE")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images encoded at once.")] = 64,
    device: DeviceOption = "auto",
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Why an image is taken for a class: scores, cosines to template and class vector, reference prompts."""
    from stages.device import pick_device
    from trainer.analysis.explain import explain_files, explanation_text
    from trainer.predict import find_images, unreadable

    pick_device(device)
    files = find_images(paths)
    folder = serving(checkpoint, results, dataset, method)
    done = explain_files(files, folder, cache=features, top=top, nearest=nearest, batch=batch, device=device)
    for note in done.notes:
        say(f"note: {note}")
    if figure is not None:
        from trainer.analysis.figures import explanations

        shown = explanations(done.rows, done.pictures, figure)
        say(f"wrote {figure}: {shown} of {len(done.rows)} images" if shown else "no image could be read: no figure")
    command.show(done.rows, as_json=as_json, text=lambda: explanation_text(done.rows))
    if line := unreadable(done.rows):
        say(line)
    if all(row["error"] for row in done.rows):
        raise typer.Exit(1)


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.", metavar="DIR")],
    form: Annotated[
        Literal["torch", "onnx", "numpy"], typer.Option("--format", help="Kind of program; numpy: a readable script.")
    ] = "torch",
    checkpoint: CheckpointOption = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """The trained head as a program that runs without this project, embeddings in, probabilities out; a model card."""
    from trainer.checkpoint import load_checkpoint
    from trainer.checkpoints import record_of
    from trainer.export import export_head

    folder = serving(checkpoint, results, dataset, method)
    written = export_head(load_checkpoint(folder), to, form=form, record=record_of(folder))
    command.show(written, as_json=as_json, text=lambda: f"wrote {', '.join(written.values())}")


@app.command()
def cost(
    dataset: DatasetOption = None,
    methods: MethodsOption = None,
    shots: ShotsOption = None,
    up_to: UpToOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the shots and of the training.")] = 1,
    features: FeaturesOption = CACHE,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    params: ParamsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Parameters, FLOPs, images a second and training seconds of every method."""
    from stages.numbers import amount, most
    from trainer.analysis.cost import caption, cost_table, costs
    from trainer.runs.inputs import load_training

    settings = command.settings(
        params,
        {
            "encoder": encoder,
            "evaluation.methods": words(methods),
            "evaluation.shots": numbers(shots),
            "evaluation.up_to": up_to,
        },
    )
    asked = settings.evaluation
    number = max(asked.shot_numbers, key=most)
    done = {}
    for name in chosen(dataset, settings, cache=features):
        loaded = load_training(settings, name, cache=features, device=device)
        rows = []
        for row in costs(loaded, settings, method_names=asked.methods, shots=number, seed=seed):
            rows.append(row)
            say(f"{name}: {row.method} measured")
        done[name] = [vars(row) for row in rows]
        if not as_json:
            command.put(
                f"{caption(loaded, shots=amount(number, up_to=asked.up_to), seed=seed)}\n\n{cost_table(rows)}\n"
            )
    if as_json:
        command.show(done, as_json=True, text=str)


@app.command()
def gap(
    dataset: CheckpointOfOption = None,
    checkpoint: CheckpointOption = None,
    method: MethodOption = None,
    features: FeaturesOption = CACHE,
    split: Annotated[Literal["train", "val"], typer.Option(help="Which images; never the test split.")] = "train",
    figure: Annotated[Path | None, typer.Option(help="Also draw a picture (PNG).", metavar="FILE")] = None,
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """The modality gap: how far templates, prompts and adapted class embeddings lie from the images."""
    from trainer.analysis.gap import gap_table, gaps, space_of

    space = space_of(serving(checkpoint, results, dataset, method, usual="aape"), cache=features, split=split)
    rows = gaps(space)
    for note in space.notes:
        say(f"note: {note}")
    if figure is not None:
        from trainer.analysis.figures import plane

        plane(space, rows, figure)
        say(f"wrote {figure}")
    found = {"dataset": space.dataset, "split": split, "images": len(space.images), "texts": [vars(r) for r in rows]}
    headline = f"{space.dataset}: {len(space.images)} {split} images, encoder {space.encoder}"
    command.show(found, as_json=as_json, text=lambda: f"{headline}\n\n{gap_table(rows)}")
