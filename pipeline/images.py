"""Image files to RGB pictures: one place that knows the odd formats and refuses the dangerous ones.

Pictures of more than 8 bits a channel are scaled to 8 by what the file says of its range, else by the range of its
pixels: 12 bits in a 16-bit file, floats of 0 to 1 and signed numbers come out as people see them, and not black. One
file always gives the same picture, whoever opens it.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from stages.files import LFS_POINTER, read_file

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


@dataclass(frozen=True)
class Picture:
    """A decoded file.

    Attributes:
        scaled: from which range the values were scaled to 8 bits; None for files of 8 bits a channel.
        first: whether it is the first of several frames or pages.
    """

    image: Image.Image
    scaled: str | None = None
    first: bool = False


def open_rgb(source: Path | bytes, *, most: int = MAX_PIXELS) -> Image.Image:
    """Decode a file, or its bytes, to an upright RGB picture; `open_picture` tells how."""
    return open_picture(source, most=most).image


def open_picture(source: Path | bytes, *, most: int = MAX_PIXELS) -> Picture:
    """Decode a file, or its bytes, to an upright RGB picture.

    EXIF rotation is applied, an animation gives its first frame, more than 8 bits a channel are scaled to 8.

    Args:
        most: pixels of the largest picture that is decoded.

    Raises:
        ImageError: missing, empty, truncated, no image, or larger than `most` pixels.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with _without_warnings():  # Pillow warns of odd EXIF and large pictures; both are handled here
            data = source if isinstance(source, bytes) else read_file(source)
            with Image.open(BytesIO(data)) as image:
                if image.format == "EPS":  # a program, which Pillow would have run by another
                    raise ImageError("an EPS file, which is not read; save it as PNG")
                if image.width * image.height > most:
                    raise ImageError(f"{image.width}x{image.height} pixels: larger than {most}")
                # MPO is a photograph with its previews.
                first = image.format != "MPO" and bool(getattr(image, "is_animated", False))
                wide = _is_wide(image)
                image.load()
                picture = _narrowed(image, data) if wide else Picture(image)
                ImageOps.exif_transpose(picture.image, in_place=True)
                return Picture(_to_rgb(picture.image), picture.scaled, first)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if data.startswith(LFS_POINTER):
            raise ImageError("a Git LFS pointer, not the image itself: run `git lfs pull`") from error
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
    if image.mode == "RGB":
        return image
    if image.mode in ("P", "PA", "LA", "RGBA") and ("transparency" in image.info or image.mode != "P"):
        flat = image.convert("RGBA")
        ground = Image.new("RGBA", flat.size, "white")
        return Image.alpha_composite(ground, flat).convert("RGB")
    return image.convert("RGB")


# More than 8 bits a channel

GREY_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
DEPTHS = (1, 8, 10, 12, 14, 16)
"""Bits that pixels of 16-bit files are made with; 1 for masks."""
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
RANGES = ((340, 341), (280, 281))
"""TIFF tags: SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue."""

Range = tuple[float, float]


def _is_wide(image: ImageFile.ImageFile) -> bool:
    """Whether a file that is not yet loaded has more than 8 bits a channel."""
    return image.mode in GREY_MODES or any(";16" in raw for raw in _raw_modes(image))


def _raw_modes(image: ImageFile.ImageFile) -> list[str]:
    tiles = [tile.args for tile in image.tile]
    return [str(args[0] if isinstance(args, tuple) and args else args) for args in tiles]


def _said_range(image: Image.Image) -> Range | None:
    """The range that a file says its values have, unless it is but that of its number type."""
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        return 0, 65_535  # Pillow has scaled the file's own range to 16 bits
    tags = getattr(image, "tag_v2", {})
    bits = max(tags.get(BITS, (16,)))
    if bits in (10, 12, 14):
        return 0, 2**bits - 1
    for low_tag, high_tag in RANGES:
        if high_tag in tags:
            low, high = (_first(tags.get(tag, 0)) for tag in (low_tag, high_tag))
            if low < high < np.inf and (low, high) != (0, 2**bits - 1):
                return low, high
    return None


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, tuple) else value)  # type: ignore[arg-type]


