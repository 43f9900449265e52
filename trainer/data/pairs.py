"""Images with their captions: any number an image, in memory or read from the stores batch by batch.

No file is read here but for embeddings that do not fit into memory; `trainer/data/captions.py` makes these of stores.
Shapes: B images, P captions of all of them, N captions of one image (padded), D embedding width.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from stages.errors import UserError
from stages.stores.artifacts import Store
from trainer.data import check_unit
from trainer.packing import pack

TILE = 4096
"""Rows that are read at once, where all of them are needed one after the other."""


class Rows(ABC):
    """Unit embeddings, wherever they lie.

    Attributes:
        width: D.
        device: where they are computed with.
    """

    width: int
    device: torch.device

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: Int[Tensor, " M"] | slice) -> Float[Tensor, "M D"]:
        """These rows, in this order, float32 on the device."""

    @abstractmethod
    def at(self, rows: Int[Tensor, " M"]) -> Rows:
        """These rows alone, in this order; those on disk stay there."""

    def tiles(self, size: int = TILE) -> Iterator[tuple[int, Float[Tensor, "M D"]]]:
        """All rows in order, some at a time, with the place of the first of them."""
        for start in range(0, len(self), size):
            yield start, self.read(slice(start, start + size))

    def all(self) -> Float[Tensor, "B D"]:
        """All of them in memory."""
        return self.read(slice(0, len(self)))

    def digest(self) -> bytes:
        """A hash of what they are."""
        found = hashlib.sha256(f"{len(self)} {self.width}".encode())
        for _, tile in self.tiles():
            found.update(np.ascontiguousarray(tile.cpu().numpy()).data)
        return found.digest()


class Held(Rows):
    """Embeddings in the device's memory.

    Args:
        values: unit rows, float16 or float32.
    """

    def __init__(self, values: Float[Tensor, "B D"]) -> None:
        self.values, self.width, self.device = values, values.shape[1], values.device

    def __len__(self) -> int:
        return self.values.shape[0]

    def read(self, rows: Int[Tensor, " M"] | slice) -> Float[Tensor, "M D"]:
        """These rows."""
        return self.values[rows if isinstance(rows, slice) else rows.to(self.device)].float()

    def at(self, rows: Int[Tensor, " M"]) -> Held:
        """A copy of these rows."""
        return Held(self.values[rows.to(self.device)])


class Stored(Rows):
    """Embeddings that stay in their store and are read as they are asked for.

    Args:
        store: of embeddings.
        index: numbers of the rows in the store.
    """

    def __init__(self, store: Store, index: Int[np.ndarray, " B"], device: torch.device) -> None:
        width = store.provenance().width
        assert width is not None
        self.store, self.index, self.width, self.device = store, np.asarray(index, np.int64), width, device
        self._gather: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gather": None}  # another process maps the file itself

    def read(self, rows: Int[Tensor, " M"] | slice) -> Float[Tensor, "M D"]:
        """These rows, from the file."""
        self._gather = self._gather or self.store.rows()
        where = self.index[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return torch.from_numpy(self._gather(where)).to(self.device).float()

    def at(self, rows: Int[Tensor, " M"]) -> Stored:
        """These rows, still on disk."""
        made = Stored(self.store, self.index[rows.cpu().numpy()], self.device)
        made._gather = self._gather
        return made

    def digest(self) -> bytes:
        """A hash of the store's content and of the rows taken; the embeddings are not read for it."""
        found = hashlib.sha256(self.store.provenance().content.encode())
        found.update(self.index.data)
        return found.digest()


@dataclass(frozen=True)
class PairBatch:
    """Some images with all their captions, in memory.

    Attributes:
        images: unit rows, float32.
        captions: unit rows, float32, image by image.
        owner: which of the images each caption belongs to.
    """

    images: Float[Tensor, "B D"]
    captions: Float[Tensor, "P D"]
    owner: Int[Tensor, " P"]

    def padded(self) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """The captions of each image, padded with zeros to the longest list, and where there is one."""
        counts = self.owner.bincount(minlength=len(self.images))
        place = torch.arange(len(self.owner), device=self.owner.device) - (counts.cumsum(0) - counts)[self.owner]
        prompts = self.captions.new_zeros(len(self.images), int(counts.max()), self.captions.shape[1])
        prompts[self.owner, place] = self.captions
        return prompts, torch.arange(prompts.shape[1], device=self.owner.device) < counts[:, None]

    def mean(self) -> Float[Tensor, "B D"]:
        """The normalised mean of each image's captions."""
        sums = torch.zeros_like(self.images).index_add_(0, self.owner, self.captions)
        return normalize(sums, dim=-1)


