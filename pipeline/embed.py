"""Sentences and images to embeddings: decode -> preprocess -> encode -> write; resumable, nothing silently lost."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import ImageStore, ManifestStore, PromptStore, Provenance, TextStore, UserError, display_name
from stages.artifacts import NO_LLM, Store, embedding_array, partition_values
from stages.command import progress
from stages.params import DataParams, EmbedParams
from stages.work import Work, is_current

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

IMAGE_PART, TEXT_PART = 512, 4096
"""Rows of one saved part: what a killed run loses at most."""


@dataclass(frozen=True)
class Summary:
    """What was embedded, for the user and for --json."""

    dataset: str
    store: str
    encoder: str
    rows: int
    note: str
    llm: str | None = None
    unreadable: list[str] = field(default_factory=list)
    skipped: bool = False


def _origin(store: Store, encoder: "Encoder", **more: Any) -> Provenance:
    return Provenance(
        store=store.name,
        dataset=store.dataset,
        content="",
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        width=encoder.width,
        note=encoder.note,
        **more,
    )


def embed_text(dataset: str, encoder: "Encoder", *, data: DataParams, embed: EmbedParams, cache: Path) -> list[Summary]:
    """Embed the templates and the kept prompts of every source of a data set, one store a source.

    Raises:
        UserError: no manifest yet, or a prompt store of other classes.
    """
    manifest = ManifestStore(cache, dataset).provenance()
    classes = {"classes": manifest.inputs["classes"]}
    rows = [
        {
            "prompt_id": f"template-{class_id:05d}-{k:02d}", "kind": "template", "class_id": class_id, "image_id": None,
            "text": template.replace("{}", display_name(name)),
        }
        for class_id, name in manifest.class_names.items()
        for k, template in enumerate(data.templates)
    ]  # fmt: skip
    template_store = TextStore(cache, dataset, encoder.name, NO_LLM)
    origin = _origin(template_store, encoder, inputs=classes, settings={"templates": data.templates})
    done = [_embed_rows(template_store, origin, rows, encoder, embed)]
    for source in partition_values(cache, PromptStore, "llm", dataset=dataset):
        prompts = PromptStore(cache, dataset, source)
        found = prompts.provenance()
        if found.inputs.get("classes") != classes["classes"]:
            raise UserError(
                f"{prompts.file} was written for other classes than the manifest has now: run `pipeline "
                f"{'import-prompts' if 'file' in found.settings else 'generate-prompts'} --dataset {dataset}` again"
            )
        kept = [r for r in prompts.read(["prompt_id", "class_id", "image_id", "text", "kept"]).to_pylist() if r["kept"]]
        rows = [{**{k: r[k] for k in ("prompt_id", "class_id", "image_id", "text")}, "kind": "prompt"} for r in kept]
        store = TextStore(cache, dataset, encoder.name, source)
        origin = _origin(
            store,
            encoder,
            inputs={**classes, "prompts": found.content},
            llm=found.llm,
            llm_fingerprint=found.llm_fingerprint,
            settings={"llm_note": found.note},
        )
        done.append(_embed_rows(store, origin, rows, encoder, embed))
    return done


def _embed_rows(
    store: TextStore, origin: Provenance, rows: list[dict[str, Any]], encoder: "Encoder", embed: EmbedParams
) -> Summary:
    origin = origin.model_copy(update={"settings": {**origin.settings, "precision": embed.precision}})
    summary = Summary(store.dataset, "text", encoder.name, len(rows), encoder.note, llm=origin.llm or NO_LLM)
    if is_current(store, origin):
        return Summary(**{**summary.__dict__, "skipped": True})
    schema = store.schema(width=encoder.width, precision=embed.precision)
    work = Work(store, origin, part_rows=TEXT_PART)
    parts = range(max(1, -(-len(rows) // TEXT_PART)))
    for part in progress(parts, what=f"text {store.dataset}/{summary.llm}", unit="part"):
        if work.done(part):
            continue
        chunk = rows[part * TEXT_PART : (part + 1) * TEXT_PART]
        vectors = encoder.encode_text([r["text"] for r in chunk]).numpy() if chunk else _empty(encoder.width)
        columns = {name: [r.get(name) for r in chunk] for name in schema.names[:-1]}
        columns["encoder_name"] = [encoder.name] * len(chunk)
        work.save(
            part, pa.table([*columns.values(), embedding_array(vectors, precision=embed.precision)], schema=schema)
        )
    work.finish(len(parts), provenance=origin)
    return summary


def embed_images(dataset: str, encoder: "Encoder", *, embed: EmbedParams, cache: Path) -> Summary:
    """Embed every readable image of a data set (view 0, the centre crop).

    An image that cannot be decoded is left out of the store, listed in its footer and in the summary.

    Raises:
        UserError: no manifest yet, the image folder is gone, or no image can be decoded.
    """
    manifest_store = ManifestStore(cache, dataset)
    manifest = manifest_store.provenance()
    root = manifest.settings.get("root")
    if root is None:
        raise UserError(f"{manifest_store.file}: this data set has no image files, only embeddings")
    rows = manifest_store.read(["image_id", "path", "class_id", "split", "error"]).to_pylist()
    readable = [r for r in rows if not r["error"]]
    if not Path(root).is_dir():
        raise UserError(f"image folder {root} is gone: run `pipeline ingest {dataset}` again")
    store = ImageStore(cache, dataset, encoder.name)
    origin = _origin(
        store,
        encoder,
        inputs={"manifest": manifest.content, "classes": manifest.inputs["classes"]},
        settings={"precision": embed.precision, "views": 1},
    )
    unreadable = [f"{r['path']}: {r['error']}" for r in rows if r["error"]]
    if is_current(store, origin):
        unreadable = store.provenance().settings["found_unreadable"]
        return Summary(
            dataset,
            "images",
            encoder.name,
            len(rows) - len(unreadable),
            encoder.note,
            unreadable=unreadable,
            skipped=True,
        )
    schema = store.schema(width=encoder.width, precision=embed.precision)
    work = Work(store, origin, part_rows=IMAGE_PART)
    parts = -(-len(readable) // IMAGE_PART)
    todo = [p for p in range(parts) if not work.done(p)]
    chunks = {p: readable[p * IMAGE_PART : (p + 1) * IMAGE_PART] for p in todo}
    wanted = [(p, r) for p in todo for r in chunks[p]]
    stream = _encoded(encoder, [Path(root) / r["path"] for _, r in wanted], embed)
    stream = progress(stream, what=f"images {dataset}", total=len(wanted), unit="image")  # type: ignore[assignment]
    left = Counter(p for p, _ in wanted)
    good: list[tuple[dict[str, Any], Any]] = []
    for (part, row), vector in zip(wanted, stream, strict=True):
        if not isinstance(vector, str):
            good.append((row, vector))
        left[part] -= 1
        if left[part] == 0:
            work.save(part, _image_table(schema, encoder, good, embed))
            good = []
    found = {r["image_id"] for p in range(parts) for r in pq.read_table(work.part(p), columns=["image_id"]).to_pylist()}
    unreadable += [f"{r['path']}: could not be decoded" for r in readable if r["image_id"] not in found]
    if not found:
        raise UserError(f"{root}: none of {len(rows)} images can be decoded (first: {unreadable[0]})")
    final = origin.model_copy(update={"settings": {**origin.settings, "found_unreadable": sorted(unreadable)}})
    work.finish(parts, provenance=final)
    return Summary(dataset, "images", encoder.name, len(found), encoder.note, unreadable=unreadable)


def _empty(width: int) -> Any:
    import numpy as np

    return np.zeros((0, width), dtype=np.float32)


def _image_table(
    schema: pa.Schema, encoder: "Encoder", good: list[tuple[dict[str, Any], Any]], embed: EmbedParams
) -> pa.Table:
    import numpy as np

    rows = [row for row, _ in good]
    vectors = np.stack([vector for _, vector in good]) if good else _empty(encoder.width)
    columns = [
        pa.array([r["image_id"] for r in rows], pa.string()),
        pa.array([0] * len(rows), pa.int32()),
        pa.array([r["class_id"] for r in rows], pa.int32()),
        pa.array([r["split"] for r in rows], pa.string()),
        pa.array([encoder.name] * len(rows), pa.string()),
        embedding_array(vectors, precision=embed.precision),
    ]
    return pa.table(columns, schema=schema)


def _encoded(encoder: "Encoder", files: list[Path], embed: EmbedParams) -> Iterator[Any]:
    """Yield one embedding (D,) a file, in order, or the error text of one that cannot be decoded.

    Decoding runs in `embed.workers` processes, ahead of the encoder.
    """
    import torch
    from torch.utils.data import DataLoader

    from pipeline.pictures import Pictures, collate

    loader = DataLoader(
        Pictures(files, encoder.preprocess),
        batch_size=embed.batch,
        num_workers=min(embed.workers, len(files)),
        collate_fn=collate,
        prefetch_factor=2 if embed.workers and files else None,
    )
    for pixels, errors in loader:
        with torch.inference_mode():
            vectors = iter(encoder.encode_images(pixels).numpy() if pixels is not None else ())
        for error in errors:
            yield next(vectors) if error is None else error
