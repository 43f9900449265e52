"""All sentences about the classes: searched by word, class and source; kept or dropped and why; and their worth.

The worth of a sentence is measured on training images alone: its mean cosine to the images of its own class, and by how
much that exceeds the class that is nearest of all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from stages import UserError
from stages.stores.artifacts import NO_LLM, PromptStore, TextStore, embedding_matrix, partition_values
from trainer.report.page.blocks import Browser, Section, Text
from trainer.report.page.dataset import DataSet

MOST_LETTERS = 1_000_000
"""Of all sentences of a data set; beyond it each class keeps its first ones."""

ONE_CLASS_ALONE = "Their worth is measured where an image has one class, and is not shown here."

Row = list[Any]
"""class, source, text, reason of the drop ("" where kept), own cosine, margin, nearest other class; see `script.js`."""


def section(of: DataSet) -> Section | None:
    """The browser; None where there is no sentence at all."""
    names = _class_names(of)
    label = {class_id: at for at, class_id in enumerate(sorted(names))}
    encoder = of.record.encoder
    with_text = partition_values(of.cache, TextStore, "llm", dataset=of.name, encoder=encoder)
    written = partition_values(of.cache, PromptStore, "llm", dataset=of.name)
    sources = [s for s in dict.fromkeys([*written, *with_text]) if s != NO_LLM]
    if not sources:
        return None
    centres, note = _centres(of) if of.judges_classes else (None, ONE_CLASS_ALONE)
    rows: list[Row] = []
    for number, source in enumerate(sources):
        rows += _rows(of, source, number, label, centres)
    shown, left = within(rows, MOST_LETTERS)
    notes = [note] if note else []
    if left:
        notes.append(
            f"{left} of {len(rows)} sentences are left out, so that the page stays small: each class keeps its first."
        )
    kept = sum(not row[3] for row in rows)
    caption = f"{len(rows)} sentences about {len(names)} classes, {kept} of them kept"
    data = {
        "classes": [names[class_id] for class_id in sorted(names)],
        "sources": sources,
        "rows": shown,
    }
    lead = (
        "Own is the mean cosine of a sentence to the training images of its class, margin by how much that exceeds the "
        "nearest other class: below 0 the sentence fits another class better. Both by the embeddings of the encoder "
        f"{encoder}; the test images have no part in it."
    )
    lead = "" if centres is None else lead
    return Section("sentences", "Sentences", [*([Text(notes)] if notes else []), Browser(caption, data)], lead)


def _class_names(of: DataSet) -> dict[int, str]:
    return of.manifest_origin.class_names


def _centres(of: DataSet) -> tuple[Float[np.ndarray, "C D"] | None, str]:
    """Mean training image of each class, not of length 1: a dot product with it is a mean of cosines."""
    from trainer.methods.common import class_sums

    try:
        features = of.features
    except UserError as error:
        return None, f"Their worth could not be measured: {error}."
    images = features.train.images.float32()
    sums = class_sums(images, len(features.class_names))
    number = images.labels.bincount(minlength=len(sums)).clamp(min=1)
    return np.asarray((sums / number[:, None]).numpy(), dtype=np.float32), ""


def _rows(
    of: DataSet, source: str, number: int, label: dict[int, int], centres: Float[np.ndarray, "C D"] | None
) -> list[Row]:
    """Of one source: what the prompt store holds, else what was embedded."""
    written = PromptStore(of.cache, of.name, source)
    embedded = TextStore(of.cache, of.name, of.record.encoder, source)
    worth: dict[str, tuple[float, float, int]] = {}
    texts: list[tuple[str, int, str, str]] = []
    if embedded.exists():
        table = embedded.read(["prompt_id", "kind", "class_id", "text", "embedding"])
        ids, kinds, classes = (table[name].to_pylist() for name in ("prompt_id", "kind", "class_id"))
        own = [at for at, kind in enumerate(kinds) if kind == "prompt" and classes[at] in label]
        texts = [(ids[at], classes[at], table["text"][at].as_py(), "") for at in own]
        if centres is not None and own:
            vectors = embedding_matrix(table["embedding"])[own].astype(np.float32)
            found = worths(vectors, np.array([label[classes[at]] for at in own]), centres)
            worth = dict(zip((ids[at] for at in own), found, strict=True))
    if written.exists():
        table = written.read(["prompt_id", "class_id", "text", "answer", "kept", "drop_reason"])
        texts = [
            (row["prompt_id"], row["class_id"], row["text"] or row["answer"] or "",
             "" if row["kept"] else row["drop_reason"] or "dropped")
            for row in table.to_pylist()
            if row["class_id"] in label
        ]  # fmt: skip
    rows: list[Row] = []
    for prompt_id, class_id, text, reason in texts:
        own_, margin, other = worth.get(prompt_id, (None, None, None))
        rows.append([label[class_id], number, text, reason, own_, margin, other])
    return rows


def worths(
    sentences: Float[np.ndarray, "N D"], labels: np.ndarray, centres: Float[np.ndarray, "C D"]
) -> list[tuple[float, float, int]]:
    """Of each sentence the mean cosine to its class's images, the margin to the nearest other class, and that class."""
    found = []
    for start in range(0, len(sentences), 4096):  # 1,000 classes times all sentences would be large
        cosines = sentences[start : start + 4096] @ centres.T
        own_labels = labels[start : start + 4096]
        rows = np.arange(len(cosines))
        own = cosines[rows, own_labels].copy()
        cosines[rows, own_labels] = -np.inf
        other = cosines.argmax(axis=1)
        margin = own - cosines[rows, other]
        found += [
            (round(float(o), 3), round(float(m), 3), int(c)) for o, m, c in zip(own, margin, other, strict=True)
        ]  # fmt: skip
    return found


def within(rows: list[Row], letters: int) -> tuple[list[Row], int]:
    """The rows, or the first ones of every class and source that fit; and how many are left out."""
    if sum(len(row[2]) for row in rows) <= letters:
        return rows, 0
    place: dict[tuple[int, int], int] = {}
    order = []
    for at, row in enumerate(rows):
        nth = place[row[0], row[1]] = place.get((row[0], row[1]), -1) + 1
        order.append((nth, at))
    taken, left = [], letters
    for _, at in sorted(order):
        left -= len(rows[at][2])
        if left < 0:
            break
        taken.append(at)
    return [rows[at] for at in sorted(taken)], len(rows) - len(taken)
