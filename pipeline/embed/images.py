"""Images to image stores: decoded in worker processes, encoded, saved part by part, joined when complete;
what could not be read is tried again."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

from pipeline.embed.base import EmbedSummary, Mapper, facts_of, finish, no_vectors
from pipeline.embed.kept import Kept, find_kept, keep
from pipeline.embed.reading import read_picture
from stages import ImageProvenance, ImageStore, ManifestStore, UserError
from stages.command import progress_bar, say
from stages.params import DataParams, EmbedParams
from stages.stopping import keeping
from stages.stores.artifacts import embedding_array
from stages.stores.parts import Parts, is_current
from stages.stores.provenance import VIEWS_FROM

if TYPE_CHECKING:
    from pipeline.embed.pictures import Batch, Pictures
    from pipeline.encoders.base import Encoder

AHEAD = 4
"""Batches that each worker process may have ready."""
MAX_MISSING = DataParams().max_missing


def embed_images(
    dataset: str, encoder: "Encoder", *, embed: EmbedParams, cache: Path, max_missing: float = MAX_MISSING,
    mapper: Mapper | None = None,
) -> EmbedSummary:  # fmt: skip
    """Embed every readable image of a data set: view 0, the centre crop, then `embed.views` seeded augmentations.

    An image that the manifest could read and that cannot be read now (missing, unreadable, undecodable) is left out of
    the store, listed in its footer and in the summary, and tried again by the next call: the store is then as if it had
    been there at once. What an earlier store of the data set holds of the same images is taken again and not embedded
    (`pipeline.embed.kept`). Memory does not grow with the number of images beyond their names.

    Args:
        max_missing: share of the readable images that may be left out.
        mapper: where the images are embedded; None: in this process.

    Raises:
        UserError: no manifest yet, the image folder is gone, no image can be read, or too many cannot; what could be
            embedded is kept for the next call.
    """
    manifest_store = ManifestStore(cache, dataset)
    manifest = manifest_store.provenance()
    if manifest.root is None:
        raise UserError(f"{manifest_store.file}: this data set has no image files, only embeddings")
    root = Path(manifest.root)
    store = ImageStore(cache, dataset, encoder.name)
    origin = ImageProvenance(
        dataset=dataset,
        content="",
        inputs={"manifest": manifest.content, "classes": manifest.inputs["classes"]},
        precision=embed.precision,
        views=embed.views,
        seed=embed.seed if embed.views else None,
        **facts_of(encoder),
    )
    if embed.views_from is not None:
        shown = manifest_store.read(["path"])["path"].to_pylist()
        origin = origin.model_copy(update={"settings": _views_given(dataset, shown, embed)})
    rows = manifest_store.read(["image_id", "path", "class_id", "split", "sha256", "error"])
    broken = rows.filter(pc.is_valid(rows["error"])).to_pylist()
    rows = rows.filter(pc.is_null(rows["error"])).drop_columns(["error"]).combine_chunks()
    if not len(rows):
        raise UserError(
            f"{manifest_store.file}: no image could be read when it was ingested: run `pipeline ingest {dataset}` again"
        )
    left_out = store.provenance().left_out if is_current(store, origin) else None
    skipped, reused = left_out is not None and not _come_back(rows, left_out, root), 0
    if skipped:
        Parts(store, origin, part_rows=_cut(embed)[1]).clear("pipeline embed-images")
    else:
        if not root.exists():
            raise UserError(f"image folder {root} is gone: bring it back, or run `pipeline ingest {dataset}` again")
        with store.locked("pipeline embed-images"):
            left_out, reused = _embed(
                store, encoder, origin, rows, root=root, embed=embed, max_missing=max_missing, mapper=mapper
            )
            keep(store, manifest_store)
    assert left_out is not None
    _require_most(dataset, rows, left_out, max_missing)
    return EmbedSummary(
        dataset,
        "images",
        encoder.name,
        len(rows) - len(left_out),
        encoder.note,
        views=embed.views,
        unreadable=[f"{row['path']}: {row['error']}" for row in broken],
        left_out=_lines(rows, left_out),
        skipped=skipped,
        reused=reused,
    )


def _cut(embed: EmbedParams) -> tuple[int, int]:
    """Images embedded at once, and of a part: whole batches. An embedding leans a little on its batch, and a run that
    goes on has to cut them as this one does.
    """
    at_once = max(1, embed.batch // (1 + embed.views))
    return at_once, max(1, embed.part // (1 + embed.views) // at_once) * at_once


def _embed(
    store: ImageStore, encoder: "Encoder", origin: ImageProvenance, rows: pa.Table, *, root: Path, embed: EmbedParams,
    max_missing: float, mapper: Mapper | None,
) -> tuple[dict[str, str], int]:  # fmt: skip
    """Write the store, or add to the one that is there what it lacks; image_id -> why it was left out, and how many
    embeddings were taken from an earlier store.
    """
    at_once, a_part = _cut(embed)
    again = is_current(store, origin)
    wanted, key = rows, origin
    if again:
        there = store.provenance()
        lacking = np.flatnonzero(pc.is_in(rows["image_id"], pa.array(list(there.left_out), pa.string())).to_numpy())
        wanted = rows.filter(pa.array(np.isin(np.arange(len(rows)) // at_once, lacking // at_once))).combine_chunks()
        key = origin.model_copy(update={"inputs": {**origin.inputs, "images": there.content}})
    parts = Parts(store, key, part_rows=a_part)
    cuts = [wanted.slice(start, a_part) for start in range(0, len(wanted), a_part)]
    kept = None if again else find_kept(store, origin, wanted)
    _fill(parts, cuts, encoder, root=root, embed=embed, earlier=kept, mapper=mapper)
    left_out = {image_id: why for part in range(len(cuts)) for image_id, why in parts.left_out(part).items()}
    _require_most(store.dataset, rows, left_out, max_missing)
    made = origin.model_copy(update={"left_out": left_out})
    if again:
        fresh = pa.concat_tables(list(parts.tables(len(cuts))))
        parts.finish(_joined(store, fresh, rows["image_id"].combine_chunks()), provenance=made)
    else:
        finish(parts, len(cuts), made, mapper)
    return left_out, 0 if kept is None else int((kept.at >= 0).sum())


def _fill(
    parts: Parts, cuts: list[pa.Table], encoder: "Encoder", *, root: Path, embed: EmbedParams, earlier: Kept | None,
    mapper: Mapper | None,
) -> None:  # fmt: skip
    """Embed the parts that are not complete, and save each with what had to be left out of it."""
    have = _places(cuts, earlier)
    todo = [part for part in range(len(cuts)) if not parts.has(part) or parts.left_out(part)]
    total = sum(map(len, cuts))
    kept = total - sum(len(cuts[part]) for part in todo)
    dataset = parts.store.dataset
    lacking = [cuts[part].filter(pa.array(have[part] < 0)) for part in todo]
    wanted = pa.concat_tables(lacking or [cuts[0].slice(0, 0)])
    stream = vectors(encoder, root, wanted, embed) if mapper is None else mapper.images(root, wanted, embed)
    told = keeping(lambda: f"{kept} of {total} images of {dataset} are kept")
    with told, progress_bar(f"images {dataset}", total=len(wanted), unit="image") as bar, ThreadPoolExecutor(1) as pool:
        saving = None
        for part in todo:
            known = have[part][have[part] >= 0]
            taken = iter(earlier.vectors(known) if earlier is not None and len(known) else ())
            found: list[np.ndarray | str] = []
            for place in have[part]:
                found.append(next(taken) if place >= 0 else next(stream))
                bar.update(int(place < 0))
            table = _table(cuts[part], found, encoder, views=1 + embed.views, precision=embed.precision)
            names = cuts[part]["image_id"].to_pylist()
            left_out = {name: why for name, why in zip(names, found, strict=True) if isinstance(why, str)}
            if saving is not None:
                saving.result()
            saving = pool.submit(parts.save, part, table, left_out)
            kept += len(cuts[part])
        if saving is not None:
            saving.result()


def _places(cuts: list[pa.Table], earlier: Kept | None) -> list[Int[np.ndarray, " images"]]:
    """For each image of each part its place among all that are wanted, or -1 where it has to be embedded."""
    total = sum(map(len, cuts))
    places = np.full(total, -1) if earlier is None else np.where(earlier.at >= 0, np.arange(total), -1)
    return np.split(places, np.cumsum([len(cut) for cut in cuts])[:-1])


def _joined(store: ImageStore, fresh: pa.Table, image_ids: pa.Array) -> Iterator[pa.Table]:
    """The store's rows with the fresh ones among them, or in their place, in the store's order.

    Args:
        image_ids: of the manifest, in the store's order.
    """
    at = pc.index_in(fresh["image_id"], image_ids).to_numpy()
    taken = 0
    for piece in store.batches():
        here = pc.index_in(piece["image_id"], image_ids).to_numpy()
        stop = int(np.searchsorted(at, here[-1], side="right"))
        kept = piece.filter(pa.array(~np.isin(here, at)))
        yield store.in_order(pa.concat_tables([kept, fresh.slice(taken, stop - taken)]))
        taken = stop
    yield fresh.slice(taken)


def _come_back(rows: pa.Table, left_out: dict[str, str], root: Path) -> bool:
    """Whether any image that was left out can be read now."""
    there = rows.filter(pc.is_in(rows["image_id"], pa.array(list(left_out), pa.string())))
    return any(not isinstance(read_picture(root, path), str) for path in there["path"].to_pylist())


def _require_most(dataset: str, rows: pa.Table, left_out: dict[str, str], max_missing: float) -> None:
    """Refuse a store without too many of its images."""
    if len(left_out) < len(rows) and len(left_out) <= max_missing * len(rows):
        return
    raise UserError(
        f"{dataset}: {len(left_out)} of {len(rows)} images cannot be read ({_reasons(left_out)}; first: "
        f"{next(iter(_lines(rows, left_out)), 'none')}), more than the share that data.{dataset}.max_missing allows "
        f"({max_missing:g}): bring them back and run this again, what could be embedded is kept; or run `pipeline "
        f"ingest {dataset}` again"
    )


def _reasons(left_out: dict[str, str]) -> str:
    """`12 missing, 1 undecodable`."""
    counts = Counter(why.partition(":")[0] for why in left_out.values())
    return ", ".join(f"{n} {why}" for why, n in sorted(counts.items()))


def _lines(rows: pa.Table, left_out: dict[str, str]) -> list[str]:
    """`PATH: why` of each image that was left out."""
    there = rows.filter(pc.is_in(rows["image_id"], pa.array(list(left_out), pa.string()))).select(["image_id", "path"])
    return [f"{row['path']}: {left_out[row['image_id']]}" for row in there.to_pylist()]


def _views_given(dataset: str, paths: list[str], embed: EmbedParams) -> dict[str, str]:
    """What pins the pictures of a views folder: their names and sizes; says how many there are.

    Raises:
        UserError: no folder, no view asked for, or no picture of any image.
    """
    from pipeline.embed.pictures import given_views

    folder = Path(embed.views_from or "")
    if not folder.is_dir():
        raise UserError(f"embed.views_from: {folder} is no folder")
    if not embed.views:
        raise UserError("embed.views_from: say how many of the pictures are views, with --views N", exit_code=2)
    found = [given_views(folder, path)[: embed.views] for path in paths]
    lacking = sum(len(some) < embed.views for some in found)
    if lacking == len(found) and not any(found):
        raise UserError(
            f"{folder}: no picture of any image of {dataset}: expected a folder such as "
            f"{folder / Path(paths[0]).with_suffix('')} with pictures of it"
        )
    if lacking:
        say(f"{dataset}: {lacking} of {len(found)} images have fewer than {embed.views} pictures in {folder}: "
            "augmentations make up for them")  # fmt: skip
    listed = [(str(file.relative_to(folder)), file.stat().st_size) for some in found for file in some]
    return {VIEWS_FROM: hashlib.sha256(json.dumps(listed).encode()).hexdigest()}


def worker_count(asked: int | str, *, cpu: bool) -> int:
    """Processes that decode beside the encoder: as asked; by themselves one a core beside a GPU, none beside a CPU.

    The threads of an encoder on a CPU work in step, and one that shares its core holds all of them up: there decoding
    with all cores between two batches is faster than decoding beside them.
    """
    if isinstance(asked, int):
        return asked
    return 0 if cpu else max(1, min(16, _cores() - 1))


def vectors(encoder: "Encoder", root: Path, rows: pa.Table, embed: EmbedParams) -> Iterator[np.ndarray | str]:
    """Yield the embeddings (1 + views, D) of each image, in order, or why it cannot be read."""
    import torch

    from pipeline.embed.pictures import Pictures

    if not len(rows):
        return
    pictures = Pictures(
        root, rows["path"].combine_chunks(), rows["image_id"].combine_chunks(), preprocess=encoder.preprocess,
        augment=encoder.augment, views=embed.views, seed=embed.seed,
        views_from=None if embed.views_from is None else Path(embed.views_from),
    )  # fmt: skip
    each = 1 + embed.views
    for pixels, errors in _batches(pictures, encoder, max(1, embed.batch // each), embed.workers):
        with torch.inference_mode():
            found = encoder.encode_images(pixels).numpy() if pixels is not None else no_vectors(encoder.width)
        read = iter(found.reshape(-1, each, encoder.width))
        for error in errors:
            yield error or next(read)


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
    rows: pa.Table, vectors: list[np.ndarray | str], encoder: "Encoder", *, views: int, precision: str
) -> pa.Table:
    """One part of the store: the readable images, each with all its views."""
    found = [vector for vector in vectors if not isinstance(vector, str)]
    good = [i for i, vector in enumerate(vectors) if not isinstance(vector, str)]
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
    schema = ImageStore.schema(width=encoder.width, precision=precision)
    return pa.table([columns[name] for name in schema.names], schema=schema)
