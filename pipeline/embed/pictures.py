"""The data set that worker processes run: image names in, preprocessed views or an error out."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.embed.reading import read_picture
from pipeline.encoders.base import Augment, Preprocess
from pipeline.images import SUFFIXES

Batch = tuple[Tensor | None, list[str | None]]
"""Pixels of the readable images, view after view; and for each image None, or why it cannot be read."""


class Pictures(Dataset["Tensor | str"]):
    """The images of a manifest as a map-style data set; an item is its views, or the line that says why there are none.

    Args:
        root: folder that the paths are relative to.
        paths: one path an image, an Arrow column: processes share it, where Python strings would be copied.
        image_ids: the same of the ids, which with `seed` decide the augmentations.
        preprocess: the centre crop.
        augment: one random view.
        views: random views beside the centre crop.
        views_from: folder of the pictures that are views in the place of random ones (`given_views`).
    """

    def __init__(
        self, root: Path, paths: pa.Array, image_ids: pa.Array, *, preprocess: Preprocess, augment: Augment,
        views: int = 0, seed: int = 1, views_from: Path | None = None,
    ) -> None:  # fmt: skip
        self.root, self.paths, self.image_ids = root, paths, image_ids
        self.preprocess, self.augment, self.views, self.seed = preprocess, augment, views, seed
        self.views_from = views_from

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "views 3 height width"] | str:
        path = self.paths[index].as_py()
        image = read_picture(self.root, path)
        if isinstance(image, str):
            return image
        image_id = self.image_ids[index].as_py()
        given = given_views(self.views_from, path)[: self.views]
        shown = [read_picture(file.parent, file.name) for file in given]
        bad = next(
            (f"view {file}: {why}" for file, why in zip(given, shown, strict=True) if isinstance(why, str)), None
        )
        if bad is not None:
            return bad
        drawn = [self.preprocess(picture) for picture in shown if not isinstance(picture, str)]
        rest = range(len(drawn) + 1, self.views + 1)
        drawn += [self.augment(image, view_rng(self.seed, image_id, view)) for view in rest]
        return _stacked([self.preprocess(image), *drawn])


def given_views(folder: Path | None, path: str) -> list[Path]:
    """The pictures of a views folder that are views of the image at this path, by name; none without a folder."""
    if folder is None:
        return []
    own = folder / Path(path).with_suffix("")
    inside = own.resolve().is_relative_to(folder.resolve())  # a path of the manifest is not trusted
    return sorted(p for p in own.iterdir() if p.suffix.lower() in SUFFIXES) if inside and own.is_dir() else []


def view_rng(seed: int, image_id: str, view: int) -> np.random.Generator:
    """The random numbers of one view of one image, whatever else is embedded, in whatever order."""
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, view, int.from_bytes(digest[:8], "big")])


def collate(items: list[Any]) -> Batch:
    """Join the items of a batch."""
    pixels = [view for item in items if isinstance(item, Tensor) for view in item]
    return (_stacked(pixels) if pixels else None), [item if isinstance(item, str) else None for item in items]


def _stacked(views: list[Tensor]) -> UInt8[Tensor, "views 3 height width"]:
    """Pictures lie in memory pixel by pixel, as decoders write them and convolutions read them, and are not turned.

    By numpy: torch would start a team of threads in every thread that decodes, and those slow the encoder's own down.
    """
    return torch.from_numpy(np.stack([view.movedim(0, 2).numpy() for view in views])).movedim(3, 1)
