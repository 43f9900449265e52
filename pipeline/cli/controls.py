"""`pipeline control-sentences`."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.app import CACHE, app
from stages import command
from stages.command import CacheOption, ParamsOption, say
from stages.errors import UserError


@app.command("control-sentences", reads=True)
def control_sentences(
    kind: Annotated[Literal["waffle", "shuffled", "names"], typer.Argument(help="What the sentences are to be.")],
    out: Annotated[Path, typer.Option(help="JSON that is written, for `import-prompts --file`.", metavar="FILE")],
    dataset: Annotated[str, typer.Option(help="Whose classes.")],
    file: Annotated[
        Path | None,
        typer.Option(
            help="waffle: sentences to draw words from, else characters alone; shuffled: the sentences to exchange; "
            "names: further names, JSON {class: [name, ...]}.",
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="What is drawn.")] = 1,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """Sentences that a language model's have to beat: random words, another class's, or further names of the class."""
    import json

    from pipeline.prompts import controls
    from pipeline.prompts.importing import match
    from pipeline.prompts.sentence_files import read_sentences
    from stages import ManifestStore
    from stages.files import user_errors, write_text

    settings = command.settings(params)
    manifest = ManifestStore(cache, dataset).provenance()
    names = manifest.class_names
    if not names:
        raise UserError(f"{dataset}: there are no classes to write sentences about")
    if file is None and kind != "waffle":
        raise UserError(f"{kind} needs --file: {FILES[kind]}", exit_code=2)
    given = {}
    if file is not None:
        read = read_sentences(file)
        given = {names[class_id]: read[key] for class_id, key in match(names, read, where=str(file)).items()}
    data = settings.of(dataset)
    known = None if "templates" in data.model_fields_set else manifest.templates
    templates = data.templates if known is None else list(known)
    called = list(dict.fromkeys(names.values()))
    if kind == "waffle":
        found = controls.waffle(called, templates[0], words=controls.words_of(given), seed=seed)
    elif kind == "shuffled":
        found = controls.shuffled(given, seed=seed)
    else:
        found = controls.named(given, templates)
    with user_errors(out):
        write_text(out, json.dumps({name: found[name] for name in called}, indent=1, ensure_ascii=False) + "\n")
    say(f"wrote {out}: {sum(map(len, found.values()))} sentences of {len(found)} classes; now run")
    say(f"`pipeline import-prompts --dataset {dataset} --name {kind} --file {shlex.quote(str(out))}`")


FILES = {"shuffled": "the sentences to exchange", "names": "JSON {class: [name, ...]}"}
