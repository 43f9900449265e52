"""Stores of a data set with several classes an image -> tensors. The test split stays on disk until the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stages import ManifestStore, TextStore, UserError
from stages.stores.artifacts import NO_LLM, embedding_matrix
from stages.text import counted
from trainer.data import ClassText
from trainer.data.features import Features, Split, StoredFeatures, load_features, notes_on, read_split
from trainer.multilabel.data import Labelled
from trainer.multilabel.nouns import Nouns


@dataclass(frozen=True)
class LabelSplit:
    """Images of one split with their classes and ids."""

    images: Labelled
    image_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, index: Int[np.ndarray, " M"]) -> Labelled:
        """The images at these positions."""
        return self.images.take(torch.as_tensor(index, dtype=torch.long, device=self.images.device))


@dataclass(frozen=True)
class Captions:
    """The captions of the training images.

    Attributes:
        sentences: those that name a class, with the classes that they name.
        of: their images, as positions in train.
        silent: captions that name no class.
    """

    sentences: Labelled
    of: Int[Tensor, " P"]
    silent: int


@dataclass(frozen=True)
class LabelFeatures(StoredFeatures):
    """Everything stage two knows about a data set with several classes an image before the final evaluation.

    Attributes:
        stored: the same data set without its labels.
        own: image_id -> positions of its classes in `class_names`.
        captions: None where there are none.
    """

    stored: Features
    own: Mapping[str, Sequence[int]]
    train: LabelSplit
    val: LabelSplit
    captions: Captions | None

    @property
    def text(self) -> dict[str, ClassText]:
        """Prompt source -> what text knows; the key `none` has templates alone."""
        return self.stored.text

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Split -> images of each class, of what was read so far."""
        return {name: tuple(each.images.counts.tolist()) for name, each in (("train", self.train), ("val", self.val))}

    @property
    def source_notes(self) -> dict[str, tuple[str, ...]]:
        """Prompt source -> those of the notes that concern it alone."""
        return self.stored.source_notes

    def notes_on(self, sources: Collection[str]) -> tuple[str, ...]:
        """The notes without those that concern prompt sources that are not among these."""
        return notes_on(self.notes, self.stored.source_notes, sources)

    def test(self, *, views: bool = False) -> LabelSplit:
        """Read the test split. Called once, by the final evaluation, after everything is trained and chosen."""
        found = read_split(self.stored.store, "test", None, self.device)
        return _labelled(found, self.own, len(self.class_names))


def load_label_features(
    cache: Path, dataset: str, encoder: str, *, sources: list[str] | None = None, device: str = "auto",
    prompts: int | None = None, also_called: Mapping[str, Sequence[str]] | None = None,
) -> LabelFeatures:  # fmt: skip
    """Read the stores of a data set whose images may have several classes.

    Args:
        sources, prompts: see `trainer.data.features.load_features`.
        also_called: class name -> further names that captions may call it.

    Raises:
        UserError: see `trainer.data.features.load_features`; a class id that the manifest does not name; `also_called`
            of a class that there is not.
    """
    stored = load_features(cache, dataset, encoder, sources=sources, device=device, prompts=prompts, several=True)
    manifest = ManifestStore(cache, dataset)
    position = {class_id: label for label, class_id in enumerate(stored.class_ids)}
    own: dict[str, list[int]] = {}
    for image_id, class_ids in manifest.class_ids().items():
        strange = [each for each in class_ids if each not in position]
        if strange:
            raise UserError(f"{manifest.file}: class id {strange[0]} has no name there; write the store again")
        own[image_id] = [position[each] for each in class_ids]
    unknown = sorted(set(also_called or {}) - set(stored.class_names))
    if unknown:
        raise UserError(f"data.{dataset}.also_called: {unknown[0]!r} is no class of {dataset}", exit_code=2)
    train, val = (_labelled(split, own, len(stored.class_names)) for split in (stored.train, stored.val))
    captions = _captions(TextStore(cache, dataset, stored.encoder, NO_LLM), stored, train, also_called or {})
    notes = [*stored.notes, *_notes(dataset, train, val, captions, stored.class_names)]
    common = {each.name: getattr(stored, each.name) for each in fields(StoredFeatures)} | {"notes": tuple(notes)}
    return LabelFeatures(**common, stored=stored, own=own, train=train, val=val, captions=captions)


def _labelled(split: Split, own: Mapping[str, Sequence[int]], classes: int) -> LabelSplit:
    matrix: Bool[Tensor, "B C"] = torch.zeros(len(split.image_ids), classes, dtype=torch.bool)
    for row, image_id in enumerate(split.image_ids):
        matrix[row, list(own.get(image_id, ()))] = True
    labels = matrix.to(split.images.device)
    return LabelSplit(Labelled(split.images.embeddings, labels, split.images.views), split.image_ids)


def _captions(
    store: TextStore, stored: Features, train: LabelSplit, also_called: Mapping[str, Sequence[str]]
) -> Captions | None:
    """The captions of training images, with the classes that they name; nothing of any other image is read."""
    if not store.exists():
        return None
    table = store.read(["image_id", "text", "embedding"], where={"kind": ["caption"]})
    place = {image_id: row for row, image_id in enumerate(train.image_ids)}
    rows = [row for row, image_id in enumerate(table["image_id"].to_pylist()) if image_id in place]
    if not rows:
        return None
    table, nouns = table.take(rows), Nouns(stored.class_names, also_called)
    named = [sorted(nouns.in_text(text)) for text in table["text"].to_pylist()]
    kept = [row for row, labels in enumerate(named) if labels]
    labels = torch.zeros(len(kept), len(stored.class_names), dtype=torch.bool)
    for row, at in enumerate(kept):
        labels[row, named[at]] = True
    ids = table["image_id"].to_pylist()
    vectors = torch.from_numpy(embedding_matrix(table["embedding"]).astype(np.float32)[kept])
    of = torch.tensor([place[ids[at]] for at in kept], dtype=torch.long)
    sentences = Labelled(vectors.to(stored.device), labels.to(stored.device))
    return Captions(sentences, of, len(named) - len(kept))


def _notes(
    dataset: str, train: LabelSplit, val: LabelSplit, captions: Captions | None, names: Sequence[str]
) -> list[str]:
    """Lines on images of no class, classes that nothing can be learnt of, and captions."""
    counts = train.images.counts
    none = int((~train.images.labels.any(1)).sum())
    lacking = [name for name, count in zip(names, counts.tolist(), strict=True) if not count]
    shown = ", ".join(lacking[:5])[:200] + ", ..." * (len(lacking) > 5)
    lines = [f"{dataset}: {none} of {counted(len(train), 'training image')} have none of the classes"] * bool(none)
    lines += [f"{dataset}: {counted(len(lacking), 'class has', 'classes have')} no training image: {shown}"] * bool(
        lacking
    )
    if captions is not None:
        heard = int((captions.sentences.counts > 0).sum())
        lines.append(
            f"{dataset}: {len(captions.sentences)} captions of training images name {heard} of {len(names)} classes, "
            f"{captions.silent} name none"
        )
    return lines
