"""`trainer caption` and `trainer ask`."""

from pathlib import Path
from typing import Annotated

import typer

from stages import command
from stages.command import JsonOption, ResultsOption, say, words
from stages.errors import UserError
from trainer.cli.app import RESULTS, CheckpointOfOption, CheckpointOption, DeviceOption, MethodOption, app

LLMOption = Annotated[
    str | None,
    typer.Option("--llm", help="The checkpoint's language model by another name or folder.", metavar="LLM"),
]


def _speaking(checkpoint: Path | None, results: Path, dataset: str | None, method: str | None) -> Path:
    """The folder of the checkpoint that speaks; says which where that was left open."""
    from trainer.language.serve import choose_speaker

    if checkpoint is not None:
        if method is not None:
            raise UserError(f"--checkpoint {checkpoint} is one method already: leave out --method", exit_code=2)
        return checkpoint
    chosen = choose_speaker(results, dataset, method)
    say(f"checkpoint: {chosen.why}")
    return chosen.folder


@app.command()
def caption(
    paths: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files, or folders of them.")],
    checkpoint: CheckpointOption = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    llm: LLMOption = None,
    beams: Annotated[
        int | None, typer.Option(min=1, max=64, help="Width of the beam search; 1 is greedy; default as trained.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    device: DeviceOption = "auto",
    results: ResultsOption = RESULTS,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a caption for images never seen: encoder, linear map, frozen language model."""
    from stages.device import pick_device
    from trainer.language.serve import caption_files, captions_csv, captions_text
    from trainer.predict import unreadable

    pick_device(device)
    folder = _speaking(checkpoint, results, dataset, method)
    rows, notes = caption_files(paths, folder, llm=llm, beams=beams, batch=batch, device=device)
    for note in notes:
        say(f"note: {note}")
    write = captions_csv if as_csv else captions_text
    command.show(rows, as_json=as_json, text=lambda: write(rows))
    if line := unreadable(rows):
        say(line)
    if all(row["error"] for row in rows):
        raise typer.Exit(1)


@app.command()
def ask(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help='Such as "What is on the table?".')],
    choices: Annotated[
        str | None, typer.Option(help="Answers with commas; the likeliest is taken.", metavar="A,B,...")
    ] = None,
    checkpoint: CheckpointOption = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    llm: LLMOption = None,
    device: DeviceOption = "auto",
    results: ResultsOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Answer a question about an image never seen, without examples."""
    from stages.device import pick_device
    from trainer.language.serve import ask_file

    pick_device(device)
    folder = _speaking(checkpoint, results, dataset, method)
    row, notes = ask_file(image, question, folder, choices=words(choices) or (), llm=llm, device=device)
    for note in notes:
        say(f"note: {note}")
    command.show(row, as_json=as_json, text=lambda: row["answer"])
