"""Small copies of images for the page, as data URIs."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

SIDE = 176
"""Pixels of the longer side."""
QUALITY = 74


def thumbnail(root: Path, path: str) -> str:
    """A small JPEG of an image of a manifest.

    Args:
        root: the manifest's.
        path: as in the manifest; a member of a container too.

    Raises:
        OSError: the file is not there, or cannot be read.
        pipeline.images.ImageError: it is no image; a ValueError to the caller.
    """
    from pipeline.blobs import read_bytes
    from pipeline.images import ImageError, open_rgb

    try:
        picture = open_rgb(read_bytes(root, path))
    except ImageError as error:
        raise ValueError(str(error)) from error
    picture.thumbnail((SIDE, SIDE))
    bytes_ = BytesIO()
    picture.save(bytes_, format="JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(bytes_.getvalue()).decode()}"
