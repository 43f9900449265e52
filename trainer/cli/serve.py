"""`trainer serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages import command
from stages.command import EncoderOption, ParamsOption, ResultsOption, say
from stages.errors import UserError
from trainer.cli.app import (
    CACHE,
    RESULTS,
    CheckpointOfOption,
    CheckpointOption,
    DeviceOption,
    FeaturesOption,
    MethodOption,
    app,
    serving,
)

if TYPE_CHECKING:
    from stages.params import Params
    from trainer.serve.server import Asker


@app.command()
def serve(
    file: Annotated[
        Path | None,
        typer.Option(
            "--list", help="A list to walk through: what pipeline audit or trainer suggest wrote.", metavar="CSV"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where decisions are written, for pipeline ingest --labels.", metavar="CSV")
    ] = Path("decisions.csv"),
    new_class: Annotated[
        list[str] | None,
        typer.Option("--new-class", help="A class to choose that the data set lacks; repeatable.", metavar="NAME"),
    ] = None,
    dataset: CheckpointOfOption = None,
    method: MethodOption = None,
    checkpoint: CheckpointOption = None,
    features: FeaturesOption = CACHE,
    encoder: EncoderOption = None,
    host: Annotated[
        str, typer.Option(help="Address of this machine alone: 127.0.0.1, ::1 or localhost.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes any free one.")] = 0,
    device: DeviceOption = "auto",
    params: ParamsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """A page on this machine: drop an image in, or walk through the audit's and suggest's lists and decide."""
    from stages.datasets import chosen
    from stages.device import pick_device
    from trainer.checkpoints import any_kept
    from trainer.serve.server import listen, run, server_of, session_of

    settings = command.settings(params, {"encoder": encoder})
    pick_device(device)
    with listen(host, port) as listening:
        if dataset is None and checkpoint is None and (file is not None or not any_kept(results)):
            dataset, *others = chosen(None, settings, cache=features)
            if others:
                names = ", ".join([dataset, *others])
                raise UserError(f"several data sets: choose with --dataset: {names}", exit_code=2)
        asker = _asker(checkpoint, results, dataset, method, settings, features, device)
        if asker.answers is None and file is None:
            raise UserError(asker.silence)
        opening = session_of(asker, cache=features, dataset=dataset, file=file, out=out, new_classes=new_class or ())
        with opening as (session, notes):
            for note in notes:
                say(f"note: {note}")
            server, url = server_of(session, listening)
            say("open this address in a browser on this machine; Ctrl-C ends")
            command.put(url)
            run(server, listening, session)


def _asker(
    checkpoint: Path | None, results: Path, dataset: str | None, method: str | None, settings: "Params", cache: Path,
    device: str,
) -> "Asker":  # fmt: skip
    """The checkpoint that is asked for; before anything is trained, the text of the classes."""
    from trainer.checkpoints import kept_in
    from trainer.serve.answers import of_checkpoint, of_text
    from trainer.serve.server import Asker

    trained = dataset is None or bool(kept_in(results / "runs" / dataset))
    if checkpoint is not None or method is not None or trained:
        return Asker(of_checkpoint(serving(checkpoint, results, dataset, method), cache, device=device))
    assert dataset is not None
    try:
        answers = of_text(cache, dataset, settings.encoder, device=device)
    except UserError as error:
        return Asker(None, f"nothing says what an image shows: {error}")
    say(f"nothing is trained on {dataset} yet: {answers.about}")
    return Asker(answers)
