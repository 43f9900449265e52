"""Embeddings of an earlier state of a data set, taken again where the same bytes are embedded in the same way.

When an image store is complete, a hard link to it and to its manifest stays in `cache/.kept/`: it costs no space
while the store is there, survives DVC, which deletes outputs before it makes them again, and can always be deleted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from stages import ImageProvenance, ImageStore, ManifestStore, UserError
from stages.files import remove_tree, replaced_folder

ALIKE = (
    "encoder", "encoder_fingerprint", "width", "precision", "views", "seed", "settings", "code_version",
    "format_version",
)  # fmt: skip
"""What two image stores must have in common for one to take embeddings of the other."""


@dataclass(frozen=True)
class Kept:
    """Earlier embeddings for some of the images that are wanted now.

    Attributes:
        rows: gives rows of the earlier store.
        at: for each wanted image the place of its first view, -1 where it has to be embedded.
        views: embeddings an image.
    """

    rows: Callable[[Int[np.ndarray, " M"]], Float[np.ndarray, "M D"]]
    at: Int[np.ndarray, " images"]
    views: int

    def vectors(self, images: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M views D"]:
        """The embeddings of wanted images that have some."""
        first = self.at[images]
        rows = (first[:, None] + np.arange(self.views)).reshape(-1)
        found = self.rows(rows)
        return found.reshape(len(images), self.views, found.shape[1])


def keep(store: ImageStore, manifest: ManifestStore) -> None:
    """Leave links to a complete image store and its manifest; where the disk has no links, nothing is kept."""
    try:
        with replaced_folder(_place(store)) as folder:
            for each in (store, manifest):
                for file in {each.file, *each.files()}:
                    link = folder / file.relative_to(store.cache)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.hardlink_to(file)
    except (OSError, UserError):
        remove_tree(_place(store))


def find_kept(store: ImageStore, wanted: ImageProvenance, rows: pa.Table) -> Kept | None:
    """What of the wanted images the kept store has; None where it has none, or is of another encoder or damaged.

    Of the same manifest nothing is taken: a store that is gone, or that DVC makes again, is made again as a whole.
    An image is the same where its bytes are (sha256); with augmentations, drawn by its id, where its id is too.

    Args:
        rows: image_id and sha256 of the wanted images.
    """
    folder = _place(store)
    images = ImageStore(folder, store.dataset, wanted.encoder or "")
    manifest = ManifestStore(folder, store.dataset)
    if not (images.exists() and manifest.exists()):
        return None
    try:
        origin, source = images.provenance(), manifest.provenance()
        alike = all(getattr(origin, name) == getattr(wanted, name) for name in ALIKE)
        whole = origin.inputs.get("manifest") == source.content
        if not alike or not whole or source.content == wanted.inputs["manifest"]:
            return None
        places = images.read(["image_id", "view"])
        digests = manifest.read(["image_id", "sha256"])
        first = np.flatnonzero(places["view"].to_numpy() == 0)
        known = digests["sha256"].take(
            pc.index_in(places["image_id"].take(first), digests["image_id"].combine_chunks())
        )
        old, new = _keys(places["image_id"].take(first), known, wanted), _keys(rows["image_id"], rows["sha256"], wanted)
        match = pc.fill_null(pc.index_in(new, old.combine_chunks()), -1).to_numpy()
        at = np.where(match >= 0, first[match], -1) if len(first) else np.full(len(rows), -1)
        return Kept(images.rows(), at, 1 + wanted.views) if (at >= 0).any() else None
    except (UserError, pa.ArrowException, OSError):
        return None  # everything is embedded, as if nothing were kept


def _keys(image_ids: pa.ChunkedArray, digests: pa.ChunkedArray, wanted: ImageProvenance) -> pa.ChunkedArray:
    return digests if not wanted.views else pc.binary_join_element_wise(digests, image_ids, "/")


def _place(store: ImageStore) -> Path:
    return store.cache / ".kept" / "+".join(store.partitions.values())
