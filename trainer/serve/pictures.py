"""Pictures for the page: files of the list and uploads, decoded one at a time, sent as small JPEG copies."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from stages import UserError
from trainer.serve.lists import is_there

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainer.serve.lists import DataSet, Item

MOST_BYTES = 32 * 2**20
"""Bytes of an upload."""
MOST_PIXELS = 64_000_000
"""Pixels of an upload; decoded they take 200 MB."""
SIDE = 900
"""Pixels of the longer side of a copy."""
QUALITY = 85

_one = threading.Lock()
"""Decoding takes memory by the pixel: one picture at a time, however many ask."""


def open_upload(data: bytes) -> Image:
    """An upload as a picture.

    Raises:
        UserError: it is none, or has too many pixels.
    """
    from pipeline.images import ImageError, open_rgb

    with _one:
        try:
            return open_rgb(data, most=MOST_PIXELS)
        except ImageError as error:
            raise UserError(f"this file cannot be shown: {error}") from error


def open_item(item: Item, dataset: DataSet) -> Image:
    """The picture of an item of the list.

    Raises:
        UserError: it has no file, or that is gone or no picture.
    """
    from pipeline.blobs import read_bytes
    from pipeline.images import ImageError, open_rgb

    root, path = place_of(item, dataset)
    with _one:
        try:
            return open_rgb(read_bytes(root, path))
        except (ImageError, OSError) as error:
            raise UserError(f"the picture cannot be read: {getattr(error, 'strerror', None) or error}") from error


def place_of(item: Item, dataset: DataSet) -> tuple[Path, str]:
    """Folder and path of an item's file, as `pipeline.blobs.read_bytes` takes them.

    Raises:
        UserError: the data set came as embeddings.
    """
    known = dataset.images.get(item.image_id)
    if known is None:
        file = Path(os.path.normpath(Path.cwd() / item.path))
        return Path(file.anchor), str(file.relative_to(file.anchor))
    if dataset.root is None:
        raise UserError("no picture: the data set came as embeddings, without image files")
    return dataset.root, known.path


def small_copy(picture: Image, side: int = SIDE) -> bytes:
    """A JPEG whose longer side has at most `side` pixels; nothing of the file but its pixels is in it."""
    picture.thumbnail((side, side))
    out = BytesIO()
    picture.save(out, format="JPEG", quality=QUALITY)
    return out.getvalue()


def missing(items: Sequence[Item], dataset: DataSet) -> list[str]:
    """Names of the items whose file is not there, as far as that shows without opening one."""
    if dataset.root is None:
        items = [item for item in items if not item.image_id]
    return [item.name for item in items if not is_there(Path(*place_of(item, dataset)))]
