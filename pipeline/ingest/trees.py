"""A folder and all that lies below it, read once: what images there are, and what is none of the user's."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.images import SUFFIXES
from stages.errors import UserError
from stages.names import is_left_behind
from stages.text import counted

MOST_DEPTH = 200
"""Folders in folders; deeper ones are refused."""
LINKED_DEPTH = 3
"""Links to folders are followed down to here (split, split again, class), not inside class folders."""


@dataclass(slots=True)
class Folder:
    """One folder.

    Attributes:
        path: below the root, `/` between names; "" for the root.
        folders: those in it, sorted; links to folders above are not among them.
        images: paths of its own images below the root, sorted; links that lead nowhere are images if called so.
        others: number of its own files that are no images by their name.
    """

    path: str
    folders: list["Folder"] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: int = 0
    total: int = 0

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def filled(self) -> list["Folder"]:
        """The folders in it that have an image somewhere."""
        return [folder for folder in self.folders if folder.total]

    def below(self) -> Iterator["Folder"]:
        """It and all folders in it, whatever the depth, in the order of their paths."""
        yield self
        for folder in self.folders:
            yield from folder.below()

    def all_images(self) -> Iterator[str]:
        """The images in it, whatever the depth."""
        for folder in self.below():
            yield from folder.images


@dataclass(frozen=True, slots=True)
class Tree:
    """What was found below a root.

    Attributes:
        left_behind: name -> how often, of files and folders that systems and programs leave behind; not looked into.
        unfollowed: links to folders that were not followed.
    """

    root: Folder
    left_behind: Counter[str]
    unfollowed: list[str]

    def notes(self) -> list[str]:
        """Lines about what was left out."""
        notes = []
        if self.left_behind:
            shown = ", ".join(sorted(self.left_behind)[:5]) + (", ..." if len(self.left_behind) > 5 else "")
            notes.append(
                f"{self.left_behind.total()} hidden files or folders, or ones that a system left behind, "
                f"are left out ({shown[:200]})"
            )
        if self.unfollowed:
            notes.append(
                f"{counted(len(self.unfollowed), 'link to a folder is', 'links to folders are')} not followed (first: "
                f"{self.unfollowed[0][:120]}); "
                "put the folder itself there"
            )
        return notes


def read_tree(place: Path) -> Tree:
    """Read a folder; no file is opened.

    Raises:
        UserError: a folder cannot be read, or a folder in `place` is a link to one that it lies in.
    """
    top = str(place)
    tree = Tree(Folder(""), Counter(), [])
    _fill(tree, tree.root, top, depth=1)
    return tree


def kinds_in(place: Path) -> str:
    """How many files of which suffix lie below a folder, the most frequent first, for messages."""
    names = (name for *_, files in os.walk(place) for name in files)
    kinds = Counter(os.path.splitext(name)[1].lower()[:12] or "without suffix" for name in names)  # noqa: PTH122
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "no file"


def _fill(tree: Tree, folder: Folder, top: str, *, depth: int) -> None:
    here = f"{top}/{folder.path}" if folder.path else top
    if depth > MOST_DEPTH:
        raise UserError(f"{here[:200]}...: more than {MOST_DEPTH} folders, one in the other")
    try:
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{here}: cannot be read ({error.strerror})") from error
    prefix = f"{folder.path}/" if folder.path else ""
    for entry in entries:
        path = prefix + entry.name
        if is_left_behind(entry.name):
            tree.left_behind[entry.name] += 1
        elif _is_folder(entry):
            if entry.is_symlink() and not _may_follow(tree, entry, here, path, depth):
                continue
            child = Folder(path)
            _fill(tree, child, top, depth=depth + 1)
            folder.folders.append(child)
            folder.total += child.total
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 (text, for every file)
            folder.images.append(path)
            folder.total += 1
        else:
            folder.others += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _may_follow(tree: Tree, entry: os.DirEntry[str], here: str, path: str, depth: int) -> bool:
    loops = Path(here).resolve().is_relative_to(Path(entry.path).resolve())
    if loops and depth == 1:
        raise UserError(f"{entry.path}: a link to a folder that it lies in; remove it")
    if loops or depth > LINKED_DEPTH:
        tree.unfollowed.append(path)
        return False
    return True
