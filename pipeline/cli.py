"""`pipeline`: stage one on the command line. Heavy imports happen inside the command that needs them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages import command
from stages.command import CacheOption, DatasetOption, EncoderOption, JsonOption, ParamsOption, say
from stages.errors import UserError

if TYPE_CHECKING:
    from stages.params import Params

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Stage one: images, questions, a language model and an image-text encoder to Parquet stores in cache/.",
)

LlmOption = Annotated[
    str | None, typer.Option("--llm", help="smollm2, llama3, qwen, ..., a hub id, or a local folder.", metavar="LLM")
]
CACHE = Path("cache")


@app.command()
def ingest(
    dataset: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Data set; default all of the settings.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Folder of class folders, of train/val/test folders, with a CoOp split file, or package:NAME.",
            metavar="SOURCE",
        ),
    ] = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Read images and write the manifest: what there is, of which class, in which split."""
    from pipeline.ingest import ingest as run

    settings = command.settings(params)
    if dataset is None and source is not None:
        raise UserError("--source needs the name of the data set: pipeline ingest NAME --source SOURCE", exit_code=2)
    done = []
    for name in command.chosen(dataset, settings):
        data = settings.of(name)
        where = source or data.source
        if where is None:
            raise UserError(
                f"data set {name!r}: no source; give --source SOURCE, or data.{name}.source in the settings file "
                f"(it has {', '.join(settings.data) or 'none'})",
                exit_code=2,
            )
        summary = run(name, where, data=data, cache=cache)
        counts = ", ".join(f"{n} {split}" for split, n in summary.images.items())
        say(f"{name}: {counts} images of {summary.classes} classes")
        _list("unreadable, kept as rows with their error", summary.unreadable)
        _list("the same file in several splits", summary.duplicates)
        if summary.ignored:
            say(f"{name}: {summary.ignored} files passed over (no image by their name)")
        done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


def _list(what: str, items: list[str], most: int = 10) -> None:
    if items:
        say(f"{len(items)} {what}:")
        for item in items[:most]:
            say(f"  {item}")
        if len(items) > most:
            say(f'  ... and {len(items) - most} more (see `pipeline sql "SELECT * FROM manifest"`)')


