"""Images to image stores: decoded in worker processes, encoded, saved part by part, joined when complete."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.embed.base import Summary, no_vectors, origin_of
from stages import ImageStore, ManifestStore, Provenance, UserError
from stages.artifacts import embedding_array
from stages.command import progress_bar
from stages.params import EmbedParams
from stages.parts import Parts, is_current
from stages.stopping import keeping

if TYPE_CHECKING:
    from pipeline.embed.pictures import Batch, Pictures
    from pipeline.encoders.base import Encoder

AHEAD = 4
"""Batches that each worker process may have ready."""


def embed_images(dataset: str, encoder: "Encoder", *, embed: EmbedParams, cache: Path) -> Summary:
    """Embed every readable image of a data set: view 0, the centre crop, then `embed.views` seeded augmentations.

    An image that cannot be decoded is left out of the store, listed in its footer and in the summary. Memory does not
    grow with the number of images beyond their names.

    Raises:
        UserError: no manifest yet, the image folder is gone, or no image can be decoded.
    """
    manifest_store = ManifestStore(cache, dataset)
    manifest = manifest_store.provenance()
    root = manifest.settings.get("root")
    if root is None:
        raise UserError(f"{manifest_store.file}: this data set has no image files, only embeddings")
    store = ImageStore(cache, dataset, encoder.name)
    views = {"views": embed.views} | ({"seed": embed.seed} if embed.views else {})
    origin = origin_of(
        store,
        encoder,
        inputs={"manifest": manifest.content, "classes": manifest.inputs["classes"]},
        settings={"precision": embed.precision, **views},
    )
    rows = manifest_store.read(["image_id", "path", "class_id", "split", "error"])
    broken = rows.filter(pc.is_valid(rows["error"])).to_pylist()
    unreadable = [f"{row['path']}: {row['error']}" for row in broken]
    if is_current(store, origin):
        unreadable = store.provenance().settings["found_unreadable"]
        embedded = len(rows) - len(unreadable)
        return Summary(
            dataset, "images", encoder.name, embedded, encoder.note, views=embed.views, unreadable=unreadable,
            skipped=True,
        )  # fmt: skip
    if not Path(root).exists():
        raise UserError(f"image folder {root} is gone: run `pipeline ingest {dataset}` again")
    rows = rows.filter(pc.is_null(rows["error"])).drop_columns(["error"]).combine_chunks()
    with store.locked("pipeline embed-images"):
        return _embed(store, encoder, origin, rows, root=Path(root), unreadable=unreadable, embed=embed)


def _embed(
    store: ImageStore, encoder: "Encoder", origin: Provenance, rows: pa.Table, *, root: Path, unreadable: list[str],
    embed: EmbedParams,
) -> Summary:  # fmt: skip
    """Embed what is not there yet, part by part, and join the parts."""
    # Whole batches: an embedding leans a little on its batch, and a run that goes on has to cut them as this one does.
    at_once = max(1, embed.batch // (1 + embed.views))
    a_part = max(1, embed.part // (1 + embed.views) // at_once) * at_once
    done = Parts(store, origin, part_rows=a_part)
    cuts = [rows.slice(start, a_part) for start in range(0, len(rows), a_part)]
    todo = [part for part in range(len(cuts)) if not done.has(part)]
    kept = len(rows) - sum(len(cuts[part]) for part in todo)
    schema = store.schema(width=encoder.width, precision=embed.precision)
    wanted = pa.concat_tables([cuts[part] for part in todo] or [rows.slice(0, 0)])
    bar = progress_bar(f"images {store.dataset}", total=len(wanted), unit="image")
    told = keeping(lambda: f"{kept} of {len(rows)} images of {store.dataset} are kept")
    with told, bar, ThreadPoolExecutor(1) as writer:
        stream = _vectors(encoder, root, wanted, embed)
        saving = None
        for part in todo:
            good = []
            for _ in range(len(cuts[part])):
                good.append(next(stream))
                bar.update()
            table = _table(cuts[part], good, schema, encoder, views=1 + embed.views, precision=embed.precision)
            if saving is not None:
                saving.result()
            saving = writer.submit(done.save, part, table)
            kept += len(cuts[part])
        if saving is not None:
            saving.result()
    n_embedded = 0
    for part, chunk in enumerate(cuts):
        there = set(pq.read_table(done.part(part), columns=["image_id"])["image_id"].to_pylist())
        missing = [path for i, path in zip(*(chunk[c].to_pylist() for c in ("image_id", "path")), strict=True)
                   if i not in there]  # fmt: skip
        unreadable += [f"{path}: could not be decoded" for path in missing]
        n_embedded += len(there)
    if not n_embedded:
        raise UserError(
            f"{root}: none of {len(unreadable)} images can be decoded (first: {(unreadable or ['none'])[0]})"
        )
    final = origin.model_copy(update={"settings": {**origin.settings, "found_unreadable": sorted(unreadable)}})
    done.finish(len(cuts), provenance=final)
    return Summary(
        store.dataset, "images", encoder.name, n_embedded, encoder.note, views=embed.views, unreadable=unreadable
    )  # fmt: skip


def worker_count(asked: int | str, *, cpu: bool) -> int:
    """Processes that decode beside the encoder: as asked; by themselves one a core beside a GPU, none beside a CPU.

    The threads of an encoder on a CPU work in step, and one that shares its core holds all of them up: there decoding
    with all cores between two batches is faster than decoding beside them.
    """
    if isinstance(asked, int):
        return asked
    return 0 if cpu else max(1, min(16, _cores() - 1))


def _vectors(encoder: "Encoder", root: Path, rows: pa.Table, embed: EmbedParams) -> Iterator[np.ndarray | None]:
    """Yield the embeddings (1 + views, D) of each image, in order, or None for one that cannot be decoded."""
    import torch

    from pipeline.embed.pictures import Pictures

    if not len(rows):
        return
    pictures = Pictures(
        root, rows["path"].combine_chunks(), rows["image_id"].combine_chunks(), preprocess=encoder.preprocess,
        augment=encoder.augment, views=embed.views, seed=embed.seed,
    )  # fmt: skip
    each = 1 + embed.views
    for pixels, errors in _batches(pictures, encoder, max(1, embed.batch // each), embed.workers):
        with torch.inference_mode():
            found = encoder.encode_images(pixels).numpy() if pixels is not None else no_vectors(encoder.width)
        vectors = iter(found.reshape(-1, each, encoder.width))
        for error in errors:
            yield None if error else next(vectors)


def _batches(pictures: "Pictures", encoder: "Encoder", size: int, asked: int | str) -> "Iterator[Batch]":
    """Decoded batches: by worker processes ahead of the encoder, or by threads when a batch is asked for."""
    from torch.utils.data import DataLoader

    from pipeline.embed.pictures import collate

    gpu = encoder.device.type == "cuda"
    workers = min(worker_count(asked, cpu=encoder.device.type == "cpu"), len(pictures))
    if workers:
        yield from DataLoader(
            pictures, batch_size=size, num_workers=workers, collate_fn=collate, prefetch_factor=AHEAD, pin_memory=gpu
        )  # fmt: skip
        return
    with ThreadPoolExecutor(_cores()) as pool:
        for top in range(0, len(pictures), size):
            yield collate(list(pool.map(pictures.__getitem__, range(top, min(top + size, len(pictures))))))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _table(
    rows: pa.Table, vectors: list[np.ndarray | None], schema: pa.Schema, encoder: "Encoder", *, views: int,
    precision: str,
) -> pa.Table:  # fmt: skip
    """One part of the store: the readable images, each with all its views."""
    good = [i for i, vector in enumerate(vectors) if vector is not None]
    found = [vector for vector in vectors if vector is not None]
    matrix = np.concatenate(found) if found else no_vectors(encoder.width)
    rows = rows.take(pa.array(np.repeat(np.array(good, dtype=np.int64), views)))
    columns = {
        "image_id": rows["image_id"],
        "view": pa.array(np.tile(np.arange(views, dtype=np.int32), len(good))),
        "class_id": rows["class_id"],
        "split": rows["split"],
        "encoder_name": pa.array([encoder.name] * len(rows), pa.string()),
        "embedding": embedding_array(matrix, precision=precision),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)
