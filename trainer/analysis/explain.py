"""Why a checkpoint says what it says of an image (figures 5 and 7 of the paper).

For the most likely classes: how near the image is to the template, to the class embedding that the classifier made for
it, and to the reference prompts. The cosines are what the classifier computes; whether a prompt caused the answer they
do not say, since prompts act through training alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.command import progress, table
from trainer.aape.aggregator import PromptTargets
from trainer.analysis.prompts import (
    Reference,
    aggregator_again,
    attention,
    features_of,
    find_reference,
    has_prompts,
    nearest_prompts,
)
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.methods.aape import AAPEPredictor
from trainer.methods.text import TextPredictor

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_SIDE = 320
"""Pixels of the longer side of a picture that is kept for the figure."""


@dataclass
class Explanation:
    """What `explain_files` found.

    Attributes:
        rows: `{path, error, classes: [{class, probability, cos_template, cos_adapted, prompts: [{prompt, cosine,
            attention}]}]}` in the order of the files.
        notes: what is left out, and why.
        pictures: small copies of the readable images, by path.
    """

    rows: list[dict[str, Any]]
    notes: list[str]
    pictures: dict[str, Image] = field(default_factory=dict)


@dataclass(frozen=True)
class _Knowledge:
    """What is known beside the checkpoint."""

    reference: Reference | None = None
    targets: PromptTargets | None = None


def explain_files(
    files: Sequence[Path], checkpoint: Path, *, cache: Path, top: int, nearest: int, batch: int, device: str
) -> Explanation:
    """Explain the `top` classes of each image with the `nearest` prompts of each.

    A file that cannot be read becomes a row with its error.

    Raises:
        UserError: the checkpoint is damaged, or the encoder or the stores are not those that it was made with.
    """
    from pipeline.encoders import load_encoder
    from pipeline.images import ImageError, open_rgb

    found = load_checkpoint(checkpoint)
    encoder = load_encoder(str(found.provenance["encoder"]), device=device)
    found.require_encoder(name=encoder.name, fingerprint=encoder.fingerprint, width=encoder.width)
    known, notes = _knowledge(found, cache)
    result = Explanation([], [*([encoder.note] if encoder.note else []), *notes])
    batches = [files[i : i + batch] for i in range(0, len(files), batch)]
    for chunk in progress(batches, what="explaining", unit="batch"):
        pixels, readable = [], []
        for path in chunk:
            row: dict[str, Any] = {"path": str(path), "error": None, "classes": []}
            result.rows.append(row)
            try:
                picture = open_rgb(path)
                pixels.append(encoder.preprocess(picture))
            except ImageError as error:
                row["error"] = str(error)
                continue
            picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
            result.pictures[row["path"]] = picture
            readable.append(row)
        if readable:
            # Stored embeddings are float16: the same rounding here gives the same answer as in training.
            images = encoder.encode_images(torch.stack(pixels)).half().float()
            for row, classes in zip(readable, explain(images, found, known, top=top, nearest=nearest), strict=True):
                row["classes"] = classes
    return result


def _knowledge(found: Checkpoint, cache: Path) -> tuple[_Knowledge, list[str]]:
    """Prompts and aggregator as far as they can be had, and a line on what is missing."""
    if not has_prompts(found, cache):
        return _Knowledge(), [f"{cache}: no embedded prompts of {found.provenance.get('dataset')!r}: none are shown"]
    features = features_of(found, cache)
    reference = find_reference(found, features)
    if reference is None:
        return _Knowledge(), []
    targets, reason = aggregator_again(found, features, reference)
    if targets is not None and attention(targets, targets.mean[0], 0) is None:
        reason, targets = f"the aggregator {targets.settings.aggregator!r} has no attention", None
    return _Knowledge(reference, targets), [f"no attention is shown: {reason}"] if targets is None else []


@torch.no_grad()
def explain(
    images: Float[Tensor, "B D"], found: Checkpoint, known: _Knowledge, *, top: int, nearest: int
) -> list[list[dict[str, Any]]]:
    """The most likely classes of unit images, with probability, cosines and nearest prompts."""
    logits = found.predictor.logits(images, found.text)
    cosines = images @ found.text.template.float().T
    adapted = adapted_cosines(found, logits)
    values, labels = logits.softmax(dim=-1).topk(min(top, logits.shape[1]), dim=-1)
    rows = []
    for b, image in enumerate(images):
        row = []
        for probability, label in zip(values[b].tolist(), labels[b].tolist(), strict=True):
            shares = None if known.targets is None else attention(known.targets, image, label)
            row.append(
                {
                    "class": found.text.names[label],
                    "probability": round(probability, 4),
                    "cos_template": round(float(cosines[b, label]), 4),
                    "cos_adapted": None if adapted is None else round(float(adapted[b, label]), 4),
                    "prompts": []
                    if known.reference is None
                    else nearest_prompts(known.reference, image, label, count=nearest, shares=shares),
                }
            )
        rows.append(row)
    return rows


def adapted_cosines(found: Checkpoint, logits: Float[Tensor, "B C"]) -> Float[Tensor, "B C"] | None:
    """cos(x, w_c(x)), of head `none` cos(h(x), w_c); None for classifiers that have no class embeddings."""
    predictor = found.predictor
    return logits * predictor.tau if isinstance(predictor, AAPEPredictor | TextPredictor) else None


def text_of(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for people: two small tables an image."""
    return "\n\n".join(_text_of(row) for row in rows)


def _text_of(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"{row['path']}: {row['error']}"
    classes = row["classes"]
    weighed = any(p["attention"] is not None for c in classes for p in c["prompts"])
    parts = [
        row["path"],
        table(
            ["class", "probability", "cos(x, template)", "cos(x, w(x))"],
            [[c["class"], c["probability"], c["cos_template"], c["cos_adapted"]] for c in classes],
        ),
    ]
    lines = [
        [c["class"], p["cosine"], *([p["attention"]] if weighed else []), textwrap.shorten(p["prompt"], 100)]
        for c in classes
        for p in c["prompts"]
    ]
    if lines:
        parts.append(table(["class", "cos(x, p)", *(["attention"] if weighed else []), "nearest prompts"], lines))
    return "\n\n".join(parts)
