"""`pipeline bench [PART...]`: speed against a plain implementation, on this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.app import app
from pipeline.cli.embed import DeviceOption, PrecisionOption
from stages import command
from stages.command import EncoderOption, JsonOption, ParamsOption, say

if TYPE_CHECKING:
    from pipeline.bench import Measured


PARTS = "prompts, images, store, index, search-text (default: these), ray-images, ray-prompts."


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help=PARTS),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each; the median counts (ray-...: one).")] = 3,
    llm: Annotated[str | None, typer.Option(help="prompts: as for generate-prompts.", metavar="LLM")] = None,
    requests: Annotated[int, typer.Option(min=1, help="prompts: questions asked in one measurement.")] = 200,
    source: Annotated[str, typer.Option(help="images: as for ingest.", metavar="SOURCE")] = (
        "package:conformal-clip-data"
    ),
    number: Annotated[int, typer.Option("--images", min=1, help="images: those that the bare encoder gets.")] = 1000,
    encoder: EncoderOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    rows: Annotated[int, typer.Option(min=1, help="store, index: generated vectors.")] = 1_000_000,
    width: Annotated[int, typer.Option(min=1, help="store, index: numbers of a vector.")] = 512,
    folder: Annotated[
        Path | None, typer.Option(help="store, index: disk to measure; default the temporary one.")
    ] = None,
    params: ParamsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Speed against a plain implementation, measured here and now.

    prompts: tokens a second of our whole path against a bare LLM.generate. images: images a second from files to a
    finished store against the bare encoder on pixels in memory. store: a large store written, read, checked, queried
    and searched, against copying its file. index: searches through the index on disk, and how many of the nearest ten
    they find, against exact ones. search-text: a whole `pipeline search` for a sentence with lite, against
    loading its text model alone. ray-images, ray-prompts: images and questions a second with the workers that the
    settings' cluster: says, against this process alone (--images; four batches of --requests).
    """
    settings = command.settings(params, {"prompts.llm": llm, "encoder": encoder})

    def prompts() -> "list[Measured]":
        from pipeline.bench.prompts import bench_prompts

        return bench_prompts(settings.prompts.llm, prompts=requests, repeats=repeats)

    def images() -> "list[Measured]":
        from pipeline.bench.images import bench_images

        return [
            bench_images(
                settings.encoder, source, images=number, repeats=repeats, device=device, precision=precision,
                embed=settings.embed,
            )
        ]  # fmt: skip

    def store() -> "list[Measured]":
        from pipeline.bench.store import bench_store

        return bench_store(rows=rows, width=width, folder=folder)

    def index() -> "list[Measured]":
        from pipeline.bench.index import bench_index

        return bench_index(rows=rows, width=width, folder=folder)

    def search_text() -> "list[Measured]":
        from pipeline.bench.search import bench_search_text

        return [bench_search_text(repeats=repeats)]

    def ray_images() -> "list[Measured]":
        from pipeline.bench.cluster import bench_cluster_images

        return [
            bench_cluster_images(
                settings.encoder, source, images=number, embed=settings.embed, cluster=settings.cluster
            )
        ]  # fmt: skip

    def ray_prompts() -> "list[Measured]":
        from pipeline.prompts.process import before_torch

        before_torch()
        from pipeline.bench.cluster import bench_cluster_prompts

        return [bench_cluster_prompts(settings.prompts.llm, batch=requests, batches=4, cluster=settings.cluster)]

    measure: dict[str, Callable[[], list[Measured]]] = {
        "prompts": prompts, "images": images, "store": store, "index": index, "search-text": search_text,
        "ray-images": ray_images, "ray-prompts": ray_prompts,
    }  # fmt: skip
    asked = command.picked(parts, list(measure), what="no benchmark")
    found = [measured for part in asked if parts or not part.startswith("ray-") for measured in measure[part]()]
    lines = [(m.name, f"{m.ours:.4g}", f"{m.reference:.4g}", f"{m.ratio:.3f}", m.unit) for m in found]
    headers = ("name", "ours", "reference", "ratio", "unit")
    command.show([m.as_dict() for m in found], as_json=as_json, text=lambda: command.table(headers, lines))
    for m in found:
        say(f"{m.name}: " + ", ".join(f"{name} {value}" for name, value in m.detail.items()))
