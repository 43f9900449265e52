"""Embeddings given in the place of image files: `.npz` and the other forms of `stages.arrays`, told by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from stages import UserError
from stages.arrays import FORMS, MAIN, UNNAMED, Values, holds_arrays, read_arrays
from stages.command import say

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def are_embeddings(path: Path) -> bool:
    """Whether a path is a file of arrays by its name, or a folder of them."""
    return holds_arrays(path) if path.is_dir() else path.suffix.lower() in FORMS


@dataclass
class GivenEncoder:
    """Stands where an encoder would: nothing has to be encoded, and nothing says whose embeddings these are."""

    name: str
    width: int
    fingerprint: str
    because: str = "with which the checkpoint was trained"
    note: str = field(init=False)

    def __post_init__(self) -> None:
        self.note = f"the embeddings are taken to be of {self.name}, {self.because}"

    @property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """There are no pictures."""
        raise NotImplementedError

    @property
    def augment(self) -> Callable[[Image, Any], Tensor]:
        """There are no pictures."""
        raise NotImplementedError

    def encode_images(self, pixels: Tensor) -> Tensor:
        """There are no pictures."""
        raise NotImplementedError

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """No encoder is loaded.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.name} is not loaded for embeddings, and no sentence can be embedded: name image files")


def given_rows(
    file: Path, *, width: int, batch: int
) -> Iterator[tuple[list[str], list[str | None], Float[np.ndarray, "B D"]]]:
    """Names, what is wrong with each row (None: nothing), and the unit vectors of the sound ones, `batch` at once.

    Args:
        width: of the encoder that they have to be of.

    Raises:
        UserError: the file cannot be read, has no embeddings (B, D), or those of another width.
    """
    arrays = read_arrays(file)
    key = UNNAMED if UNNAMED in arrays else MAIN
    array = arrays.get(key)
    if array is None or isinstance(array, list):
        there = ", ".join(sorted(arrays))[:200] or "nothing"
        raise UserError(f"{file}: no `{MAIN}` (N, D) of numbers; it has {there}")
    if array.ndim != 2 or array.dtype.kind != "f":
        raise UserError(f"{file}: {key or 'its array'} is {array.dtype} of shape {array.shape}; expected floats (N, D)")
    if not len(array):
        raise UserError(f"{file}: {key or 'its array'} has no row: there is no image to classify")
    if array.shape[1] != width:
        raise UserError(f"{file}: embeddings {array.shape[1]} wide, expected {width}: they are of another encoder")
    names = _names(file, arrays, len(array))
    where = np.flatnonzero(_first_views(file, arrays, len(array)))
    if spare := len(array) - len(where):
        say(f"note: {spare} of {len(array)} rows of {file} are further views of an image and left out")
    for start in range(0, len(where), batch):
        rows = where[start : start + batch]
        block = np.asarray(array[rows], np.float64)
        largest = np.abs(block).max(axis=1, initial=0)
        errors = [
            "holds NaN or infinity" if not np.isfinite(most) else "is zero and has no direction" if most == 0 else None
            for most in largest
        ]
        sound = block[np.isfinite(largest) & (largest > 0)]
        sound /= np.abs(sound).max(axis=1, keepdims=True, initial=0)
        yield [names[row] for row in rows], errors, sound / np.linalg.norm(sound, axis=1, keepdims=True)


def _names(file: Path, arrays: dict[str, Values], count: int) -> list[str]:
    ids = arrays.get("image_id")
    if ids is None:
        return [f"{file}#{row}" for row in range(count)]
    _require_one_each(file, "image_id", np.shape(ids), count)
    return [str(name) for name in ids]


def _first_views(file: Path, arrays: dict[str, Values], count: int) -> Bool[np.ndarray, " N"]:
    views = arrays.get("view")
    if views is None:
        return np.ones(count, bool)
    _require_one_each(file, "view", np.shape(views), count)
    if isinstance(views, list) or views.dtype.kind not in "iu":
        raise UserError(f"{file}: view holds no whole numbers; expected 0 for the image itself, 1 and on for others")
    return np.asarray(views == 0)


def _require_one_each(file: Path, key: str, shape: tuple[int, ...], count: int) -> None:
    if shape != (count,):
        raise UserError(f"{file}: {key} is of shape {shape}; expected ({count},), one a row of the embeddings")
