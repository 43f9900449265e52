"""Sentences to text stores: templates, captions, questions and answers in one, prompts in one a source."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embed.base import EmbedSummary, Mapper, facts_of, finish, no_vectors
from pipeline.prompts.commands import pasteable, remake
from stages import (
    ManifestProvenance,
    ManifestStore,
    PromptStore,
    Provenance,
    TextProvenance,
    TextStore,
    UserError,
    display_name,
)
from stages.command import progress_bar
from stages.params import DataParams, EmbedParams
from stages.stopping import keeping
from stages.stores.artifacts import NO_LLM, embedding_array, partition_values
from stages.stores.parts import Parts, is_current

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

ROWS = pa.schema([(name, kind) for name, kind in TextStore.columns if name != "encoder_name"])


def embed_text(
    dataset: str, encoder: "Encoder", *, data: DataParams, embed: EmbedParams, cache: Path,
    mapper: Mapper | None = None,
) -> list[EmbedSummary]:  # fmt: skip
    """Embed what a data set says: templates, captions, questions and answers, and the kept prompts of every source.

    A source that cannot be read, or was written for other classes or images, is left out, and its summary says so
    (`fault`); the others are embedded.

    Args:
        mapper: where the sentences are embedded; None: in this process.

    Raises:
        UserError: no manifest yet.
    """
    store = ManifestStore(cache, dataset)
    manifest = store.provenance()
    classes = {"classes": manifest.inputs["classes"]}
    said = list(_of_images(store))
    # A known data set brings its templates; `ingest` kept them where the settings set none.
    known = None if "templates" in data.model_fields_set else manifest.templates
    templates = data.templates if known is None else list(known)
    rows = pa.Table.from_pylist([*_templates(manifest, templates), *said], schema=ROWS)
    inputs = classes | ({"manifest": manifest.content} if said else {})
    own = TextStore(cache, dataset, encoder.name, NO_LLM)
    common = {"dataset": dataset, "content": "", "precision": embed.precision, **facts_of(encoder)}
    origin = TextProvenance(**common, inputs=inputs, templates=templates)
    done = [_embed_rows(own, origin, rows, encoder, embed, mapper)]
    now = {**classes, "manifest": manifest.content}
    for source in partition_values(cache, PromptStore, "llm", dataset=dataset):
        try:
            found, kept = _kept(PromptStore(cache, dataset, source), now)
        except UserError as error:
            fault = str(error)
            done.append(EmbedSummary(dataset, "text", encoder.name, 0, encoder.note, llm=source, fault=fault))
            continue
        rows = kept.append_column("kind", pa.array(["prompt"] * len(kept), pa.string())).select(ROWS.names)
        text = TextStore(cache, dataset, encoder.name, source)
        origin = TextProvenance(
            **common,
            inputs={**classes, "prompts": found.content},
            llm=found.llm,
            llm_fingerprint=found.llm_fingerprint,
            llm_note=found.note,
        )
        done.append(_embed_rows(text, origin, rows, encoder, embed, mapper))
    return done


def _kept(prompts: PromptStore, now: Mapping[str, str]) -> tuple[Provenance, pa.Table]:
    """The provenance and the kept sentences of one source.

    Args:
        now: what the manifest is now (`classes`, `manifest`).

    Raises:
        UserError: the store cannot be read, or was written for other classes or images.
    """
    found = prompts.provenance()
    if any(now[name] != made_from for name, made_from in found.inputs.items() if name in now):
        raise UserError(
            f"{prompts.file} was written for other classes or images than the manifest has now; its sentences are not "
            f"embedded: run `{pasteable(remake(found))}`, then this again"
        )
    kept = prompts.read(["prompt_id", "class_id", "image_id", "text", "kept"])
    return found, kept.filter(kept["kept"]).drop_columns(["kept"])


def _templates(manifest: ManifestProvenance, templates: list[str]) -> Iterator[dict[str, Any]]:
    for class_id, name in manifest.class_names.items():
        for k, template in enumerate(templates):
            yield {
                "prompt_id": f"template-{class_id:05d}-{k:02d}", "kind": "template", "class_id": class_id,
                "image_id": None, "text": template.replace("{}", display_name(name)),
            }  # fmt: skip


def _of_images(store: ManifestStore) -> Iterator[dict[str, Any]]:
    """Captions, questions and the distinct answers to each, in their order."""
    columns = ["image_id", "class_id", "captions", "questions"]
    for table in store.batches(columns):
        if table["captions"].null_count == table["questions"].null_count == len(table):
            continue
        for row in table.to_pylist():
            about = {"class_id": row["class_id"], "image_id": row["image_id"]}
            for k, caption in enumerate(row["captions"] or ()):
                yield {"prompt_id": f"caption-{row['image_id']}-{k:03d}", "kind": "caption", "text": caption, **about}
            for asked in row["questions"] or ():
                name = f"{row['image_id']}-{asked['question_id']}"
                yield {"prompt_id": f"question-{name}", "kind": "question", "text": asked["question"], **about}
                for k, answer in enumerate(dict.fromkeys(asked["answers"] or ())):
                    yield {"prompt_id": f"answer-{name}-{k:03d}", "kind": "answer", "text": answer, **about}


def _embed_rows(
    store: TextStore, origin: TextProvenance, rows: pa.Table, encoder: "Encoder", embed: EmbedParams,
    mapper: Mapper | None,
) -> EmbedSummary:  # fmt: skip
    source = origin.llm or NO_LLM
    kinds = dict(sorted(Counter(rows["kind"].to_pylist()).items()))
    about = store.dataset, "text", encoder.name, len(rows), encoder.note
    done = Parts(store, origin, part_rows=embed.part)
    if is_current(store, origin):
        done.clear("pipeline embed-text")
        return EmbedSummary(*about, llm=source, skipped=True, kinds=kinds)
    rows = store.in_order(rows)
    twice = len(rows) - pc.count_distinct(rows["prompt_id"]).as_py()
    if twice:
        raise UserError(f"{store.dataset}: {twice} sentences share their id with another; ingest the data set again")
    schema = store.schema(width=encoder.width, precision=embed.precision)
    parts = range(max(1, -(-len(rows) // embed.part)))
    kept = 0
    bar = progress_bar(f"text {store.dataset}/{source}", total=len(rows), unit="sentence")
    told = keeping(lambda: f"{kept} of {len(rows)} sentences of {store.dataset}/{source} are kept")
    with store.locked("pipeline embed-text"), told, bar:
        chunks = [rows.slice(part * embed.part, embed.part) for part in parts]
        todo = (chunk["text"].to_pylist() for part, chunk in zip(parts, chunks, strict=True) if not done.has(part))
        wanted = filter(None, todo)
        stream = (encoder.encode_text(texts).numpy() for texts in wanted) if mapper is None else mapper.texts(wanted)
        for part, chunk in zip(parts, chunks, strict=True):
            if not done.has(part):
                vectors = next(stream) if len(chunk) else no_vectors(encoder.width)
                filled = chunk.append_column("encoder_name", pa.array([encoder.name] * len(chunk), pa.string()))
                filled = filled.append_column("embedding", embedding_array(vectors, precision=embed.precision))
                done.save(part, filled.select(schema.names))
            kept += len(chunk)
            bar.update(len(chunk))
        finish(done, len(parts), origin, mapper)
    return EmbedSummary(*about, llm=source, kinds=kinds)
