"""`pipeline embed-text` and `pipeline embed-images`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.app import CACHE, app, list_some, say_note, take_from_arrays
from pipeline.cli.cluster import AddressOption, EngineOption, settings_on
from stages import command
from stages.command import CacheOption, DatasetOption, EncoderOption, JsonOption, ParamsOption, say
from stages.datasets import chosen
from stages.errors import UserError

if TYPE_CHECKING:
    from pipeline.embed.base import Mapper
    from stages.params import Params


def _encoder(settings: "Params", device: str, precision: str) -> Any:
    from pipeline.encoders import load_encoder

    # Workers of a cluster do the work: this process only has to know what they should hold.
    here = "cpu" if settings.cluster.engine == "ray" else device
    return load_encoder(settings.encoder, device=here, precision=precision)


@contextmanager
def _mapping(settings: "Params", model: Any, device: str, precision: str) -> "Iterator[Mapper | None]":
    """Where a model's embeddings are computed; None: in this process."""
    if model is None or settings.cluster.engine == "local":
        yield None
        return
    from pipeline.cluster.encoding import ClusterEncoder

    mapper = ClusterEncoder(model, settings.cluster, device=device, precision=precision)
    try:
        yield mapper
    finally:
        mapper.close()


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
    engine: EngineOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embed the templates and the kept prompts of every source."""
    from pipeline.embed import embed_text as run
    from stages import ManifestStore, TextStore
    from stages.stores.artifacts import NO_LLM

    settings = settings_on(params, engine, address, {"encoder": encoder})
    names = take_from_arrays(
        chosen(dataset, settings, cache=cache, variants=True), "text", settings, cache, asked=encoder
    )
    for name in names:
        ManifestStore(cache, name).require()
        TextStore(cache, name, settings.encoder, NO_LLM).require_free()
    model: Any = _encoder(settings, device, precision) if names else None
    done: list[dict[str, Any]] = []
    faults: list[str] = []
    with _mapping(settings, model, device, precision) as mapper:
        for name in names:
            for summary in run(name, model, data=settings.of(name), embed=settings.embed, cache=cache, mapper=mapper):
                done.append(asdict(summary))
                if summary.fault:
                    faults.append(summary.fault)
                    continue
                own = ", ".join(f"{count} {kind}s" for kind, count in summary.kinds.items()) or "no text"
                what = own if summary.llm == NO_LLM else f"{summary.rows} sentences of {summary.llm}"
                again = " (up to date)" if summary.skipped else ""
                say(f"{name}: {what} embedded with {summary.encoder}{again}")
    if model is not None:
        say_note(model.note)
    if as_json:
        command.show(done, as_json=True, text=str)
    if faults:
        raise UserError("; ".join(faults))


@app.command("embed-images")
def embed_images(
    dataset: DatasetOption = None,
    encoder: EncoderOption = None,
    params: ParamsOption = None,
    cache: CacheOption = CACHE,
    views: Annotated[int | None, typer.Option(min=0, help="Seeded augmentations an image, beside its crop.")] = None,
    views_from: Annotated[
        str | None,
        typer.Option("--views-from", metavar="DIR", help="Views from a folder of pictures for each image."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    engine: EngineOption = None,
    address: AddressOption = None,
    from_file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A further encoder's embeddings: arrays `embedding`, `image_id`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Embed every image, or take over the embeddings of a data set that came without pixels."""
    from pipeline.embed import embed_images as run
    from pipeline.ingest.exported import import_images
    from stages import ImageStore, ManifestStore

    settings = settings_on(
        params, engine, address, {"encoder": encoder, "embed.views": views, "embed.views_from": views_from}
    )
    wanted = settings.encoder
    if settings.embed.views_from is not None and settings.cluster.engine == "ray":
        raise UserError("embed.views_from: the pictures are read on this machine: leave --engine ray away", exit_code=2)
    if from_file is not None:
        _take_second(dataset, from_file, encoder, cache, settings.embed.precision, as_json=as_json)
        return
    names = chosen(dataset, settings, cache=cache, variants=True)
    if views is not None or views_from is not None:
        _require_pictures(names, cache)
    names = take_from_arrays(names, "images", settings, cache, asked=encoder)
    for name in names:
        ImageStore(cache, name, wanted).require_free()
    model: Any = None
    mapper: Mapper | None = None
    done: list[dict[str, Any]] = []
    with ExitStack() as stack:
        for name in names:
            manifest = ManifestStore(cache, name).provenance()
            features = manifest.features
            if features is not None:
                own = manifest.encoder or wanted
                store = ImageStore(cache, name, own)
                with store.locked("pipeline embed-images"):
                    rows = import_images(store, features, encoder=own, manifest=manifest)
                say(f"{name}: {rows} image embeddings of {own} taken from {features}")
                say_note(store.provenance().note)
                done.append({"dataset": name, "store": "images", "encoder": own, "rows": rows, "imported": features})
                continue
            if model is None:
                model = _encoder(settings, device, precision)
                mapper = stack.enter_context(_mapping(settings, model, device, precision))
            summary = run(
                name, model, embed=settings.embed, cache=cache, max_missing=settings.of(name).max_missing, mapper=mapper
            )
            again = " (up to date)" if summary.skipped else ""
            again = f" ({summary.reused} of them before)" if summary.reused else again
            drawn = f", each with {summary.views} augmented views," if summary.views else ""
            say(f"{name}: {summary.rows} images{drawn} embedded with {summary.encoder}{again}")
            list_some("unreadable when they were ingested, not embedded", summary.unreadable)
            list_some("could not be read now, not embedded; the next embed-images tries them again", summary.left_out)
            say_note(model.note)
            done.append(asdict(summary))
    if as_json:
        command.show(done, as_json=True, text=str)


def _require_pictures(names: list[str], cache: Path) -> None:
    """Refuse views of a data set that came as embeddings.

    Raises:
        UserError: one did.
    """
    from stages import ManifestStore

    for name in names:
        about = ManifestStore(cache, name).provenance()
        if about.from_arrays or about.features is not None:
            raise UserError(
                f"{name} came as embeddings, and no view can be made of them: its file brings views itself, as `view`; "
                "leave --views away",
                exit_code=2,
            )


def _take_second(
    dataset: str | None, source: Path, encoder: str | None, cache: Path, precision: str, *, as_json: bool
) -> None:
    from pipeline.features.second import import_second

    if dataset is None or encoder is None:
        raise UserError(
            "--from needs --dataset and --encoder: whose embeddings the file holds, and of what", exit_code=2
        )
    rows, spare = import_second(dataset, source, encoder=encoder, cache=cache, precision=precision)
    say(f"{dataset}: {rows} image embeddings of {encoder} taken from {source}")
    if spare:
        say(f"{dataset}: {spare} rows of {source} are of no image of the data set, passed over")
    if as_json:
        done = {"dataset": dataset, "store": "images", "encoder": encoder, "rows": rows, "imported": str(source)}
        command.show([done], as_json=True, text=str)
