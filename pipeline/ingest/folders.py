"""Class folders: `SOURCE/CLASS/*.jpg`, or `SOURCE/{train,val,test}/CLASS/*.jpg`."""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.images import SUFFIXES
from pipeline.ingest.base import Entry, Listing
from stages import UserError

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


class FolderReader:
    """Classes are the folders, in alphabetical order; a folder of class folders per split keeps that split."""

    def matches(self, source: str) -> bool:
        """Any existing folder."""
        return Path(source).is_dir()

    def read(self, source: str, class_names: Mapping[str, str]) -> Listing:
        """List the images of all class folders, nested folders included; symbolic links to folders are not followed."""
        root = Path(source).resolve()
        top = _folders(root)
        splits = {folder: SPLIT_FOLDERS.get(folder.name.lower()) for folder in top}
        if top and all(splits.values()):
            groups = [(split, child) for folder, split in splits.items() for child in _folders(folder)]
        elif any(splits.values()):
            named = ", ".join(f.name for f, s in splits.items() if s)
            other = ", ".join(f.name for f, s in splits.items() if not s)
            raise UserError(
                f"{source}: split folders ({named[:80]}) beside other folders ({other[:80]}): keep only one kind"
            )
        else:
            groups = [(None, folder) for folder in top]
        names = sorted({child.name for _, child in groups})
        if not names:
            raise UserError(
                f"{source}: no class folders; expected SOURCE/CLASS/image.jpg or SOURCE/train/CLASS/image.jpg"
            )
        shown = _shown_names(source, names, class_names)
        entries: list[Entry] = []
        ignored = 0
        for split, folder in groups:
            class_id = names.index(folder.name)
            for path in _files(folder):
                if path.suffix.lower() not in SUFFIXES:
                    ignored += 1
                    continue
                image_id = path.relative_to(root).as_posix()
                entries.append(Entry(path, image_id, class_id, shown[class_id], split))
        if not entries:
            raise UserError(
                f"{source}: {len(names)} class folders but no image in them (looked for {', '.join(sorted(SUFFIXES))})"
            )
        return Listing(root, entries, dict(enumerate(shown)), ignored)


def _shown_names(source: str, names: list[str], class_names: Mapping[str, str]) -> list[str]:
    unknown = sorted(set(class_names) - set(names))
    if unknown:
        raise UserError(
            f"{source}: class_names has {unknown[0]!r}, which is no class folder; found {', '.join(names)[:200]}"
        )
    shown = [class_names.get(name, name) for name in names]
    twice = sorted({name for name in shown if shown.count(name) > 1})
    if twice:
        raise UserError(f"{source}: class name {twice[0]!r} is given to two folders; class names must differ")
    return shown


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """All files below a folder, sorted; hidden ones left out, folder links not followed (so no loops)."""
    found = []
    for here, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(here) / f for f in sorted(files) if not f.startswith(".")]
    return found
