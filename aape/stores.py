"""The stores of `pipeline` as arrays: what `trainer run` sees of a data set, for code of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from aape.arrays import plain_errors
from aape.classes import Classes
from stages import ImageStore, TextStore, UserError
from stages.numbers import Shots
from stages.stores.artifacts import NO_LLM, partition_values
from stages.stores.remote import mirror, remote
from trainer.data import Images
from trainer.data.draws import few_shot
from trainer.data.features import Features, Split, load_features


@dataclass(frozen=True)
class StoredImages:
    """Images of one split, in the order of the store.

    Attributes:
        X: (B, D) unit embeddings as stored, float16 or float32.
        y: (B,) labels: positions in `StoredFeatures.class_names`.
        image_ids: the manifest's ids.
        views: (B, V, D) unit embeddings of V augmentations of each image; None where the store has none.
    """

    X: Float[np.ndarray, "B D"]
    y: Int[np.ndarray, " B"]
    image_ids: tuple[str, ...]
    views: Float[np.ndarray, "B V D"] | None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class StoredFeatures:
    """What the stores hold of a data set and an encoder; made by `open_features`. The test split stays on disk.

    Attributes:
        dataset: its name.
        encoder: full name of the encoder.
        encoder_fingerprint: hash of its weights and preprocessing; `save` takes both.
        width: D.
        class_names: position is the label.
        sources: prompt sources (language models, people) that `classes` and `sentences` take.
        notes: what to know of these stores, such as that an encoder is not CLIP.
        train: images to learn from.
        val: images to make choices on; may be empty.
    """

    dataset: str
    encoder: str
    encoder_fingerprint: str
    width: int
    class_names: tuple[str, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    train: StoredImages
    val: StoredImages
    _features: Features

    def classes(self, source: str | None = None) -> Classes:
        """Names, templates and prompts of all classes, for `fit(..., text=)`.

        Args:
            source: a prompt source; None takes the first, or templates alone where there is none.

        Raises:
            ValueError: no such source.
        """
        text = self._features.text[self._source(source)]
        each = text.template[:, None] if text.templates is None else text.templates
        prompts = None
        if text.prompts is not None and text.mask is not None:
            prompts = [rows[kept].numpy() for rows, kept in zip(text.prompts, text.mask, strict=True)]
        return Classes(text.names, each.numpy(), prompts)

    def sentences(self, source: str | None = None) -> list[list[str]]:
        """The sentences of `classes(source).prompts`, class by class, in the same order.

        Raises:
            ValueError: no such source, or no source at all.
        """
        name = self._source(source)
        if name == NO_LLM:
            raise ValueError(
                f"data set {self.dataset!r} has no prompts: run `pipeline generate-prompts --dataset {self.dataset}` "
                f"and `pipeline embed-text --dataset {self.dataset}`"
            )
        prompts, templates = self._texts(name, "prompt"), self._texts(NO_LLM, "template")
        return [prompts.get(i) or templates[i][:1] for i in self._features.class_ids]

    def few_shot(self, shots: Shots, *, seed: int = 1, up_to: bool = False) -> dict[str, Any]:
        """The draw of `trainer run`: `shots` training images a class (or `"all"`) and at most four validation images.

        Args:
            up_to: a class with fewer images gives what it has.

        Returns:
            `X`, `y`, `X_val`, `y_val`, as `fit(**...)` takes them.

        Raises:
            ValueError: a class has fewer training images.
        """
        with plain_errors():
            train, val = few_shot(self._features, shots, seed=seed, up_to=up_to)
        return {"X": train.embeddings.numpy(), "y": train.labels.numpy(), **_validation(val)}

    def read_test_split_for_final_evaluation(self) -> StoredImages:
        """The test split: to be read once, after everything is fitted and chosen."""
        with plain_errors():
            return _stored(self._features.test())

    def _source(self, source: str | None) -> str:
        if source is None:
            return self.sources[0] if self.sources else NO_LLM
        if source not in self.sources:
            raise ValueError(
                f"data set {self.dataset!r} has no prompts of {source!r}; it has: {', '.join(self.sources)}."
            )
        return source

    def _texts(self, source: str, kind: str) -> dict[int, list[str]]:
        """Class id -> its sentences."""
        store = TextStore(self._features.store.cache, self.dataset, self.encoder, source)
        table = store.read(["class_id", "text"], where={"kind": [kind]})
        found: dict[int, list[str]] = {}
        for class_id, sentence in zip(table["class_id"].to_pylist(), table["text"].to_pylist(), strict=True):
            found.setdefault(class_id, []).append(sentence)
        return found


def open_features(
    cache: str | Path = "cache", *, dataset: str, encoder: str | None = None, sources: list[str] | None = None
) -> StoredFeatures:
    """Read the stores of a data set and check that they belong together.

    Args:
        cache: folder of the stores, or `s3://BUCKET/FOLDER`.
        dataset: its name.
        encoder: `lite`, `open_clip:ARCH/PRETRAINED`, ...; None: the only one there is.
        sources: prompt sources to load, the main one first; None: all there are.

    Raises:
        ValueError: a store is missing, of another origin or damaged; or there are several encoders and none is named.
    """
    with plain_errors():
        url = remote(cache)
        folder = Path(cache) if url is None else mirror(url)
        loaded = load_features(folder, dataset, encoder or _only(folder, dataset), sources=sources, device="cpu")
    return StoredFeatures(
        dataset=loaded.dataset,
        encoder=loaded.encoder,
        encoder_fingerprint=loaded.encoder_fingerprint,
        width=loaded.width,
        class_names=loaded.class_names,
        sources=loaded.sources,
        notes=loaded.notes,
        train=_stored(loaded.train),
        val=_stored(loaded.val),
        _features=loaded,
    )


def _only(cache: Path, dataset: str) -> str:
    there = partition_values(cache, ImageStore, "encoder", dataset=dataset)
    if len(there) != 1:
        found = f"embeddings of {len(there)} encoders ({', '.join(there)})" if there else "no embedded images"
        mend = "name one with encoder=" if there else f"run `pipeline embed-images --dataset {dataset}`"
        raise UserError(f"{cache}: data set {dataset!r} has {found}: {mend}")
    return there[0]


def _stored(split: Split) -> StoredImages:
    images = split.images
    views = None if images.views is None else images.views.numpy()
    return StoredImages(images.embeddings.numpy(), images.labels.numpy(), split.image_ids, views)


def _validation(val: Images) -> dict[str, Any]:
    """Validation images as `fit` takes them; none where there are none."""
    if not len(val):
        return {"X_val": None, "y_val": None}
    return {"X_val": val.embeddings.numpy(), "y_val": val.labels.numpy()}
