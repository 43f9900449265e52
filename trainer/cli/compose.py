"""`trainer compose`."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stages import command
from stages.command import EncoderOption, JsonOption, ParamsOption, say
from stages.errors import UserError
from trainer.cli.app import CACHE, FeaturesOption, UpToOption, app


@app.command()
def compose(
    to: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the composed head and of its parts.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=SOURCE",
            help="Parts to add: a data set, DATASET:FILE of image ids, prompts DATASET@SOURCE, or a folder of class "
            "folders.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave this part out; repeatable.", metavar="NAME")
    ] = None,
    form: Annotated[str, typer.Option(help="Closed form: gaussian or ridge.")] = "gaussian",
    shots: Annotated[str, typer.Option(help="Training images a class of a data set, or all.")] = "all",
    up_to: UpToOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the shots, and the images that are held out.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images of a folder encoded at once.")] = 64,
    encoder: EncoderOption = None,
    device: Annotated[str, typer.Option("--device", help="Of the encoder: auto, cpu, cuda, ...")] = "auto",
    params: ParamsOption = None,
    features: FeaturesOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Learn heads of sources apart and put them together; leave one out again without learning anew.

    The parts lie in DIR/parts and are kept; DIR itself is a checkpoint of all of them but those of --without.
    """
    from trainer.compose.run import Wanted, run

    settings = command.settings(params, {"encoder": encoder, "evaluation.up_to": up_to})
    wanted = Wanted(
        sources=tuple(sources or ()), without=tuple(without or ()), form=_form(form), shots=_shots(shots), seed=seed,
        batch=batch, device=device,
    )  # fmt: skip
    done = run(to, wanted, settings, cache=features)
    for line in done.lines:
        say(line)

    def text() -> str:
        rows = [[p["name"], p["source"], p["classes"], p["images"], p["state"]] for p in done.parts]
        return command.table(["part", "source", "classes", "images", "in the head"], rows)

    about: dict[str, Any] = {"checkpoint": str(to), "parts": done.parts, "head": done.head}
    command.show(about, as_json=as_json, text=text)
    if not as_json:
        say(f"wrote {to}: `trainer predict --checkpoint {shlex.quote(str(to))} PATHS` serves it")


def _form(text: str) -> Literal["gaussian", "ridge"]:
    known: dict[str, Literal["gaussian", "ridge"]] = {"gaussian": "gaussian", "ridge": "ridge"}
    if text not in known:
        raise UserError(f"--form {text!r}: known: {', '.join(known)}", exit_code=2)
    return known[text]


def _shots(text: str) -> Any:
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--shots {text!r}: expected a number from 1 on, or all", exit_code=2)
    return int(text)
