"""The modality gap (figure 8 of the paper): how far text lies from the images that it describes.

Every kind of text is taken once for each image, that of the image's own class, so that all are centred over the same
images. The distance is that between the two centres of unit vectors (Liang et al., "Mind the Gap", NeurIPS 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from stages.command import table
from stages.errors import UserError
from trainer.aape.classifier import Classifier
from trainer.analysis.prompts import aggregator_again, features_of, find_reference
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.data import Images
from trainer.data.features import Features
from trainer.methods.aape import AAPEPredictor

SILENT = 1e-6
"""h(x) shorter than this says nothing of the image."""
TEMPLATE, PROMPTS, AGGREGATED, GENERATED, ADAPTED = "template", "prompts' mean", "p^a", "h(x)", "w_y(x)"


@dataclass(frozen=True)
class Gap:
    """One kind of text.

    Attributes:
        distance: between the centre of the images and the centre of this text.
        cosine: mean cos(x, text of the image's own class).
    """

    text: str
    distance: float
    cosine: float


@dataclass(frozen=True)
class Space:
    """Images and the text of their own classes, for the table and the figure.

    Attributes:
        images: unit image embeddings of one split, and their labels.
        texts: kind -> unit rows, one for each image.
        notes: what is left out, and why.
    """

    dataset: str
    encoder: str
    split: str
    images: Images
    texts: Mapping[str, Float[Tensor, "B D"]]
    notes: tuple[str, ...]


def space_of(checkpoint: Path, *, cache: Path, split: str) -> Space:
    """Embeddings of the train or val split beside every kind of text that the checkpoint and the stores give.

    Raises:
        UserError: the checkpoint or the stores are damaged or do not belong together, or the split is empty.
    """
    found = load_checkpoint(checkpoint)
    features = features_of(found, cache)
    images = {"train": features.train, "val": features.val}[split].images.float32()
    if not len(images):
        raise UserError(f"{features.dataset} has no {split} images: take --split train", exit_code=2)
    texts, notes = texts_of(found, features, images)
    notes = [*features.notes, *notes]
    return Space(features.dataset, features.encoder, split, images, texts, tuple(notes))


@torch.no_grad()
def texts_of(found: Checkpoint, features: Features, images: Images) -> tuple[dict[str, Tensor], list[str]]:
    """kind -> unit text embedding of each image's own class, and lines on what is left out."""
    found.text.require_text()
    x, y = images.embeddings, images.labels
    texts, notes = {TEMPLATE: normalize(found.text.template.float(), dim=-1)[y]}, []
    reference = find_reference(found, features)
    if reference is None:
        notes.append(f"no prompts of {features.dataset!r} are embedded: {PROMPTS} and {AGGREGATED} are left out")
    else:
        texts[PROMPTS] = reference.text.prompt_mean()[y]
        with torch.enable_grad():
            targets, reason = aggregator_again(found, features, reference)
        if targets is None:
            notes.append(f"{AGGREGATED} is left out: {reason}")
        else:
            texts[AGGREGATED] = targets.constant(images)
    predictor = found.predictor
    if not isinstance(predictor, AAPEPredictor):
        notes.append(f"{GENERATED} and {ADAPTED} are left out: the checkpoint is no AAPE")
        return texts, notes
    classifier = predictor.classifier
    generated = classifier.generate(x)
    if generated is not None:
        texts[GENERATED] = normalize(generated, dim=-1)
        silent = float((generated.norm(dim=-1) < SILENT).double().mean())
        if silent:
            notes.append(f"{GENERATED} is 0 for {100 * silent:.0f} % of the images: its hidden units are off there")
    if classifier.head != "none":
        texts[ADAPTED] = adapted(classifier, generated, *predictor.class_weights(found.text), y)
    return texts, notes


def adapted(
    classifier: Classifier,
    generated: Float[Tensor, "B D"] | None,
    weights: Float[Tensor, "C D"],
    base: Float[Tensor, "C D"],
    labels: Int[Tensor, " B"],
) -> Float[Tensor, "B D"]:
    """w_y(x), unit rows: the class embedding that the classifier makes for each image's own class."""
    own = weights[labels]
    inner = own @ classifier.a.T
    if generated is not None and classifier.b is not None:
        inner = inner + generated @ classifier.b.T
    inner = torch.relu(inner)
    if classifier.head == "full":
        return normalize(inner, dim=-1)
    change = inner @ classifier.v.T
    return normalize(base[labels] + change if classifier.head == "residual" else change, dim=-1)


def gaps(space: Space) -> list[Gap]:
    """The table's rows."""
    x = space.images.embeddings
    return [
        Gap(
            name,
            round(float((x.mean(0) - text.mean(0)).norm()), 4),
            round(float((x * text).sum(-1).mean()), 4),
        )
        for name, text in space.texts.items()
    ]


def gap_table(rows: Sequence[Gap]) -> str:
    """The rows as a table."""
    return table(
        ("text", "distance of centres", "mean cos(x, text)"),
        [(r.text, f"{r.distance:.4f}", f"{r.cosine:.4f}") for r in rows],
    )
