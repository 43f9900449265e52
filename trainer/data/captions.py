"""Stores -> images with their captions, in memory or left on disk. The test split stays on disk until the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Int

from stages import ImageStore, ManifestStore, TextStore, UserError
from stages.device import pick_device
from stages.stores.artifacts import NO_LLM, Store, read_together
from trainer.data import LENGTH_TOLERANCE
from trainer.data.features import StoredFeatures, require_encoder
from trainer.data.pairs import Held, Pairs, Rows, Stored

FREE_SHARE = 0.5
"""Of the device's free memory that embeddings may take, where the settings do not say."""
Memory = Literal["auto"] | float
"""GB that embeddings may take."""


@dataclass(frozen=True)
class _Source:
    """Where the pairs of a data set lie: rows of its two stores, without an embedding.

    Attributes:
        image_ids, splits, image_rows: of every image that has an embedding.
        image_of: which of these images each caption belongs to, ascending.
        caption_rows, texts: of every caption.
        held: whether the embeddings fit into memory.
    """

    images: ImageStore
    captions: TextStore
    image_ids: np.ndarray
    splits: np.ndarray
    image_rows: Int[np.ndarray, " B"]
    image_of: Int[np.ndarray, " P"]
    caption_rows: Int[np.ndarray, " P"]
    texts: pa.ChunkedArray
    device: torch.device
    held: bool

    def pairs(self, split: str | None) -> Pairs:
        """The images of a split (None: all of them) that have captions.

        Raises:
            UserError: an embedding is no number or not of length 1.
        """
        counts = np.bincount(self.image_of, minlength=len(self.image_ids))
        chosen = (counts > 0) & ((self.splits == split) if split is not None else True)
        wanted = chosen[self.image_of]
        first = torch.from_numpy(np.concatenate([[0], counts[chosen].cumsum()]).astype(np.int64))
        images = self._rows(self.images, self.image_rows[chosen])
        captions = self._rows(self.captions, self.caption_rows[wanted])
        texts = self.texts.filter(pa.array(wanted)).to_pylist()
        return Pairs(images, captions, first, tuple(self.image_ids[chosen].tolist()), tuple(texts))

    def _rows(self, store: Store, index: Int[np.ndarray, " M"]) -> Rows:
        stored = Stored(store, index, self.device)
        for start, tile in stored.tiles():
            lengths = torch.linalg.vector_norm(tile, dim=-1)
            off = (~((lengths - 1).abs() <= LENGTH_TOLERANCE)).nonzero()
            if len(off):
                row = int(index[start + int(off[0, 0])])
                raise UserError(
                    f"{store.file}: embedding {row} has length {float(lengths[off[0, 0]]):.4g}, expected 1: "
                    f"run `pipeline verify --dataset {store.dataset}`, then "
                    f"`{store.made_by.format(**store.partitions)}` again"
                )
        return Held(torch.from_numpy(store.rows()(index)).to(self.device)) if self.held else stored


@dataclass(frozen=True)
class CaptionFeatures(StoredFeatures):
    """Everything stage two knows about a data set with captions before the final evaluation.

    Attributes:
        train, val: images that have captions; either may be empty.
        rows: where all of them lie.
        folds: parts of a cross-validation over all images; None where the split is used.
    """

    train: Pairs
    val: Pairs
    rows: _Source
    folds: int | None

    @property
    def single(self) -> bool:
        """Whether no image has more than one caption."""
        return len(np.unique(self.rows.image_of)) == len(self.rows.image_of)

    def test(self) -> Pairs:
        """Read the images that are judged: the test split, or with folds all of them.

        Called once, by the final evaluation, after everything is trained and chosen.
        """
        return self.rows.pairs("test" if self.folds is None else None)

    def all(self) -> Pairs:
        """All images, whatever their split: for a cross-validation."""
        return self.rows.pairs(None)


def has_any(cache: Path, dataset: str, what: Literal["captions", "questions"]) -> bool:
    """Whether any image of a data set has captions, or questions."""
    lengths = (pc.list_value_length(table[what]) for table in ManifestStore(cache, dataset).batches([what]))
    return any((pc.max(length).as_py() or 0) > 0 for length in lengths)


