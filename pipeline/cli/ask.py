"""`pipeline sql` and `pipeline search`: asking the stores."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import CACHE, app, list_some, say_note
from pipeline.cli.embed import DeviceOption
from stages import command
from stages.command import CacheOption, EncoderOption, JsonOption, ParamsOption, say
from stages.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Float32

    from stages.stores.artifacts import Store

CsvOption = Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")]


@app.command(reads=True)
def sql(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT statement.")],
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Copy the result into a new file .parquet, .csv or .json.", metavar="FILE"),
    ] = None,
) -> None:
    """Ask the stores: views manifest, prompts, text and images (embedding as FLOAT[D])."""
    from pipeline.catalog import copy_out, mismatches
    from pipeline.catalog import query as run
    from pipeline.printing import show
    from stages.stores.artifacts import only_encoder

    form = _form(as_json=as_json, as_csv=as_csv)
    asked = command.settings(params, {"encoder": encoder}).encoder
    asked = only_encoder(cache, asked) if encoder is None else asked
    for line in mismatches(cache, asked):
        say(f"note: {line}")
    if write is None:
        show(*run(cache, asked, query), form=form)
    elif form != "table":
        raise UserError(f"--write {write} takes the format from the name: leave --{form} away", exit_code=2)
    else:
        say(f"wrote {write}: {copy_out(cache, asked, query, write)} rows")


class Target(StrEnum):
    """What is searched."""

    images = "images"
    prompts = "prompts"


@app.command(reads=True)
def search(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A sentence, such as 'a photo of a dog'.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Search with this picture in place of a sentence.", metavar="FILE")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Search for what is like this image of the stores.", metavar="IMAGE_ID")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="One data set; default all of the encoder.", metavar="NAME")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many to find.")] = 10,
    split: Annotated[str | None, typer.Option(help="Images of train, val or test alone.", metavar="SPLIT")] = None,
    to: Annotated[Target, typer.Option(help="Find images, or the sentences of the text stores.")] = Target.images,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Through a FAISS index in memory, built first, which may miss some.")
    ] = False,
    index: Annotated[
        bool | None,
        typer.Option(
            "--index/--no-index",
            help="Through a FAISS index on disk, built once, which may miss some; default where a store is large.",
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of the images.", metavar="FILE.png")] = None,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Find the images, or the sentences, nearest to a sentence or a picture, by cosine."""
    form = _form(as_json=as_json, as_csv=as_csv)
    given = [query for query in (text, image, like) if query is not None]
    if len(given) != 1 or not str(given[0]).strip():
        raise UserError(
            "give a sentence, or a picture with --image FILE, or an image of the stores with --like ID: one of them",
            exit_code=2,
        )
    if to is Target.prompts and (split or sheet or approximate or index):
        raise UserError("--split, --sheet, --approximate and --index are for images, not for --to prompts", exit_code=2)
    if approximate and index:
        raise UserError("--approximate or --index, not both", exit_code=2)
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: the name must end in .png", exit_code=2)
    if sheet is not None and image is not None and sheet.resolve() == image.resolve():
        raise UserError(f"--sheet {sheet}: is the picture that is searched for: name another file", exit_code=2)

    from pipeline.encoders import known_encoders, load_encoder
    from pipeline.printing import show
    from pipeline.search import (
        check_encoder,
        contact_sheet,
        embed_query,
        find_images,
        find_sentences,
        image_stores,
        require_known_encoder,
        sentence_stores,
        stored_query,
    )
    from stages.command import visible
    from stages.stores.artifacts import SPLITS, encoder_of, only_encoder

    if split not in (None, *SPLITS):
        raise UserError(f"--split {split!r}: {nearest(str(split), list(SPLITS))}", exit_code=2)
    wanted = command.settings(params, {"encoder": encoder}).encoder
    wanted = only_encoder(cache, wanted) if encoder is None else wanted

    def embedded(searched: "Sequence[Store]") -> "tuple[Float32[np.ndarray, ' D'], str]":
        """The query as the stores are embedded, and the encoder's note."""
        if like is not None:
            images = image_stores(cache, wanted, dataset)
            return stored_query(images, like), images[0].provenance().note
        require_known_encoder(searched, known_encoders())
        model = load_encoder(wanted if dataset is None else encoder_of(cache, dataset, wanted), device=device)
        check_encoder(searched, model)
        return embed_query(model, text=text, image=image), model.note

    if to is Target.prompts:
        texts = sentence_stores(cache, wanted, dataset)
        vector, note = embedded(texts)
        sentences = find_sentences(texts, vector, top=top)
        names = ["rank", "score", "dataset", "llm", "kind", "prompt_id", "class_name", "image_id", "text"]
        show(names, [[getattr(hit, name) for name in names] for hit in sentences], form=form)
        say_note(note)
        return
    stores = image_stores(cache, wanted, dataset)
    vector, note = embedded(stores)
    hits = find_images(stores, vector, top=top, split=split, approximate=approximate, index=index)
    if sheet is not None and not any(hit.root for hit in hits):
        say("no sheet: the images found came without image files, as embeddings alone")
    elif sheet is not None:
        where = ", ".join(store.dataset for store in stores)
        notes = [f"{where}: rank, cosine ({wanted}) and split of each image", note]
        title = text or f"like {image.name if image else like}"
        list_some("grey on the sheet", contact_sheet(hits, sheet, title=title, notes=notes, asked=image))
        say(f"wrote {visible(str(sheet))}")
    names = ["rank", "score", "dataset", "image_id", "class_name", "split", "place"]
    show([*names[:-1], "path"], [[getattr(hit, name) for name in names] for hit in hits], form=form)
    say_note(note)


def _form(*, as_json: bool, as_csv: bool) -> str:
    if as_json and as_csv:
        raise UserError("--json or --csv, not both", exit_code=2)
    return "json" if as_json else "csv" if as_csv else "table"
