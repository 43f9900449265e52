"""Where the images lie that a list, a split file or a file of captions names."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from pipeline.archives import is_inside
from pipeline.images import SUFFIXES
from stages.errors import UserError
from stages.params import DataParams

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ELSEWHERE = re.compile(rf"{URL.pattern}|[A-Za-z]:[\\/]")
"""URLs, and absolute paths of Windows."""


class Places:
    """Finds named images below one root: the settings' `images`, or the folder of the source.

    A name is found in either Unicode form, with `\\` between folders, and without its suffix; the last two are
    `counted`. The root's links are the root.

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
        self.counted: Counter[str] = Counter()
        """How names were read -> how many of them, for the user."""
        self._names = cache(self._read_names)
        self._prefix = cache(self._find_prefix)

    @property
    def notes(self) -> list[str]:
        """Lines for the user about how names were read."""
        return [f"{count} {what}" for what, count in self.counted.items() if count]

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
            ValueError: the name is empty, a URL, leads out of the root, or lacks a suffix that several files have.
        """
        candidates = []
        for text in (name, *names):
            text = self._below_root(text)
            candidates += ["/".join(filter(None, (base, hint, text))) for base in self.bases for hint in ("", *hints)]
        for candidate in candidates:
            if self._is_there(candidate):
                return candidate
        if "\\" in name:
            plain = name.replace("\\", "/")
            found = self.find(plain, hints=hints, names=names)
            self.counted["paths with backslashes, taken as folders"] += 1
            return found
        for suffixed in (False, True):
            for candidate in candidates:
                found_as = self._spelled(candidate, suffixed=suffixed)
                if found_as is not None:
                    self.counted["images named without their suffix, found by the rest of the name"] += suffixed
                    return found_as
        return candidates[0]

    def _is_there(self, path: str) -> bool:
        return os.path.isfile(f"{self.root}/{path}")  # noqa: PTH113 (called for every image, and quicker)

    # Absolute paths

    def _below_root(self, text: str) -> str:
        """A path of the source relative to the root.

        Raises:
            ValueError: it leads elsewhere.
        """
        if text.startswith("/") and "\0" not in text:
            prefix = self._prefix(text.rpartition("/")[0])
            text = text.removeprefix(prefix).lstrip("/") if prefix is not None else text
        if not text.startswith("/") and not ELSEWHERE.match(
            text
        ):  # `./a.jpg`, `b//a.jpg` and `b/./a.jpg` are no further images
            text = "/".join(part for part in text.split("/") if part not in ("", "."))
        if not is_inside(text) or not is_inside(text.replace("\\", "/")) or ELSEWHERE.match(text):
            raise ValueError(_refusal(text, self.root))
        return text

    def _find_prefix(self, folder: str) -> str | None:
        """The part of an absolute folder that is the root, by whatever links it goes; None where it leads elsewhere."""
        root = unicodedata.normalize("NFC", str(self.root))
        for place in (PurePosixPath(folder), *PurePosixPath(folder).parents):
            try:
                is_root = unicodedata.normalize("NFC", os.path.realpath(place)) == root
            except ValueError:  # no name that a disk can have
                return None
            if is_root:
                return str(place)
        return None

    # Names that the disk spells differently

    def _spelled(self, path: str, *, suffixed: bool) -> str | None:
        """The path as the disk has it, where it differs in Unicode form (or by a suffix) alone; None for none.

        Raises:
            ValueError: several suffixes.
        """
        here = ""
        *folders, last = PurePosixPath(path).parts
        for part in folders:
            found = self._names(here).get(unicodedata.normalize("NFC", part))
            if not found:
                return None
            here = f"{here}/{part if part in found else found[0]}".lstrip("/")
        last = unicodedata.normalize("NFC", last)
        if suffixed and os.path.splitext(last)[1].lower() in SUFFIXES:  # noqa: PTH122 (text, for every image)
            return None
        found = self._names(here).get(f"{last}.*" if suffixed else last, [])
        names = [name for name in found if self._is_there(f"{here}/{name}")]
        if suffixed and len(names) > 1:
            shown = " or ".join(map(repr, sorted(names)[:4]))
            raise ValueError(f"image {path[:120]!r} may be {shown}; write the suffix")
        return f"{here}/{names[0]}".lstrip("/") if names else None

    def _read_names(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder by their composed form, and image files by `STEM.*` besides."""
        found: dict[str, list[str]] = defaultdict(list)
        try:
            names = sorted(os.listdir(f"{self.root}/{folder}"))  # noqa: PTH208 (names alone)
        except OSError:
            return {}
        for name in names:
            plain = unicodedata.normalize("NFC", name)
            found[plain].append(name)
            stem, suffix = os.path.splitext(plain)  # noqa: PTH122
            if suffix.lower() in SUFFIXES:
                found[f"{stem}.*"].append(name)
        return dict(found)


def one_deeper(root: Path, path: str) -> Path | None:
    """The folder that a missing image lies below, if it is one folder away from where it should be."""
    parts = PurePosixPath(path).parts
    for number in range(len(parts)):
        above, rest = root.joinpath(*parts[:number]), PurePosixPath(*parts[number:])
        for place in sorted(above.iterdir()) if above.is_dir() else ():
            if (place / rest).is_file():
                return place
    return None


def _refusal(text: str, root: Path) -> str:
    shown = repr(text[:120])
    if not text.strip():
        return "names no image"
    if URL.match(text):
        return f"{shown} is a URL: download the images first, e.g. with img2dataset, and name the files"
    if text.startswith("/") or ELSEWHERE.match(text):
        return (
            f"image {shown} does not lie below {root}; name the folder that holds the images with --images, or write "
            "paths relative to it"
        )
    return f"image {shown} leaves the image folder"