@app.command("generate-prompts")
def generate_prompts(
    dataset: DatasetOption = None,
    llm: LlmOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    samples: Annotated[int | None, typer.Option(min=1, max=1000, help="Answers per question and class.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of the LLM.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Weights of the LLM: auto, bfloat16, float16, float32.")] = None,
    tensor_parallel_size: Annotated[int | None, typer.Option(min=1, help="GPUs to spread the LLM over.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=64, help="Longest question and answer, tokens.")] = None,
    quantization: Annotated[str | None, typer.Option(help="Quantization method of vLLM.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a language model, in vLLM, what each class looks like."""
    from pipeline.prompts.engines.options import EngineOptions
    from pipeline.prompts.generate import generate

    settings = command.settings(params)
    given = {
        "revision": revision, "dtype": dtype, "tensor_parallel_size": tensor_parallel_size,
        "max_model_len": max_model_len, "quantization": quantization,
    }  # fmt: skip
    options = EngineOptions(**{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    done = []
    for name in command.chosen(dataset, settings):
        data = settings.of(name)
        if samples is not None:
            data = data.model_copy(update={"samples": samples})
        summary = generate(
            name, llm or settings.prompts.llm, data=data, prompts=settings.prompts, cache=cache, options=options
        )
        _say_prompts(summary)
        done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


@app.command("import-prompts")
def import_prompts(
    dataset: DatasetOption = None,
    name: Annotated[str | None, typer.Option(help="What the source is called in place of an LLM.")] = None,
    file: Annotated[Path | None, typer.Option(help="JSON: {class name: [sentence, ...]}.", metavar="FILE")] = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Take sentences about the classes from a file; default the imports that the settings list."""
    from pipeline.prompts.generate import import_prompts as run

    settings = command.settings(params)
    if file is not None:
        if dataset is None or name is None:
            raise UserError("--file needs --dataset and --name as well", exit_code=2)
        todo = [(dataset, name, file)]
    else:
        todo = [
            (item.dataset, item.name, Path(item.file))
            for item in settings.imports
            if dataset in (None, item.dataset) and name in (None, item.name)
        ]
        if not todo:
            say(f"{dataset or 'settings'}: nothing to import (nothing listed under imports:)")
    done = []
    for where, source, path in todo:
        summary = run(where, source, path, cache=cache)
        _say_prompts(summary)
        done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


def _say_prompts(summary: Any) -> None:
    again = ", up to date" if summary.skipped else ""
    say(f"{summary.dataset}: {summary.kept} of {summary.asked} prompts kept ({summary.llm}{again})")
    if summary.dropped:
        say("  dropped: " + ", ".join(f"{reason} {n}" for reason, n in summary.dropped.items()))
        say("  fewest left: " + ", ".join(f"{name} {n}" for name, n in summary.fewest.items()))
    if summary.note:
        say(f"  note: {summary.note}")


def _encoder(name: str | None, settings: "Params", device: str, precision: str) -> Any:
    from pipeline.encoders import load_encoder

    return load_encoder(name or settings.encoder, device=device, precision=precision)


DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16 (of the encoder, not of the store).")]


@app.command("embed-text")
def embed_text(
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Embed the templates and the kept prompts of every source."""
    from pipeline.embed import embed_text as run
    from stages import ManifestStore

    settings = command.settings(params)
    names = command.chosen(dataset, settings)
    for name in names:
        ManifestStore(cache, name).require()
    model = _encoder(encoder, settings, device, precision)
    done = []
    for name in names:
        for summary in run(name, model, data=settings.of(name), embed=settings.embed, cache=cache):
            say(
                f"{name}: {summary.rows} sentences of {summary.llm} embedded with {summary.encoder}"
                + (" (up to date)" if summary.skipped else "")
            )
            done.append(asdict(summary))
    _note(model.note)
    if as_json:
        command.show(done, as_json=True, text=str)


@app.command("embed-images")
def embed_images(
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Embed every image, or take over the embeddings of a data set that came without pixels."""
    from pipeline.embed import embed_images as run
    from pipeline.ingest.exported import import_images
    from stages import ImageStore, ManifestStore

    settings = command.settings(params)
    wanted = encoder or settings.encoder
    model: Any = None
    done: list[dict[str, Any]] = []
    for name in command.chosen(dataset, settings):
        manifest = ManifestStore(cache, name).provenance()
        features = manifest.settings.get("features")
        if features is not None:
            store = ImageStore(cache, name, wanted)
            rows = import_images(store, features, encoder=wanted, manifest=manifest)
            say(f"{name}: {rows} image embeddings of {wanted} taken from {features}")
            _note(store.provenance().note)
            done.append({"dataset": name, "store": "images", "encoder": wanted, "rows": rows, "imported": features})
            continue
        model = model or _encoder(wanted, settings, device, precision)
        summary = run(name, model, embed=settings.embed, cache=cache)
        again = " (up to date)" if summary.skipped else ""
        say(f"{name}: {summary.rows} images embedded with {summary.encoder}{again}")
        _list("unreadable, not embedded", summary.unreadable)
        _note(model.note)
        done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


def _note(note: str) -> None:
    if note:
        say(f"note: {note}")


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(metavar="NAME", help="Data set.")],
    to: Annotated[Path, typer.Option(help="Folder to write manifest.parquet and images.parquet to.", metavar="DIR")],
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
) -> None:
    """Copy manifest and image embeddings, no pixels, into a folder that `pipeline ingest` reads."""
    from pipeline.ingest.exported import export as run

    settings = command.settings(params)
    for path in run(cache, dataset, encoder or settings.encoder, to):
        say(f"wrote {path}")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT statement.")],
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the result as CSV.")] = False,
) -> None:
    """Ask the stores: views manifest, prompts, text and images (embedding as FLOAT[D])."""
    import csv
    import sys

    from pipeline.catalog import query as run

    settings = command.settings(params)
    names, rows = run(cache, encoder or settings.encoder, query)
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerows([names, *rows])
    else:
        records = [dict(zip(names, row, strict=True)) for row in rows]
        command.show(records, as_json=as_json, text=lambda: command.table(names, rows))


@app.command()
def verify(
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    as_json: JsonOption = False,
) -> None:
    """Check every store: schema, widths, norms, NaN, and that the rows are those the footer promises."""
    from pipeline.verify import verify as run

    command.settings(params)
    checked, faults = run(cache)
    command.show(
        {"checked": checked, "faults": faults},
        as_json=as_json,
        text=lambda: "\n".join([*faults, f"{checked} stores checked, {len(faults)} faults"]),
    )
    if faults:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console command."""
    command.main(app)


if __name__ == "__main__":
    main()
