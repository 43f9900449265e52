"""What is known before: the images of the data set by their bytes, its labelled embeddings, and who classifies."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages import ImageStore, ManifestProvenance, ManifestStore, UserError
from stages.stores.artifacts import read_together
from stages.text import counted
from trainer.checkpoint import Checkpoint
from trainer.data.features import refuse_several
from trainer.suggest.choose import quick_classifier

MOST = 20_000
"""Labelled images that the quick classifier learns from, at most."""


@dataclass
class Known:
    """What the stores know of a data set; nothing where there is none.

    Attributes:
        digests: sha256 of every image file that can be read.
        class_names, class_ids: of all classes, in the order of their ids.
        counts: labelled training and validation images of each class.
        store: of the image embeddings; None where there is none.
    """

    dataset: str | None = None
    encoder: str | None = None
    fingerprint: str | None = None
    digests: set[bytes] = field(default_factory=set)
    class_names: tuple[str, ...] = ()
    class_ids: tuple[int, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    store: ImageStore | None = None

    def labelled(self) -> Iterator[tuple[Float[Tensor, "B D"], Int[Tensor, " B"]]]:
        """Embeddings and class ids of what is labelled, test images left out, batch by batch."""
        if self.store is None:
            return
        for table, matrix in self.store.pieces(["view", "class_id", "split"]):
            splits = np.array(table["split"].to_pylist())
            kept = (table["view"].to_numpy() == 0) & (splits != "test")
            ids = table["class_id"].to_numpy(zero_copy_only=False)
            kept &= ids == ids  # images without a class
            if kept.any():
                yield torch.from_numpy(matrix[kept].astype(np.float32)), torch.from_numpy(ids[kept].astype(np.int64))


def known_of(cache: Path, dataset: str | None, encoder: str) -> Known:
    """Read what the stores have.

    Args:
        dataset: None for none at all.

    Raises:
        UserError: stores that do not belong together, or of several classes an image.
    """
    if dataset is None:
        return Known()
    manifest = ManifestStore(cache, dataset)
    origin = manifest.provenance()
    refuse_several(manifest)
    assert isinstance(origin, ManifestProvenance)
    table = manifest.read(["class_name", "split", "sha256", "error"])
    files = zip(table["sha256"].to_pylist(), table["error"].to_pylist(), strict=True)
    digests = {bytes.fromhex(digest) for digest, error in files if digest and error is None}
    names = tuple(name for _, name in sorted(origin.class_names.items()))
    counts = dict.fromkeys(names, 0)
    for name, split, error in zip(
        *(table[column].to_pylist() for column in ("class_name", "split", "error")), strict=True
    ):
        if split != "test" and error is None and name in counts:
            counts[name] += 1
    store = ImageStore(cache, dataset, origin.encoder or encoder)
    if not store.exists():
        return Known(dataset, None, None, digests, names, tuple(sorted(origin.class_names)), counts)
    read_together(manifest, store)
    about = store.provenance()
    ids = tuple(sorted(origin.class_names))
    return Known(dataset, about.encoder, about.encoder_fingerprint, digests, names, ids, counts, store)


@dataclass(frozen=True)
class Classifier:
    """Who says what an image may be.

    Attributes:
        why: one line for the user.
    """

    names: Sequence[str]
    probabilities: Callable[[Float[Tensor, "B D"]], Float[Tensor, "B C"]]
    why: str


def trained(checkpoint: Checkpoint) -> Classifier:
    """A checkpoint."""
    return Classifier(checkpoint.text.names, lambda images: checkpoint.logits(images).softmax(-1), "")


def quick(known: Known) -> Classifier | None:
    """Linear discriminant analysis of what is labelled, where nothing is trained; None with fewer than two classes."""
    found = list(known.labelled())
    if not found:
        return None
    x, ids = torch.cat([a for a, _ in found])[:MOST], torch.cat([b for _, b in found])[:MOST]
    there, labels = torch.unique(ids, return_inverse=True)
    if len(there) < 2:
        return None
    names = [known.class_names[known.class_ids.index(int(each))] for each in there]
    why = f"no trained method: a quick classifier of the {counted(len(x), 'labelled image')} stands in"
    return Classifier(names, quick_classifier(x, labels), why)


def require_same(known: Known, name: str, fingerprint: str) -> None:
    """Refuse to compare embeddings of two encoders.

    Raises:
        UserError: the stores were made with another one.
    """
    if known.fingerprint is not None and known.fingerprint != fingerprint:
        raise UserError(
            f"the stores of {known.dataset} were embedded with {known.encoder} ({known.fingerprint[:12]}), the pool is "
            f"with {name} ({fingerprint[:12]}): run `pipeline embed-images --dataset {known.dataset} --encoder "
            f"{shlex.quote(name)}`, or name the stores' encoder with --encoder"
        )
