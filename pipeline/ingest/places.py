"""Where the images lie that a list, a split file or a file of captions names."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.blobs import is_inside
from stages.errors import UserError
from stages.params import DataParams


class Places:
    """Finds named images below one root: the settings' `images`, or the folder of the source.

    Args:
        folder: folder of the source.
        data: its `images` is absolute, or relative to the folder of the source or to the working folder.
        below: a folder, relative to the source's, that paths are relative to in the first place.

    Raises:
        UserError: `images` is no folder.
    """

    def __init__(self, folder: Path, data: DataParams, below: str = "") -> None:
        self.root = folder.resolve()
        self.bases = [below, ""]
        if data.images is not None:
            tried = [self.root / data.images, Path(data.images).resolve()]
            found = [place for place in tried if place.is_dir()]
            if not found:
                raise UserError(f"images: {data.images!r} is no folder, neither in {self.root} nor here", exit_code=2)
            self.root, self.bases = found[0].resolve(), [""]
        bases = [place for base in self.bases for place in (base, f"{base}/images".lstrip("/"))]
        self.bases = [base for base in dict.fromkeys(bases) if not base or (self.root / base).is_dir()]

    def folders_like(self, words: Sequence[str]) -> list[str]:
        """The folders of the root, and of its `images`, whose names begin with one of these words."""
        places = [self.root / base for base in self.bases]
        names = {entry.name for place in places for entry in place.iterdir() if entry.is_dir()}
        return sorted(name for name in names if name.lower().startswith(tuple(words)))

    def find(self, name: str, *, hints: Sequence[str] = (), names: Sequence[str] = ()) -> str:
        """The path of an image relative to the root; where it is nowhere, the first place it should have been.

        Args:
            name: as the source has it.
            hints: folders it may lie in besides.
            names: other names that it may have.

        Raises:
            ValueError: the name is empty, or leads out of the root.
        """
        candidates = []
        for text in (name, *names):
            if text.startswith("/") and text.startswith(f"{self.root}/"):
                text = text.removeprefix(f"{self.root}/")
            text = text.removeprefix("./")
            if not is_inside(text):
                raise ValueError(_refusal(text, self.root))
            candidates += ["/".join(filter(None, (base, hint, text))) for base in self.bases for hint in ("", *hints)]
        if len(candidates) > 1:
            for candidate in candidates:
                if os.path.exists(f"{self.root}/{candidate}"):  # noqa: PTH110 (called for every image, and quicker)
                    return candidate
        return candidates[0]


def _refusal(text: str, root: Path) -> str:
    shown = repr(text[:120])
    if not text.strip():
        return "names no image"
    if text.startswith("/"):
        return f"image {shown} does not lie below {root}; name the folder that holds the images with --images"
    return f"image {shown} leaves the image folder"
