"""Why a checkpoint says what it says of an image (figures 5 and 7 of the paper).

For the most likely classes: how near the image is to the template, to the vector that the classifier has for the class,
and to the reference prompts; of a sum of text and image evidence, what comes from each. The cosines are what the
classifier computes; whether a prompt caused the answer they do not say, since prompts mostly act through training.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.command import table, visible
from trainer.analysis.parts import class_cosines, score_parts
from trainer.analysis.prompts import (
    Reference,
    aggregator_again,
    attention,
    attention_of_image,
    features_of,
    find_reference,
    has_prompts,
    nearest_prompts,
)
from trainer.checkpoint import Checkpoint
from trainer.methods.aape_plus import AAPEPlusPredictor, ShotsPredictor
from trainer.methods.linear import LinearPredictor
from trainer.predict import Row, embed_files, load_with_encoder

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_SIDE = 320
"""Pixels of the longer side of a picture that is kept for the figure."""
MOST_PICTURES = 12
"""Images of one figure; further ones are left out."""
Attention = Callable[[Tensor, int], list[float] | None]
"""Shares of a class's prompts, for an image and the label of the class."""


@dataclass
class Explanation:
    """What `explain_files` found.

    Attributes:
        rows: `{path, error, classes: [{class, probability, score, from_text, from_images, cos_template, cos_adapted,
            prompts: [{prompt, cosine, attention}]}]}` in the order of the files; null where a classifier has no such
            thing.
        notes: what is left out, and why.
        pictures: small copies of the first readable images, by path.
    """

    rows: list[Row]
    notes: list[str]
    pictures: dict[str, Image] = field(default_factory=dict)


@dataclass(frozen=True)
class Background:
    """What is known beside the checkpoint."""

    reference: Reference | None = None
    attention: Attention | None = None


def explain_files(
    files: Sequence[Path], checkpoint: Path, *, cache: Path, top: int, nearest: int, batch: int, device: str
) -> Explanation:
    """Explain the `top` classes of each image with the `nearest` prompts of each.

    A file that cannot be read becomes a row with its error.

    Raises:
        UserError: the checkpoint is damaged, or the encoder or the stores are not those that it was made with.
    """
    found, encoder = load_with_encoder(checkpoint, device=device, files=files)
    known, notes = background(found, cache)
    result = Explanation([], [*([encoder.note] if encoder.note else []), *notes])
    for each in embed_files(files, encoder, batch=batch, what="explaining"):
        result.rows += each.rows
        for row, picture in zip(each.readable, each.pictures, strict=False):
            if len(result.pictures) < MOST_PICTURES:
                picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
                result.pictures[row["path"]] = picture
        if each.readable:
            explained = explain(each.images, found, known, top=top, nearest=nearest)
            for row, classes in zip(each.readable, explained, strict=True):
                row["classes"] = classes
    return result


def background(found: Checkpoint, cache: Path) -> tuple[Background, list[str]]:
    """Prompts and attention as far as they can be had, and lines on what is missing.

    Raises:
        UserError: the stores are not those that the checkpoint was made with.
    """
    notes = []
    if isinstance(found.predictor, LinearPredictor | ShotsPredictor):
        notes.append(
            "this classifier is one weight vector a class: what text gave it cannot be told apart any more, and the "
            "template and the prompts are shown for comparison alone"
        )
    if not has_prompts(found, cache):
        return Background(), [
            *notes,
            f"{cache}: no embedded prompts of {found.provenance.get('dataset')!r}: none are shown",
        ]
    features = features_of(found, cache)
    reference = find_reference(found, features)
    if reference is None:
        return Background(), notes
    shares: Attention | None
    if isinstance(found.predictor, AAPEPlusPredictor):
        shares, reason = attention_of_image(found, reference)
    else:
        targets, reason = aggregator_again(found, features, reference)
        shares = None if targets is None else partial(attention, targets)
        if targets is not None and attention(targets, targets.mean[0], 0) is None:
            reason, shares = f"the aggregator {targets.settings.aggregator!r} has no attention", None
    return Background(reference, shares), [*notes, *([f"no attention is shown: {reason}"] if shares is None else [])]


@torch.no_grad()
def explain(
    images: Float[Tensor, "B D"], found: Checkpoint, known: Background, *, top: int, nearest: int
) -> list[list[dict[str, Any]]]:
    """The most likely classes of unit images, with probability, scores, cosines and nearest prompts."""
    logits = found.predictor.logits(images, found.text)
    parts = score_parts(found.predictor, images, found.text)
    template = images @ found.text.template.float().T if found.text.is_text else None
    adapted = class_cosines(found.predictor, images, found.text)
    values, labels = (logits / found.temperature).softmax(dim=-1).topk(min(top, logits.shape[1]), dim=-1)

    def rounded(of: Tensor | None, b: int, label: int) -> float | None:
        return None if of is None else round(float(of[b, label]), 4)

    rows = []
    for b, image in enumerate(images):
        row = []
        for probability, label in zip(values[b].tolist(), labels[b].tolist(), strict=True):
            shares = None if known.attention is None else known.attention(image, label)
            row.append(
                {
                    "class": found.text.names[label],
                    "probability": round(probability, 4),
                    "score": rounded(logits, b, label),
                    "from_text": rounded(parts.get("text"), b, label),
                    "from_images": rounded(parts.get("images"), b, label),
                    "cos_template": rounded(template, b, label),
                    "cos_adapted": rounded(adapted, b, label),
                    "prompts": []
                    if known.reference is None
                    else nearest_prompts(known.reference, image, label, count=nearest, shares=shares),
                }
            )
        rows.append(row)
    return rows


COLUMNS = {
    "class": "class",
    "probability": "probability",
    "score": "score",
    "from_text": "from text",
    "from_images": "from images",
    "cos_template": "cos(x, template)",
    "cos_adapted": "cos(x, w(x))",
}
"""Key of a row -> head of the column; a column without a value is left out."""


def explanation_text(rows: Sequence[Row]) -> str:
    """The rows for people: two small tables an image."""
    return "\n\n".join(_image_text(row) for row in rows)


def _image_text(row: Row) -> str:
    if row["error"]:
        return visible(f"{row['path']}: {row['error']}")
    classes = row["classes"]
    weighed = any(p["attention"] is not None for c in classes for p in c["prompts"])
    shown = {key: head for key, head in COLUMNS.items() if any(c[key] is not None for c in classes)}
    parts = [visible(row["path"]), table(list(shown.values()), [[c[key] for key in shown] for c in classes])]
    lines = [
        [c["class"], p["cosine"], *([p["attention"]] if weighed else []), textwrap.shorten(p["prompt"], 100)]
        for c in classes
        for p in c["prompts"]
    ]
    if lines:
        parts.append(table(["class", "cos(x, p)", *(["attention"] if weighed else []), "nearest prompts"], lines))
    return "\n\n".join(parts)
