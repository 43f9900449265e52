"""What is said of a picture: the likeliest classes, each with the sentences that are nearest to it.

A checkpoint answers where there is one. Before anything is trained the text of the classes does, as zero-shot; without
text nobody does, and the page goes on without.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages import ImageStore, UserError
from stages.extras import missing_extra
from stages.stores.artifacts import NO_LLM
from trainer.analysis.explain import Background, background, explain
from trainer.checkpoint import Checkpoint, load_checkpoint
from trainer.data.features import Features, load_features
from trainer.methods.text import TextPredictor
from trainer.predict import ImageEncoder, encoder_of
from trainer.text import choose_class_text

if TYPE_CHECKING:
    from PIL.Image import Image

TOP, NEAREST = 5, 3
"""Classes of an answer, and sentences of each."""


@dataclass
class Answers:
    """A classifier that is ready to be asked, by several threads.

    Attributes:
        about: what it is, in a few words.
        learned: whether it was trained on labelled images.
        encoder: None where new pictures cannot be embedded here.
        rows: image_id -> row of the image's embedding in the stores.
    """

    found: Checkpoint
    about: str
    learned: bool
    encoder: ImageEncoder | None
    known: Background
    rows: dict[str, int]
    store: ImageStore | None
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._embeddings = None if self.store is None else self.store.rows()

    @property
    def classes(self) -> tuple[str, ...]:
        """Those that it tells apart."""
        return self.found.text.names

    def of_picture(self, picture: Image) -> list[dict[str, Any]]:
        """The likeliest classes of a picture.

        Raises:
            UserError: there is no encoder for it here.
        """
        if self.encoder is None:
            raise UserError(f"no encoder for new pictures is at hand: {self.found.provenance['encoder']} is needed")
        with self._lock:
            pixels = self.encoder.preprocess(picture)[None]
            return self._of(self.encoder.encode_images(pixels).half().float())

    def of_stored(self, image_id: str) -> list[dict[str, Any]] | None:
        """The likeliest classes of an image whose embedding is in the stores; None of one that is not."""
        row = self.rows.get(image_id)
        if row is None or self._embeddings is None:
            return None
        with self._lock:
            return self._of(torch.from_numpy(self._embeddings(np.array([row]))).float())

    def _of(self, image: Float[Tensor, "1 D"]) -> list[dict[str, Any]]:
        return explain(image.cpu(), self.found, self.known, top=TOP, nearest=NEAREST)[0]


def of_checkpoint(folder: Path, cache: Path, *, device: str) -> Answers:
    """What a checkpoint says.

    Raises:
        UserError: it is damaged.
    """
    found = load_checkpoint(folder)
    method = str(found.provenance.get("method") or folder.name)
    return _made(found, folder, f"{method}, trained", cache, learned=True, device=device)


def of_text(cache: Path, dataset: str, encoder: str, *, device: str) -> Answers:
    """What the text of the classes says, before anything is trained.

    Raises:
        UserError: nothing is embedded yet, or there is no text.
    """
    features = load_features(cache, dataset, encoder, device="cpu")
    source = features.sources[0] if features.sources else NO_LLM
    text = features.text[source]
    if not text.is_text:
        raise UserError(f"{dataset!r} has no embedded text: run `pipeline embed-text --dataset {dataset}`")
    named, tau = choose_class_text(text, features.train.images)
    about = (
        f"zero-shot from {'sentences of ' + source if named == 'prompts' else 'the class names'}, nothing trained yet"
    )
    found = Checkpoint(cache, TextPredictor(named, tau), _provenance(features), text)
    return _made(found, cache, about, cache, learned=False, device=device)


def _provenance(features: Features) -> dict[str, Any]:
    return {
        "dataset": features.dataset,
        "encoder": features.encoder,
        "encoder_fingerprint": features.encoder_fingerprint,
        "width": features.width,
    }


def _made(found: Checkpoint, where: Path, about: str, cache: Path, *, learned: bool, device: str) -> Answers:
    notes = []
    try:
        encoder: ImageEncoder | None = encoder_of(found, where, device=device)
    except (UserError, ModuleNotFoundError) as error:
        encoder = None
        why = missing_extra(error) if isinstance(error, ModuleNotFoundError) else None
        notes.append(f"no new picture can be classified: {why or error}")
    else:
        notes += [encoder.note] if encoder is not None and encoder.note else []
    try:
        known, more = background(found, cache)
    except UserError as error:
        known, more = Background(), [f"no sentences are shown: {error}"]
    more = more if learned else []  # text alone has no aggregator, and nobody expects one
    store, rows = _stored(found, cache)
    return Answers(found, about, learned, encoder, known, rows, store, tuple(dict.fromkeys([*notes, *more])))


def _stored(found: Checkpoint, cache: Path) -> tuple[ImageStore | None, dict[str, int]]:
    """The image embeddings that the classifier can read as they are, by image."""
    dataset, encoder = str(found.provenance.get("dataset") or "-"), str(found.provenance["encoder"])
    try:
        store = ImageStore(cache, dataset, encoder)
        about = store.provenance()
        found.require_encoder(name=encoder, fingerprint=about.encoder_fingerprint or "", width=about.width or 0)
        table = store.read(["image_id", "view"])
    except UserError:
        return None, {}
    return store, first_views(table["image_id"].to_pylist(), table["view"].to_pylist())


def first_views(image_ids: Sequence[str], views: Sequence[int]) -> dict[str, int]:
    """image_id -> row of its view 0."""
    return {image_id: row for row, (image_id, view) in enumerate(zip(image_ids, views, strict=True)) if view == 0}
