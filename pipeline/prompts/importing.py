"""Sentences from elsewhere as a prompt store: a file of sentences about the classes, or the captions of the images."""

import hashlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.prompts.clean import mark_duplicates, one_line, storable
from pipeline.prompts.dump import is_dump
from pipeline.prompts.encyclopaedia import MOST, cut, folded, is_encyclopaedia, read_articles, said
from pipeline.prompts.rounds import lacking
from pipeline.prompts.sentence_files import read_sentences
from pipeline.prompts.summary import PromptSummary, summarise
from stages import ManifestProvenance, ManifestStore, PromptProvenance, PromptStore, UserError
from stages.files import sha256_file
from stages.names import slug
from stages.stores.artifacts import NO_LLM
from stages.text import counted

SHOWN = 5
"""Classes that an error names on either side."""


def import_prompts(
    dataset: str, name: str, file: Path, *, cache: Path, most: int | None = None, titles: Path | None = None
) -> PromptSummary:
    """Take sentences about the classes from a file, under the source name `name`.

    Class names are matched blind to case, underscores, hyphens and spaces. Sentences are kept as they are, on one line;
    only exact repetitions and sentences without a word are dropped. What comes from an encyclopaedia (a dump, or texts
    in place of sentences) is cut to sentences and cleaned as a language model's, and classes without an article are
    named.

    Args:
        most: sentences that a class keeps of an encyclopaedia.
        titles: a JSON file `{class: title}` of articles of a dump that are called otherwise than their class.

    Raises:
        UserError: no manifest yet, an unreadable file, or a class without sentences of words; the old store stays.
    """
    manifest = ManifestStore(cache, dataset).provenance()
    names = manifest.class_names
    if not names:
        raise UserError(f"{dataset}: there are no classes to take sentences for; --captions takes those of its images")
    _require_encoder(manifest)
    if titles is not None and not is_dump(file):
        raise UserError(f"--titles is about a dump, and {file} is none: leave it out", exit_code=2)
    if is_encyclopaedia(file):
        most = MOST if most is None else most
        return _import_articles(manifest, name, file, cache=cache, most=most, titles=titles)
    if most is not None:
        raise UserError(f"--most is about an encyclopaedia, and {file} holds sentences: leave it out", exit_code=2)
    given = read_sentences(file)
    found = match(names, given, where=str(file))
    rows = [
        _row(f"{class_id:05d}-{name}-{k:03d}", name, k, sentence, class_id=class_id)
        for class_id, key in found.items()
        for k, sentence in enumerate(given[key])
    ]
    if silent := lacking(rows, names, 1):
        raise UserError(
            f"{file}: no sentence with a letter or a digit for {len(silent)} of {len(names)} classes: "
            f"{_some(list(silent.values()), [])}"
        )
    _write(
        _store(cache, dataset, name),
        rows,
        inputs={"classes": manifest.inputs["classes"]},
        fingerprint=sha256_file(file),
        file=str(file),  # as the user named it: an error gives the command again
    )
    return summarise(dataset, name, rows, names, ignored=sorted(set(given) - set(found.values())))


def _import_articles(
    manifest: ManifestProvenance, name: str, file: Path, *, cache: Path, most: int, titles: Path | None
) -> PromptSummary:
    """Sentences of an encyclopaedia as a prompt store."""
    dataset, names = manifest.dataset, manifest.class_names
    store = _store(cache, dataset, name)
    articles = read_articles(names, file, titles)
    rows, beyond = [], 0
    for class_id, article in articles.of.items():
        found = cut(article, most=most)
        beyond += found.beyond
        for k, (sentence, reason) in enumerate(found.rows):
            row = _row(f"{class_id:05d}-{name}-{k:04d}", name, k, sentence, class_id=class_id)
            rows.append(row | {"drop_reason": reason})
    if not any(row["drop_reason"] is None for row in rows):
        raise UserError(
            f"{file}: no sentence of any class could be kept ({len(rows)} dropped): they name their class, and "
            "are in its language"
        )
    _write(store, rows, inputs={"classes": manifest.inputs["classes"]}, fingerprint=sha256_file(file), file=str(file))
    notes = said(names, articles, beyond=beyond, most=most)
    if silent := [names[class_id] for class_id in lacking(rows, {i: names[i] for i in articles.of}, 1)]:
        what = counted(len(silent), "article")
        notes.append(f"no sentence of {what} could be kept, the template stands in: {_some(silent, [])}")
    return summarise(dataset, name, rows, names, ignored=articles.unused, note="; ".join(notes))


