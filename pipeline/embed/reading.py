"""One image of a manifest as a picture, or the line that says why there is none."""

from pathlib import Path

from PIL import Image

from pipeline.blobs import read_bytes
from pipeline.images import ImageError, open_rgb


def read_picture(root: Path, path: str) -> Image.Image | str:
    """The RGB picture, or `missing: ...` (no such file, or no such member of an archive), `unreadable: ...` (the system
    refused, or the archive is damaged), `undecodable: ...` (its bytes are no picture).
    """
    try:
        return open_rgb(read_bytes(root, path))
    except ImageError as error:
        return f"undecodable: {error}"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"missing: {error.strerror or error}"
    except OSError as error:
        return f"unreadable: {error.strerror or error}"
