"""Checked embeddings as stores: those that ingesting, importing prompts and embedding with that encoder would give."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.checks import FeatureSet, Prompts, read_features
from pipeline.features.vectors import unit_blocks
from stages import (
    ImageProvenance,
    ImageStore,
    ManifestProvenance,
    ManifestStore,
    PromptProvenance,
    PromptStore,
    Provenance,
    TextProvenance,
    TextStore,
    UserError,
    display_name,
)
from stages.arrays import hash_arrays
from stages.command import progress_bar
from stages.files import remove_tree
from stages.params import DataParams, EmbedParams
from stages.stores.artifacts import CLASS_IDS, NO_LLM, Store, embedding_array, partition_values
from stages.stores.parts import is_current
from stages.stores.provenance import FEATURES, SECOND, named_fingerprint


def encoder_facts(encoder: str, width: int) -> dict[str, Any]:
    """What the provenance of all stores says about the encoder."""
    return {"encoder": encoder, "encoder_fingerprint": named_fingerprint(encoder, width), "width": width}


def note_of(manifest: ManifestProvenance) -> str:
    """The honest line that every output repeats."""
    return f"embeddings of {manifest.encoder} as was said, made elsewhere and taken from {manifest.features}"


def write_stores(found: FeatureSet, manifest: ManifestProvenance, *, cache: Path, embed: EmbedParams) -> list[str]:
    """Write prompts, text and images of a manifest that was just written; what is current stays as it is.

    Stores of an older file that this one does not bring again are removed.

    Returns:
        Lines that say what came in and what was removed.

    Raises:
        UserError: the disk is full or read-only, or another command writes the same store.
    """
    _write_prompts(found, manifest, cache=cache)
    written = [
        *_write_text(found, manifest, cache=cache, embed=embed),
        _write_images(found, manifest, cache=cache, embed=embed),
    ]
    return [line for line in [*written, _remove_others(found, manifest, cache)] if line]


def take(dataset: str, what: str, *, data: DataParams, cache: Path, embed: EmbedParams) -> list[str]:
    """Write the stores of one kind again from the file that a data set came from, where they are not current.

    This is what `generate-prompts`, `embed-text` and `embed-images` do for such a data set; DVC asks each for its own.

    Args:
        what: `prompts`, `text` or `images`.

    Raises:
        UserError: the file is gone or is another one by now.
    """
    manifest = ManifestStore(cache, dataset).provenance()
    assert manifest.from_arrays
    assert manifest.features is not None
    source = Path(manifest.features)
    again = f"run `pipeline ingest {dataset}` again"
    if not source.exists():
        raise UserError(f"{source} is gone, which the embeddings of {dataset} came from: bring it back, or {again}")
    if hash_arrays(source) != manifest.inputs[FEATURES]:
        raise UserError(f"{source} is not the file that {dataset} was ingested from: {again}")
    found = read_features(source, columns=data.columns, class_names=data.class_names)
    if found.class_names != manifest.class_names:
        raise UserError(f"{source}: gives other classes under these settings than when it was ingested: {again}")
    if what == "prompts":
        lines = _write_prompts(found, manifest, cache=cache)
        _empty_folder(cache / "prompts" / f"dataset={dataset}")
    elif what == "text":
        lines = _write_text(found, manifest, cache=cache, embed=embed)
        _empty_folder(cache / "text" / f"dataset={dataset}")
    else:
        lines = [_write_images(found, manifest, cache=cache, embed=embed)]
    return [line for line in lines if line]


def _empty_folder(folder: Path) -> None:
    """DVC wants its output there, though a file may bring no text."""
    folder.mkdir(parents=True, exist_ok=True)


def manifest_table(found: FeatureSet, splits: dict[str, str]) -> pa.Table:
    """One row an image; `splits` has the split of each image id."""
    first = np.flatnonzero(found.views == 0)
    ids = [found.image_ids[row] for row in first.tolist()]
    class_ids = found.class_ids[first]
    nothing = {name: pa.nulls(len(ids), kind) for name, kind in ManifestStore.columns}
    if found.several is not None:
        own = [found.several[row] for row in first.tolist()]
        return pa.table(
            nothing
            | {
                "image_id": pa.array(ids, pa.string()),
                "path": pa.array(ids, pa.string()),
                "split": pa.array([splits[image_id] for image_id in ids], pa.string()),
                CLASS_IDS: pa.array(own, pa.list_(pa.int32())),
            }
        )
    return pa.table(
        nothing
        | {
            "image_id": pa.array(ids, pa.string()),
            "path": pa.array(ids, pa.string()),
            "class_id": pa.array(class_ids, pa.int32()),
            "class_name": pa.array([found.class_names[c] for c in class_ids.tolist()], pa.string()),
            "split": pa.array([splits[image_id] for image_id in ids], pa.string()),
        }
    )


def _inputs(manifest: ManifestProvenance) -> dict[str, str]:
    return {name: manifest.inputs[name] for name in ("classes", FEATURES)}


def _facts(manifest: ManifestProvenance) -> dict[str, Any]:
    assert manifest.encoder is not None
    assert manifest.width is not None
    return {
        "dataset": manifest.dataset, "content": "", "note": note_of(manifest),
        **encoder_facts(manifest.encoder, manifest.width),
    }  # fmt: skip


def _write_images(found: FeatureSet, manifest: ManifestProvenance, *, cache: Path, embed: EmbedParams) -> str:
    facts = _facts(manifest)
    store = ImageStore(cache, manifest.dataset, facts["encoder"])
    most = int(found.views.max(initial=0))
    origin = ImageProvenance(
        **facts, inputs={**_inputs(manifest), "manifest": manifest.content}, precision=embed.precision, views=most
    )
    views = f" with {most} further views each" if most else ""
    images = int((found.views == 0).sum())
    line = f"{images} images{views}: embeddings of {origin.encoder}, {origin.width} wide, kept as {embed.precision}"
    if is_current(store, origin):
        return f"{line} (up to date)"
    known = ManifestStore(cache, manifest.dataset).read(["image_id", "split"])
    split_of = dict(zip(known["image_id"].to_pylist(), known["split"].to_pylist(), strict=True))
    count = len(found.image_ids)
    rows = pa.table(
        {
            "image_id": pa.array(found.image_ids, pa.string()),
            "view": pa.array(found.views, pa.int32()),
            "class_id": pa.array(found.class_ids, pa.int32()) if found.several is None else pa.nulls(count, pa.int32()),
            "split": pa.array([split_of[image_id] for image_id in found.image_ids], pa.string()),
            "encoder_name": pa.array([origin.encoder] * len(found.rows), pa.string()),
        }
    )
    _write_embedded(store, origin, rows, found.embedding, found.rows, embed.precision)
    return line


def _write_text(found: FeatureSet, manifest: ManifestProvenance, *, cache: Path, embed: EmbedParams) -> list[str]:
    facts = _facts(manifest)
    lines = []
    array = found.text_template
    if array is not None:
        count = array.shape[1]
        sentences = found.templates or [
            f"{{}} (template {k + 1} of {count}, its words are not in the file)" for k in range(count)
        ]
        origin = TextProvenance(**facts, inputs=_inputs(manifest), precision=embed.precision, templates=sentences)
        store = TextStore(cache, manifest.dataset, facts["encoder"], NO_LLM)
        chosen = [(c, row, k) for c, row in sorted(found.text_rows.items()) for k in range(count)]
        texts = [sentences[k].replace("{}", display_name(found.class_names[c])) for c, _, k in chosen]
        rows = _text_rows(
            [f"template-{c:05d}-{k:02d}" for c, _, k in chosen], "template", [c for c, _, _ in chosen], texts, facts
        )
        where = np.array([row * count + k for _, row, k in chosen], np.int64)
        flat = array.reshape(-1, array.shape[2])
        current = is_current(store, origin)
        if not current:
            _write_embedded(store, origin, rows, flat, where, embed.precision)
        lines.append(
            f"text of {len(found.text_rows)} classes, {count} template{'s' * (count > 1)} each{_again(current)}"
        )
    for source, prompts in found.prompts.items():
        store = TextStore(cache, manifest.dataset, facts["encoder"], source)
        about = PromptStore(cache, manifest.dataset, source).provenance()
        origin = TextProvenance(
            **facts, inputs={**_inputs(manifest), "prompts": about.content}, llm=about.llm,
            llm_fingerprint=about.llm_fingerprint, precision=embed.precision,
        )  # fmt: skip
        if is_current(store, origin):
            continue
        names, texts = _named_prompts(found, source, prompts)
        rows = _text_rows(names, "prompt", prompts.class_ids.tolist(), texts, facts)
        embedded = found.arrays["prompts"]
        assert isinstance(embedded, np.ndarray)
        _write_embedded(store, origin, rows, embedded, prompts.rows, embed.precision)
    return lines


def _again(current: bool) -> str:
    return " (up to date)" if current else ""


def _text_rows(ids: list[str], kind: str, class_ids: list[int], texts: list[str], facts: dict[str, Any]) -> pa.Table:
    return pa.table(
        {
            "prompt_id": pa.array(ids, pa.string()),
            "kind": pa.array([kind] * len(ids), pa.string()),
            "class_id": pa.array(class_ids, pa.int32()),
            "image_id": pa.nulls(len(ids), pa.string()),
            "text": pa.array(texts, pa.string()),
            "encoder_name": pa.array([facts["encoder"]] * len(ids), pa.string()),
        }
    )


def _named_prompts(found: FeatureSet, source: str, prompts: Prompts) -> tuple[list[str], list[str]]:
    """Id and sentence of each prompt; where the file has no words, a line that says so."""
    counts: Counter[int] = Counter()
    ids, texts = [], []
    for row, class_id in enumerate(prompts.class_ids.tolist()):
        number = counts[class_id]
        counts[class_id] += 1
        ids.append(f"{class_id:05d}-{source}-{number:03d}")
        said = "" if prompts.texts is None else " ".join(prompts.texts[row].split())
        name = display_name(found.class_names[class_id])
        texts.append(said or f"{source} {number + 1} of {name} (its words are not in the file)")
    return ids, texts


def _write_prompts(found: FeatureSet, manifest: ManifestProvenance, *, cache: Path) -> list[str]:
    lines = []
    for source, prompts in found.prompts.items():
        lines.append(f"{len(prompts.rows)} prompts of {source!r} came with the embeddings")
        store = PromptStore(cache, manifest.dataset, source)
        origin = PromptProvenance(
            dataset=manifest.dataset, content="", inputs=_inputs(manifest), llm=source,
            llm_fingerprint=manifest.inputs[FEATURES], file=manifest.features,
        )  # fmt: skip
        if is_current(store, origin):
            continue
        ids, texts = _named_prompts(found, source, prompts)
        count = len(ids)
        numbers = [int(name.rpartition("-")[2]) for name in ids]
        table = pa.table(
            {
                "prompt_id": pa.array(ids, pa.string()),
                "class_id": pa.array(prompts.class_ids, pa.int32()),
                "image_id": pa.nulls(count, pa.string()),
                "question_id": pa.array([source] * count, pa.string()),
                "sample": pa.array(numbers, pa.int32()),
                "text": pa.array(texts, pa.string()),
                "n_tokens": pa.nulls(count, pa.int32()),
                "finish_reason": pa.array(["imported"] * count, pa.string()),
                "kept": pa.array([True] * count),
                "drop_reason": pa.nulls(count, pa.string()),
                "answer": pa.array(texts, pa.string()),
                "llm_name": pa.array([source] * count, pa.string()),
            }
        )
        with store.locked("pipeline ingest"):
            store.write(table, origin)
    return lines


def _write_embedded(
    store: Store, origin: Provenance, rows: pa.Table, array: np.ndarray, where: np.ndarray, precision: str
) -> None:
    """Rows in the store's order, each with its unit vector, a block at a time.

    Args:
        where: the row of `array` that belongs to each row of `rows`.
    """
    keys = [(key, "ascending") for key in store.sort_by]
    order = pc.sort_indices(rows, sort_keys=keys).to_numpy()
    bar = progress_bar(f"{store.name} {store.dataset}", total=len(rows), unit="row")
    with store.locked("pipeline ingest"), store.writing(origin, precision=precision) as writer, bar:
        for positions, vectors in unit_blocks(array, where[order]):
            piece = rows.take(pa.array(order[positions]))
            writer.add(piece.append_column("embedding", embedding_array(vectors, precision=precision)))
            bar.update(len(positions))


def _remove_others(found: FeatureSet, manifest: ManifestProvenance, cache: Path) -> str:
    """Remove what an older file of this data set brought and this one does not; a line that counts it."""
    dataset = manifest.dataset
    wanted: set[Path] = {PromptStore(cache, dataset, source).folder for source in found.prompts}
    encoder = manifest.encoder or ""
    wanted |= {TextStore(cache, dataset, encoder, source).folder for source in found.prompts}
    wanted |= {ImageStore(cache, dataset, encoder).folder}
    if found.text_template is not None:
        wanted.add(TextStore(cache, dataset, encoder, NO_LLM).folder)
    gone = [store for store in _stores(cache, dataset) if store.folder not in wanted and _was_taken(store)]
    for store in gone:
        remove_tree(store.folder)
    what = ", ".join(str(store.folder.relative_to(cache)) for store in gone)
    were = f"{len(gone)} stores of an older file were" if len(gone) > 1 else "1 store of an older file was"
    return f"{were} removed: {what[:300]}" if gone else ""


def _stores(cache: Path, dataset: str) -> Iterator[Store]:
    for source in partition_values(cache, PromptStore, "llm", dataset=dataset):
        yield PromptStore(cache, dataset, source)
    for encoder in partition_values(cache, ImageStore, "encoder", dataset=dataset):
        yield ImageStore(cache, dataset, encoder)
    for encoder in partition_values(cache, TextStore, "encoder", dataset=dataset):
        for source in partition_values(cache, TextStore, "llm", dataset=dataset, encoder=encoder):
            yield TextStore(cache, dataset, encoder, source)


def _was_taken(store: Store) -> bool:
    """Whether a store came from a file of the data set's embeddings; a second encoder's file is another one."""
    try:
        origin = store.provenance()
        return FEATURES in origin.inputs and SECOND not in origin.settings
    except UserError:  # damaged: `verify` speaks of it
        return False
