"""`trainer bench`."""

from typing import Annotated

import typer

from stages import command
from stages.command import JsonOption, numbers, say, words
from stages.errors import UserError
from trainer.cli.app import DeviceOption, app


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART]...",
            help="training, evaluation, captions, retrieval, loading, default these; or methods, speaking, test-time.",
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the training run.")] = 100,
    shots: Annotated[int, typer.Option(min=1, help="Images a class.")] = 16,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts a class.")] = 50,
    widths: Annotated[str, typer.Option(help="Widths of the embeddings, with commas; one training run each.")] = (
        "512,1280"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Steps of a run, 32 images each.")] = 5000,
    measured: Annotated[int, typer.Option(min=1, help="Steps really taken; the times are extrapolated.")] = 60,
    images: Annotated[int, typer.Option(min=1, help="Images of the evaluation.")] = 50_000,
    evaluated: Annotated[int, typer.Option(min=2, help="Classes of the evaluation.")] = 1_000,
    rows: Annotated[int, typer.Option(min=1, help="Embeddings of the store that is loaded.")] = 500_000,
    pairs: Annotated[int, typer.Option(min=2, help="Images with five captions of a caption epoch (COCO: 118000).")] = (
        10_000
    ),
    retrieved: Annotated[
        int, typer.Option(min=2, help="Images with five captions of the retrieval (COCO's test split: 5000).")
    ] = 1_000,
    streamed: Annotated[int, typer.Option(min=2, help="Captions of the gallery that is read in tiles.")] = 100_000,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 3,
    methods: Annotated[
        str, typer.Option(help="Methods to fit beside logistic, with commas.")
    ] = "lp++,aape-plus,aape,tip-adapter",
    llm: Annotated[str, typer.Option(help="Language model that writes captions.")] = "smollm2",
    written: Annotated[int, typer.Option(min=1, help="Captions that it writes.")] = 64,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Training, evaluation and loading as ratios against their plain forms, measured here and now."""
    from stages.device import pick_device
    from trainer.bench import METHODS, PARTS, SPEAKING, TEST_TIME, Sizes, as_text
    from trainer.bench import bench as rows_of

    found_widths = [width for width in numbers(widths) or [] if isinstance(width, int) and width > 0]
    if not found_widths or len(found_widths) < len(numbers(widths) or []):
        raise UserError(f"--widths {widths!r}: expected whole numbers with commas, such as 512,1280", exit_code=2)
    sizes = Sizes(
        classes=classes,
        shots=shots,
        prompts=prompts,
        widths=tuple(found_widths),
        steps=steps,
        measured=measured,
        images=images,
        evaluated=evaluated,
        rows=rows,
        pairs=pairs,
        retrieved=retrieved,
        streamed=streamed,
        runs=runs,
        methods=tuple(words(methods) or ()),
        llm=llm,
        written=written,
    )
    found = []
    asked = command.picked(parts or PARTS, (*PARTS, METHODS, SPEAKING, TEST_TIME), what="no benchmark")
    for row in rows_of(sizes, pick_device(device), asked):
        found.append(row)
        say(f"{row.name}: {row.ratio} x")
    command.show([vars(row) for row in found], as_json=as_json, text=lambda: as_text(found))
