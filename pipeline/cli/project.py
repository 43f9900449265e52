"""`pipeline init` and `pipeline datasets`."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import SplitFolderOption, app, split_folders
from stages import command
from stages.command import JsonOption, say
from stages.errors import UserError, nearest

if TYPE_CHECKING:
    from pipeline.registry import Card


PAPER = Path("params.paper.yaml")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    source: Annotated[
        str | None, typer.Option(help="Your images: anything `pipeline ingest` reads.", metavar="SOURCE")
    ] = None,
    split_folder: SplitFolderOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set; default the source's.", metavar="NAME")
    ] = None,
    llm: Annotated[
        str, typer.Option("--llm", help="smollm2, llama3, qwen, ..., a hub id, or a local folder.", metavar="LLM")
    ] = "smollm2",
    encoder: Annotated[
        str, typer.Option(help="lite, open_clip:ARCH/PRETRAINED or open_clip:ARCH/FILE.", metavar="ENCODER")
    ] = "lite",
    encoder_name: Annotated[
        str | None,
        typer.Option(help="Encoder that made the embeddings, where the source holds these.", metavar="NAME"),
    ] = None,
    scm: Annotated[
        bool, typer.Option("--scm/--no-scm", help="Under git; without it DVC alone, as where git is missing.")
    ] = True,
) -> None:
    """Make a project of your own: settings, DVC stages, ignore file, README; `dvc repro` in it does the rest."""
    from pipeline.project import init as run

    folders = split_folders(split_folder)
    made = run(
        folder,
        source=source,
        split_folders=folders,
        name=name,
        llm=llm,
        encoder=encoder,
        encoder_name=encoder_name,
        scm=scm,
        settings=command.given(),
    )
    say(f"{made.folder}: {', '.join(file.name for file in made.files)}; {made.said}")
    if source is None:
        say(f"fill in data.{made.dataset}.source in params.yaml")
    else:
        say(f"{made.dataset}: {len(made.classes)} classes found")
    say(f"next: cd {shlex.quote(str(folder))} && dvc repro")
    if shutil.which("dvc") is None:
        say(f"dvc is not on the path: source {Path(sys.executable).parent / 'activate'}")


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show one card whole.")] = None,
    with_how: Annotated[
        bool, typer.Option("--how", help="How to get it: place, licence, size, layout, split file; default of all.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The data sets that `pipeline ingest` knows by name, and how their folders have to be laid out."""
    from pipeline.registry import card, cards
    from pipeline.registry.how import how

    if with_how and name is None:
        command.show(
            [each.model_dump() for each in cards().values()],
            as_json=as_json,
            text=lambda: "\n\n\n".join(f"# {each.name}\n{how(each)}" for each in cards().values()),
        )
        return
    if name is None:
        known = list(cards().values())
        rows = [(c.name, c.title, c.classes, c.task, c.licence) for c in known]
        command.show(
            [c.model_dump() for c in known],
            as_json=as_json,
            text=lambda: command.table(["name", "title", "classes", "task", "licence"], rows),
        )
        return
    found = card(name)
    if found is None:
        raise UserError(f"data set {name!r} is not known; {nearest(name, list(cards()))}", exit_code=2)
    shown = found
    command.show(shown.model_dump(), as_json=as_json, text=lambda: how(shown) if with_how else _text(shown))


@app.command()
def rehearse(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder, for some 100 MB.")],
    params: Annotated[Path, typer.Option("--params", help="Settings to rehearse.", metavar="FILE")] = PAPER,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the stand-ins, run nothing.")] = False,
) -> None:
    """Run `make paper` on tiny stand-ins of its data sets and models, offline: a minute or two before days are spent.

    The numbers mean nothing. What is run is what the real run runs, and the stand-ins lie as the real ones do.
    """
    from time import monotonic

    from pipeline.rehearsal import prepare
    from pipeline.rehearsal import run as make

    found = prepare(folder, params)
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in found.environment.items())
    say(f"wrote stand-ins of the data sets and models of {params} to {folder}")
    say(f"{settings} {shlex.join(found.command)}")
    if write_only:
        return
    start = monotonic()
    code = make(found)
    if code:
        raise UserError(f"the rehearsal failed (see above); its files are in {folder}")
    say(f"rehearsed in {monotonic() - start:.0f} s: every step of `make paper` runs here; remove {folder}")


def _text(card: "Card") -> str:
    """A card for people, in the order in which they need it."""
    facts = {
        "name": card.name, "title": card.title, "task": card.task, "classes": card.classes, "licence": card.licence,
        "homepage": card.homepage, "cite": card.citation, "class names": card.names,
        "templates": "; ".join(card.templates) or None,
        "questions": card.questions and f"{card.questions} in questions.yaml",
        "kind": card.kind and f"every class is {card.kind}",
        "split": card.split and f"every image: {card.split}",
    }  # fmt: skip
    lines = [f"{key + ':':<14}{value}" for key, value in facts.items() if value is not None]
    lines += ["", f"pipeline ingest {card.name} --source FOLDER, where FOLDER holds:"]
    for item in card.layout:
        lines += [f"  {' or '.join(item.path)}", f"      {item.what}; get: {item.get}"]
    return "\n".join([*lines, *([card.addresses()] if card.addresses() else [])])
