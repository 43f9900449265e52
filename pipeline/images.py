"""Image files to RGB pictures: one place that knows the odd formats and refuses the dangerous ones."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"}
)
"""What counts as an image file by its name; other files in a class folder are passed over and counted."""

MAX_PIXELS = 178_956_970
"""Larger pictures are refused as decompression bombs (the limit at which Pillow refuses too)."""


_mute = threading.Lock()
_decoding = 0  # threads that decode now
_filters = warnings.catch_warnings(action="ignore")


class ImageError(Exception):
    """A file that cannot be read as a picture; the message is one short line."""


def open_rgb(source: Path | bytes) -> Image.Image:
    """Decode a file, or its bytes, to an upright RGB picture.

    EXIF rotation is applied, an animation gives its first frame, 16 bit are scaled to 8.

    Raises:
        ImageError: missing, empty, truncated, no image, or larger than `MAX_PIXELS`.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with _without_warnings():  # Pillow warns of odd EXIF and large pictures; both are handled here
            data = source if isinstance(source, bytes) else source.read_bytes()
            with Image.open(BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{image.width}x{image.height} pixels: larger than {MAX_PIXELS}")
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image if image.mode == "RGB" else _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image that can be read" if data else "empty file") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        said = str(error).replace(str(source), source.name) if isinstance(source, Path) else str(error)
        raise ImageError(f"{type(error).__name__}: {' '.join(said.split())[:200]}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """`warnings.catch_warnings` for threads side by side: the first one in mutes, the last one out restores."""
    global _decoding, _filters
    with _mute:
        if not _decoding:
            _filters = warnings.catch_warnings(action="ignore")
            _filters.__enter__()
        _decoding += 1
    try:
        yield
    finally:
        with _mute:
            _decoding -= 1
            if not _decoding:
                _filters.__exit__(None, None, None)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65_535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("P", "PA", "LA", "RGBA") and ("transparency" in image.info or image.mode != "P"):
        flat = image.convert("RGBA")
        ground = Image.new("RGBA", flat.size, "white")
        return Image.alpha_composite(ground, flat).convert("RGB")
    return image.convert("RGB")
