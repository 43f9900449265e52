"""Small copies of images for the page, as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from stages import UserError
from trainer.report.page.dataset import DataSet

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


def thumbnails(of: DataSet, image_ids: Sequence[str]) -> tuple[dict[str, str], str]:
    """image_id -> small JPEG as far as the files are still there, and one line on those without."""
    try:
        root = of.manifest_origin.root
        table = of.manifest.select(["image_id", "path"]).to_pydict()
    except UserError as error:
        return {}, f"No pictures: {error}."
    if root is None:
        return {}, "No pictures: this data set came as embeddings, without image files."
    paths = dict(zip(table["image_id"], table["path"], strict=True))
    found, away = {}, []
    for image_id in dict.fromkeys(image_ids):
        try:
            found[image_id] = thumbnail(Path(root), paths[image_id])
        except (KeyError, OSError, ValueError) as error:
            away.append(f"{image_id} ({getattr(error, 'strerror', None) or error})")
    if not away:
        return found, ""
    return found, f"{len(away)} of {len(away) + len(found)} pictures cannot be read any more, such as {away[0]}."