def import_captions(dataset: str, name: str, *, cache: Path) -> PromptSummary:
    """Take the captions of the manifest as reference prompts of their images, one row a caption (section 3.1).

    Raises:
        UserError: no manifest yet, or one without captions.
    """
    manifest_store = ManifestStore(cache, dataset)
    manifest = manifest_store.provenance()
    _require_encoder(manifest)
    images = manifest_store.read(["image_id", "class_id", "captions"]).to_pylist()
    rows = [
        _row(
            f"{_short(image['image_id'])}-{k:03d}", name, k, caption, **{i: image[i] for i in ("class_id", "image_id")}
        )
        for image in images
        for k, caption in enumerate(image["captions"] or [])
    ]
    if all(row["drop_reason"] for row in rows):
        what = "no caption has a letter or a digit" if rows else "no image has captions"
        raise UserError(f"{manifest_store.file}: {what}; name a file of sentences with --file")
    _write(
        _store(cache, dataset, name),
        rows,
        inputs={"classes": manifest.inputs["classes"], "manifest": manifest.content},
        fingerprint=manifest.content,
    )
    return summarise(dataset, name, rows, {})


def match(names: Mapping[int, str], given: Mapping[str, Sequence[str]], *, where: str) -> dict[int, str]:
    """class_id -> class name of the file: the very name, else one that differs in case and separators alone.

    Raises:
        UserError: a class without sentences, or with two candidates; both sides' left-overs are named.
    """
    keys: dict[str, list[str]] = {}
    for key in given:
        keys.setdefault(folded(key), []).append(key)
    found: dict[int, str] = {}
    for class_id, name in names.items():
        candidates = [name] if name in given else keys.get(folded(name), [])
        if len(candidates) > 1:
            raise UserError(f"{where}: {' and '.join(map(repr, candidates))} are both the class {name!r}; join them")
        if candidates:
            found[class_id] = candidates[0]
    missing = [name for class_id, name in names.items() if class_id not in found]
    if missing:
        spare = sorted(set(given) - set(found.values()))
        left = f"; left over in the file: {_some(spare, [])}" if spare else ""
        raise UserError(
            f"{where}: no sentence for {len(missing)} of {len(names)} classes: {_some(missing, spare)}{left}; "
            "give the file the class names of the data set"
        )
    return found


def _some(names: Sequence[str], known: Sequence[str]) -> str:
    """The first few names, each with the known one that it resembles."""
    shown = []
    for name in names[:SHOWN]:
        near = get_close_matches(folded(name), list(map(folded, known)), n=1)
        hint = next((f" (like {key!r:.60})" for key in known if near and folded(key) == near[0]), "")
        shown.append(f"{name!r:.60}{hint}")
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _require_encoder(manifest: ManifestProvenance) -> None:
    """Refuse sentences that nothing here could embed beside the embeddings that a data set came with."""
    if manifest.encoder is not None:
        raise UserError(
            f"{manifest.dataset} came as embeddings of {manifest.encoder}, and no sentence can be embedded beside them "
            f"here: put them into {manifest.features} as `prompts`, and ingest it again"
        )


def _store(cache: Path, dataset: str, name: str) -> PromptStore:
    if slug(name).casefold() == NO_LLM:
        raise UserError(f"--name {name!r} stands for text that has no source; choose another", exit_code=2)
    return PromptStore(cache, dataset, name)


def _short(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()[:16]


def _row(
    prompt_id: str, source: str, number: int, sentence: str, *, class_id: int | None, image_id: str | None = None
) -> dict[str, Any]:
    text = one_line(sentence)
    return {
        "prompt_id": prompt_id, "class_id": class_id, "image_id": image_id, "question_id": source, "sample": number,
        "text": text, "n_tokens": None, "finish_reason": "imported", "answer": storable(sentence), "llm_name": source,
        "drop_reason": None if any(char.isalnum() for char in text) else "empty",
    }  # fmt: skip


def _write(
    store: PromptStore,
    rows: list[dict[str, Any]],
    *,
    inputs: dict[str, str],
    fingerprint: str,
    file: str | None = None,
) -> None:
    mark_duplicates(rows)
    for row in rows:
        row["kept"] = row["drop_reason"] is None
    origin = PromptProvenance(dataset=store.dataset, content="", inputs=inputs, llm=rows[0]["llm_name"],
        llm_fingerprint=fingerprint, file=file,
    )  # fmt: skip
    with store.locked("pipeline import-prompts"):
        store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)
