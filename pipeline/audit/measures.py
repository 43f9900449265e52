"""What a picture is like before any model sees it: size, light, contrast, sharpness, and a hash of its pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from pipeline.embed.reading import read_picture
from stages.command import progress

SIDE = 256
"""Pixels of the longer side on which light and sharpness are measured; smaller pictures stay as they are."""
THUMBNAIL = 16
AT_ONCE = 2048
"""Pictures handed to the threads at once."""


@dataclass(frozen=True, slots=True)
class Measures:
    """One picture.

    Attributes:
        error: why it cannot be read now; the other fields are 0 then.
        pixels: hash of the decoded pixels and the size.
        brightest, darkest: the luminance that 1 % of the pixels exceed, and that 5 % fall below, 0 to 1.
        contrast: standard deviation of the luminance, 0 to 1.
        sharpness: standard deviation of the Laplacian of the luminance, 0 to about 4.
        thumbnail: the picture on THUMBNAIL by THUMBNAIL pixels, RGB bytes.
    """

    error: str | None = None
    pixels: str = ""
    width: int = 0
    height: int = 0
    brightest: float = 0.0
    darkest: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    thumbnail: bytes = b""


def measure_all(root: Path, paths: Sequence[str], *, what: str) -> Iterator[Measures]:
    """The measures of each image, in order, decoded in threads."""
    with ThreadPoolExecutor() as pool:
        stream = (
            found
            for start in range(0, len(paths), AT_ONCE)
            for found in pool.map(lambda path: _read(root, path), paths[start : start + AT_ONCE])
        )
        yield from progress(stream, what=what, total=len(paths), unit="image")


def _read(root: Path, path: str) -> Measures:
    picture = read_picture(root, path)
    return Measures(error=picture) if isinstance(picture, str) else measure(picture)


def measure(picture: Image.Image) -> Measures:
    """The measures of an RGB picture."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height} ".encode() + picture.tobytes()).hexdigest()
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L"), np.float32) / 255
    low, high = np.percentile(grey, (5, 99))
    tiny = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
    return Measures(
        None, digest, picture.width, picture.height, float(high), float(low), float(grey.std()), sharpness(grey), tiny
    )


def sharpness(grey: Float[np.ndarray, "height width"]) -> float:
    """Standard deviation of the Laplacian (Pech-Pacheco et al., ICPR 2000); 0 for pictures of fewer than 3 pixels."""
    if min(grey.shape) < 3:
        return 0.0
    centre = grey[1:-1, 1:-1]
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    return float(edges.std())
