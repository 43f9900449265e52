"""`pipeline ingest` and `pipeline export-features`."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.app import CACHE, SplitFolderOption, app, list_some, pairs, split_folders
from stages import command
from stages.command import CacheOption, DatasetOption, EncoderOption, JsonOption, ParamsOption, say
from stages.datasets import chosen
from stages.errors import UserError
from stages.text import counted


@app.command()
def ingest(
    named: Annotated[str | None, typer.Argument(metavar="NAME", help="Data set; default all of the settings.")] = None,
    dataset: DatasetOption = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Folder of class folders, list (CSV, JSON, Parquet), CoOp split file, archives, captions, questions, "
            "hf:OWNER/NAME, package:NAME, or embeddings (.npz, .npy, .safetensors, .pt, Parquet): docs/sources.md.",
            metavar="SOURCE",
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder of the images that the source names.", metavar="DIR")
    ] = None,
    encoder_name: Annotated[
        str | None,
        typer.Option(help="Encoder that made the embeddings of the source, such as clip-vit-b-32.", metavar="NAME"),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column of the source by our name: image=FILE, class=, class_id=, split=, caption=, question=, ...",
            metavar="NAME=COLUMN",
        ),
    ] = None,
    split_folder: SplitFolderOption = None,
    max_missing: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of images that may be missing or unreadable.", metavar="SHARE"),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            help="Decisions about images, a list of audit or suggest filled in, beside those taken before; repeatable "
            "(docs/data-loop.md).",
            metavar="CSV",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="Images to leave out, by image_id, beside those before; repeatable.", metavar="LIST"
        ),
    ] = None,
    new_class: Annotated[
        list[str] | None,
        typer.Option(
            "--new-class", help="A class that the source lacks and --labels gives; repeatable.", metavar="NAME"
        ),
    ] = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Read images and write the manifest: what there is, of which class, in which split.

    A source of embeddings gives all stores at once: arrays `embedding` (N, D) with `class_id` or `label`, or `labels`
    (N, C) of 0 and 1 where an image may have several classes; optional
    `split`, `image_id`, `view`, `class_names`; class text `text_template` (C, D) or (C, T, D); `prompts` (P, D) with
    `prompt_class_id`.
    """
    from pipeline.ingest import ingest as run
    from pipeline.ingest.decided import with_decisions
    from stages.command import visible
    from stages.params import changed

    settings = command.settings(params)
    if named is not None and dataset is not None and named != dataset:
        raise UserError(f"NAME {named!r} and --dataset {dataset!r}: give one of the two", exit_code=2)
    dataset = dataset or named
    if dataset is None and source is not None:
        raise UserError("--source needs the name of the data set: pipeline ingest NAME --source SOURCE", exit_code=2)
    if dataset is None and (labels or exclude or new_class):
        raise UserError(
            "--labels, --exclude and --new-class need the name of the data set: pipeline ingest NAME --labels CSV",
            exit_code=2,
        )
    columns = pairs("--column", column or [], "NAME=COLUMN")
    folders = split_folders(split_folder)
    done = []
    for name in chosen(dataset, settings, variants=True):
        flags = {
            "source": source,
            "images": images,
            "encoder_name": encoder_name,
            "columns": {**settings.of(name).columns, **columns} if columns else None,
            "split_folders": folders,
            "max_missing": max_missing,
        }
        given = {f'data."{name}".{key}': value for key, value in flags.items() if value is not None}
        data = changed(settings, given, where="command line").of(name)
        data, lines = with_decisions(
            cache, name, data, labels=labels or [], exclude=exclude or [], new_classes=new_class or []
        )
        for line in lines:
            say(f"{name}: {visible(line)}")
        if data.source is None:
            raise UserError(
                f"data set {name!r}: no source; give --source SOURCE, or data.{name}.source in the settings file "
                f"(it has {', '.join(settings.data) or 'none'})",
                exit_code=2,
            )
        summary = run(name, data.source, data=data, cache=cache, embed=settings.embed)
        counts = ", ".join(f"{n} {split}" for split, n in summary.images.items())
        facts = [(summary.classes, "classes"), (summary.captions, "captions"), (summary.questions, "questions")]
        say(f"{name}: {counts} images; " + ", ".join(f"{n} {what}" for n, what in facts if n))
        for note in summary.notes:
            say(f"{name}: {visible(note)}")
        for folder, count in summary.unlabelled.items():
            say(
                f"{name}: {count} images in {folder} have no class: left out here; once there is a checkpoint, "
                f"`trainer predict {shlex.quote(folder)} --dataset {name}` classifies them"
            )
        list_some("images outside class folders, left out", [visible(p) for p in summary.outside], all_at="--json")
        list_some("missing or unreadable, kept as rows with their error", [visible(t) for t in summary.unreadable])
        list_some("the same file in several splits", [visible(image_id) for image_id in summary.duplicates])
        if summary.ignored:
            say(f"{name}: {counted(summary.ignored, 'file')} passed over (no image by its name)")
        done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


@app.command("export-features", reads=True)
def export_features(
    to: Annotated[Path, typer.Option(help="Folder to write manifest.parquet and images.parquet to.", metavar="DIR")],
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """Copy manifest and image embeddings, no pixels, into a folder that `pipeline ingest` reads."""
    from pipeline.ingest.exported import export as run
    from stages.stores.artifacts import encoder_of

    settings = command.settings(params, {"encoder": encoder})
    names = chosen(dataset, settings, cache=cache)
    if len(names) > 1:
        raise UserError(f"one data set fits into {to}: choose with --dataset: {', '.join(names)}", exit_code=2)
    for path in run(cache, names[0], encoder_of(cache, names[0], settings.encoder), to):
        say(f"wrote {path}")