@dataclass(frozen=True)
class Pairs:
    """Images, each with at least one caption.

    Attributes:
        images: B embeddings.
        captions: P embeddings, image by image.
        first: B + 1 numbers: the captions of image i are first[i] up to first[i + 1].
        image_ids: the manifest's ids.
        texts: the captions as text; () where nobody asked for it.
    """

    images: Rows
    captions: Rows
    first: Int[Tensor, " B1"]
    image_ids: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where batches are computed with."""
        return self.images.device

    @property
    def counts(self) -> Int[Tensor, " B"]:
        """Captions of each image."""
        return self.first.diff()

    @property
    def owner(self) -> Int[Tensor, " P"]:
        """Which image each caption belongs to."""
        return torch.arange(len(self)).repeat_interleave(self.counts)

    def captions_of(self, rows: Int[Tensor, " M"]) -> tuple[Int[Tensor, " P"], Int[Tensor, " M"]]:
        """Places of the captions of these images, image by image, and how many each has."""
        counts = self.counts[rows]
        start = (self.first[rows] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        return start + torch.arange(int(counts.sum())), counts

    def batch(self, rows: Int[Tensor, " M"]) -> PairBatch:
        """These images with all their captions, in memory."""
        rows = rows.cpu()
        where, counts = self.captions_of(rows)
        owner = torch.arange(len(rows)).repeat_interleave(counts)
        return PairBatch(self.images.read(rows), self.captions.read(where), owner.to(self.device))

    def batches(self, size: int) -> Iterator[PairBatch]:
        """All images in order, some at a time."""
        for rows in torch.arange(len(self)).split(size):  # type: ignore[no-untyped-call]
            yield self.batch(rows)

    def take(self, rows: Int[Tensor, " M"]) -> Pairs:
        """These images alone, in this order, with all their captions."""
        rows = rows.cpu()
        where, counts = self.captions_of(rows)
        texts = tuple(self.texts[i] for i in where.tolist()) if self.texts else ()
        ids = tuple(self.image_ids[i] for i in rows.tolist())
        first = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return Pairs(self.images.at(rows), self.captions.at(where), first, ids, texts)

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> PairBatch:
        """What a training step takes; nothing is left to be drawn."""
        return self.batch(rows)

    def digest(self) -> bytes:
        """A hash of what they are."""
        own = np.ascontiguousarray(self.first.numpy()).tobytes()
        said = "\0".join(self.texts).encode()
        return hashlib.sha256(self.images.digest() + self.captions.digest() + own + said).digest()


@dataclass(frozen=True)
class CaptionTask:
    """Everything that a method may see when it learns from captions: no test image is in it.

    Attributes:
        train: images to learn from.
        val: images for choices; where there are none, some of `train` are held out, and it is fitted again on all.
        elsewhere: other data sets that may be learned on instead or first, or what was learned there, by name.
    """

    train: Pairs
    val: Pairs | None
    elsewhere: Mapping[str, CaptionTask | Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.train.device

    @cached_property
    def digest(self) -> bytes:
        """A hash of what decides a fit."""
        own = [b"-" if each is None else each.digest() for each in (self.train, self.val)]
        return b"".join([*own, *(name.encode() + digest_of(each) for name, each in self.elsewhere.items())])


def distinct(rows: Rows) -> int:
    """How many different embeddings there are."""
    seen: set[bytes] = set()
    for _, tile in rows.tiles():
        seen.update(hashlib.md5(row.tobytes(), usedforsecurity=False).digest() for row in tile.cpu().numpy())
    return len(seen)


def digest_of(learned: CaptionTask | Any) -> bytes:
    """A hash of a task, or of what was learned on one."""
    if isinstance(learned, CaptionTask):
        return learned.digest
    tree, tensors = pack(learned)
    found = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    for name in sorted(tensors):
        found.update(np.ascontiguousarray(tensors[name].cpu().numpy()).data)
    return found.digest()


def check_pairs(task: CaptionTask) -> None:
    """Refuse a task that nothing can be learned from.

    Raises:
        UserError: fewer than two images, or embeddings that are no numbers or not of length 1.
    """
    if len(task.train) < 2:
        raise UserError(
            f"{len(task.train)} training images with captions: a caption is told from those of other images, so "
            "at least 2 are needed"
        )
    for name, pairs in (("training", task.train), ("validation", task.val)):
        if pairs is not None:
            for what, rows in (("image", pairs.images), ("caption", pairs.captions)):
                for _, tile in rows.tiles():
                    check_unit(tile, name=f"{name} {what} embeddings")


HELD_OUT = 10
"""One of so many training images is held out to choose by, where there are no validation images."""
MOST_TO_CHOOSE_BY = 1000
"""Validation images that choices are made on, at most."""


@dataclass(frozen=True)
class PairSelection:
    """Images to learn from and images to choose by.

    Attributes:
        held_out: whether val was taken out of the training images, so that the choice is fitted again on all.
        note: one line for the records.
    """

    train: Pairs
    val: Pairs | None
    held_out: bool
    note: str


def select_pairs(task: CaptionTask, *, seed: int) -> PairSelection:
    """The images that a method chooses its settings by: the same rule for every method."""
    if task.val is not None and len(task.val) >= 2:
        most = shuffled(len(task.val), seed=seed)[:MOST_TO_CHOOSE_BY]
        return PairSelection(task.train, task.val.take(most), False, f"{len(most)} validation images")
    count = min(MOST_TO_CHOOSE_BY, max(2, len(task.train) // HELD_OUT))
    if len(task.train) - count < 2:
        return PairSelection(task.train, None, False, "none: too few images, defaults taken")
    order = shuffled(len(task.train), seed=seed)
    note = f"{count} of the training images held out by seed, then fitted again on all"
    held, rest = (task.train.take(rows.sort().values) for rows in (order[:count], order[count:]))
    return PairSelection(rest, held, True, note)


def shuffled(count: int, *, seed: int) -> Int[Tensor, " count"]:
    """The numbers below `count` in an order that the seed decides."""
    return torch.from_numpy(np.random.default_rng([seed, count]).permutation(count))
