"""A contact sheet of the images that were found, with their scores and classes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from pipeline.blobs import read_bytes
from pipeline.images import ImageError, open_rgb
from pipeline.search.find import ImageHit
from stages.sheet import Cell, NoPicture, draw_sheet


def contact_sheet(
    hits: Sequence[ImageHit], file: Path, *, title: str, notes: Sequence[str] = (), asked: Path | None = None
) -> list[str]:
    """Write a PNG with the first hits, best first, row by row: `stages.sheet.draw_sheet`.

    Args:
        title: what was searched for.
        asked: the picture file that was searched for, shown beside the title.
    """
    cells = [
        Cell(hit.class_name, f"#{hit.rank} · {hit.score:.3f} · {hit.split}", hit.place, partial(_picture, hit))
        for hit in hits
    ]
    return draw_sheet(cells, file, title=title, notes=notes, asked=None if asked is None else open_rgb(asked))


def _picture(hit: ImageHit) -> Image.Image:
    """The picture of a hit.

    Raises:
        NoPicture: there is no file, or it cannot be read.
    """
    if hit.root is None:
        raise NoPicture("this data set came without image files")
    try:
        return open_rgb(read_bytes(Path(hit.root), hit.path))
    except (ImageError, OSError) as error:
        raise NoPicture(str(getattr(error, "strerror", None) or error)) from error