def load_captions(
    cache: Path, dataset: str, encoder: str, *, device: str = "auto", most: int | None = None, memory: Memory = "auto",
    folds: int | None = None, bare: bool = False,
) -> CaptionFeatures:  # fmt: skip
    """Read the stores of a data set with captions and check that they belong together.

    Args:
        most: captions an image, at most, the first ones of the source.
        memory: GB that embeddings may take; more stay on disk, and are read as they are needed.
        folds: see `CaptionFeatures`.
        bare: the images are read for their questions, and need no captions.

    Raises:
        UserError: a store is missing or of another origin, an embedding is not finite or not of length 1, or no image
            has a caption.
    """
    target = pick_device(device)
    images, texts = ImageStore(cache, dataset, encoder), TextStore(cache, dataset, encoder, NO_LLM)
    manifest = ManifestStore(cache, dataset)
    manifest.require()
    for store in (images, texts):
        require_encoder(store, cache, dataset, encoder)
    origins = read_together(manifest, images, texts)
    width = origins[1].width or 0
    if origins[2].width != width:
        raise UserError(
            f"{dataset}: the images are {width} wide and the captions {origins[2].width}: embed both with one encoder"
        )
    source, notes = _source(dataset, images, texts, target, most=most, memory=memory, width=width, bare=bare)
    found = {split: source.pairs(split) for split in ("train", "val")}
    return CaptionFeatures(
        dataset=dataset,
        encoder=origins[1].encoder or encoder,
        encoder_fingerprint=origins[1].encoder_fingerprint or "",
        width=width,
        class_names=(),
        sources=(),
        notes=tuple(dict.fromkeys([*(origin.note for origin in origins if origin.note), *notes])),
        device=target,
        contents={
            f"{store.name}/{'/'.join(store.partitions.values())}": origin.content
            for store, origin in zip((manifest, images, texts), origins, strict=True)
        },
        source=manifest.provenance().source,
        licence=manifest.provenance().licence,
        **found,
        rows=source,
        folds=folds,
    )


def _source(
    dataset: str, images: ImageStore, texts: TextStore, device: torch.device, *, most: int | None, memory: Memory,
    width: int, bare: bool,
) -> tuple[_Source, list[str]]:  # fmt: skip
    """Where the pairs lie, and lines on what is left out or hard to tell apart."""
    pictures = images.read(["image_id", "split", "view"])
    rows = np.flatnonzero(pictures["view"].to_numpy() == 0)
    pictures = pictures.take(pa.array(rows))
    said = texts.read(["prompt_id", "kind", "image_id", "text"])
    said = said.append_column("row", pa.array(np.arange(len(said))))
    said = said.filter(pc.equal(said["kind"], "caption"))
    if not len(said) and not bare:
        raise UserError(f"{dataset}: no image has captions (looked in {texts.file})")
    place = pc.index_in(said["image_id"], value_set=pictures["image_id"].combine_chunks())
    alone = place.null_count
    said = said.append_column("place", place).filter(pc.is_valid(place)).sort_by(
        [("place", "ascending"), ("prompt_id", "ascending")]
    )  # fmt: skip
    owner = said["place"].to_numpy()
    if most is not None:
        counts = np.bincount(owner, minlength=len(rows))
        number = np.arange(len(owner)) - (counts.cumsum() - counts)[owner]
        said, owner = said.filter(pa.array(number < most)), owner[number < most]
    bytes_each = width * (4 if images.provenance().precision == "float32" else 2)
    held = (len(rows) + len(owner)) * bytes_each <= _limit(device, memory)
    source = _Source(
        images, texts, pictures["image_id"].to_numpy(), pictures["split"].to_numpy(), rows, owner,
        said["row"].to_numpy(), said["text"], device, held,
    )  # fmt: skip
    return source, list(_notes(dataset, source, said, alone=alone)) if len(said) else []


def _notes(dataset: str, source: _Source, said: pa.Table, *, alone: int) -> Iterator[str]:
    bare = len(source.image_ids) - len(np.unique(source.image_of))
    if bare:
        yield f"{dataset}: {bare} of {len(source.image_ids)} images have no captions and are left out"
    if alone:
        yield f"{dataset}: {alone} captions are of images without an embedding and are left out"
    strange = len(said) - (pc.sum(pc.match_substring_regex(said["text"], r"\p{Latin}")).as_py() or 0)
    if strange:
        yield f"{dataset}: {strange} captions have no Latin letter; encoders trained on English do not know them"
    per_image = pa.table({"text": said["text"], "place": said["place"]}).group_by(["text", "place"]).aggregate([])
    doubled = len(said) - len(per_image)
    if doubled:
        yield f"{dataset}: {doubled} captions repeat another one of their image"
    shared = per_image.group_by("text").aggregate([("place", "count")])
    several = pc.sum(pc.greater(shared["place_count"], 1)).as_py() or 0
    if several:
        yield f"{dataset}: {several} captions stand at several images in the same words: as queries they count as ties"
    if not source.held:
        yield f"{dataset}: the embeddings are more than evaluation.memory allows and are read from disk batch by batch"


def _limit(device: torch.device, memory: Memory) -> float:
    """Bytes that embeddings may take."""
    if memory != "auto":
        return memory * 1e9
    if device.type == "cuda":
        return FREE_SHARE * torch.cuda.mem_get_info(device)[0]
    import psutil

    return FREE_SHARE * float(psutil.virtual_memory().available)