def _narrowed(image: Image.Image, data: bytes) -> Picture:
    """A loaded picture of more than 8 bits a channel, scaled to 8.

    Raises:
        ImageError: no pixel is a number.
    """
    if image.mode not in GREY_MODES:
        return _narrowed_colours(image, data)
    values, said = np.asarray(image), _said_range(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and max(tags.get(SAMPLE_FORMAT, (2,))) == 1:
        values = values.view(np.uint32)
    numbers = np.isfinite(values)
    if not numbers.any():
        raise ImageError("no pixel is a number (NaN or infinite)")
    lowest = float(values.min(where=numbers, initial=values[numbers][0]))
    highest = float(values.max(where=numbers, initial=values[numbers][0]))
    if said is not None and said[0] <= lowest and highest <= said[1]:
        (low, high), what = said, "the range that the file says"
    else:
        (low, high), what = _range_of(lowest, highest, whole=image.mode != "F")
    scaled = _to_bytes(values, low, high)
    if tags.get(PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow heeds for 8 bits alone
        scaled = 255 - scaled
    if not numbers.all():
        scaled[~numbers] = 0
        what += " (pixels that are no number are black)"
    return Picture(_like(image, scaled), what)


def _range_of(lowest: float, highest: float, *, whole: bool) -> tuple[Range, str]:
    """The range that values were most likely made in, and what to call it: the smallest usual one that holds them."""
    if lowest < 0:
        if not whole and lowest >= -1 and highest <= 1:
            return (-1, 1), "-1 to 1"
        return (lowest, highest), "the range of its own pixels"
    if not whole and highest <= 1:
        return (0, 1), "0 to 1"
    bits = next((bits for bits in DEPTHS if highest <= 2**bits - 1), None)
    return ((0, 2**bits - 1), f"{bits} bits") if bits else ((0, highest), "the range of its own pixels")


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0..255 for low..high, rounded, row by row: a large picture is not held as floats."""
    made = np.empty(values.shape, np.uint8)
    for row, own in zip(made, values, strict=True):
        share = (np.nan_to_num(own.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1)
        row[...] = share.clip(0, 1) * 255 + 0.5
    return made


def _like(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A picture of these values with the other's EXIF, for its rotation, and transparency."""
    made = Image.fromarray(values)
    made.info = dict(image.info)
    made.getexif().update(image.getexif())
    return made


def _narrowed_colours(image: Image.Image, data: bytes) -> Picture:
    """Colours of 16 bits, of which Pillow gives the upper 8: with the lower ones where the upper are nearly unused."""
    upper = np.asarray(image)
    colours = 3 if image.mode == "RGBA" else upper.shape[-1]
    if image.mode not in ("RGB", "RGBA") or upper[..., :colours].max() >= 2 ** (DEPTHS[-2] - 8):
        return Picture(image, f"{DEPTHS[-1]} bits")
    values = upper.astype(np.uint16) << 8 | _lower_bytes(data)
    (low, high), what = _range_of(0, float(values[..., :colours].max()), whole=True)
    made = _to_bytes(values, low, high)
    made[..., colours:] = upper[..., colours:]
    return Picture(_like(image, made), what)


def _lower_bytes(data: bytes) -> np.ndarray:
    """The lower byte of each channel: the file read as if its bytes stood in the other order."""
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    with Image.open(BytesIO(data)) as image:
        raw = _raw_modes(image)[0]
        greys = raw.startswith("LA")  # read as RGBA are its two bytes of grey and two of alpha
        swapped = "RGBA" if greys else raw[:-1] + other[raw[-1]]
        image.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in image.tile
        ]
        lower = np.asarray(image)
        return lower[..., [1, 1, 1, 3]] if greys else lower
