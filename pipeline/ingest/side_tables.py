"""Whether a table or archive among class folders is the data set, or lies beside it (`mistakes.csv`, `backup.tar`)."""

from pathlib import Path

from pipeline.ingest.base import Listing
from pipeline.ingest.class_names import spelling_key
from pipeline.ingest.folders import listing_of
from pipeline.ingest.shards import find_shards
from pipeline.ingest.splits import split_of_folder
from pipeline.ingest.trees import Tree, read_tree
from stages.errors import UserError
from stages.params import DataParams

LEAST = 0.5
"""Share of the images in class folders that a table has to name, or else the folders are the set."""


def weigh(source: str, tables: Listing, data: DataParams) -> Listing:
    """The listing of a folder's tables, or that of its class folders where the tables name few of the images.

    Either way a line counts the images that are in no table.

    Args:
        tables: what the tables in the folder `source` name.
    """
    root = Path(source).resolve()
    try:
        tree = read_tree(root)
    except UserError:  # folders that tables do not need: loops, no permission
        return tables
    there = set(tree.root.all_images())
    named = {entry.path for entry in tables.entries} & there
    if not named or tables.root != root:  # they hold their images, or name files elsewhere
        return tables
    files = ", ".join(map(str, tables.settings.get("files", [])))[:200]
    free = len(there) - len(named)
    try:
        folders = listing_of(source, root, tree, data)
    except UserError:
        folders = None
    if folders is not None and len(folders.class_names) > 1:
        if len(named) < LEAST * len(there):
            folders.notes.insert(
                0,
                f"{free} of {len(there)} images are in no table: {files} is not the data set and is left aside, the "
                f"class folders are read (to read it alone, name it: --source {source}/FILE)",
            )
            return folders
        tables.notes.extend(_disagreement(tables, folders, files))
    if free:
        tables.notes.append(f"{free} of {len(there)} images below {source} are in no table ({files}) and are left out")
        if tables.class_names:
            tables.unlabelled.update(_waiting(tree, named))
    return tables


def weigh_archives(source: str, archives: Listing, data: DataParams) -> Listing:
    """The listing of a folder's archives, or that of its class folders where these hold more images.

    Either way a line counts the images that are left out.

    Args:
        archives: what the archives in the folder `source` hold.
    """
    root = Path(source).resolve()
    try:
        tree = read_tree(root)
    except UserError:  # folders that archives do not need
        return archives
    if not tree.root.total:
        return archives
    names = sorted(file.relative_to(source).as_posix() for file in find_shards(source))
    shown = ", ".join(names[:5])[:200] + (", ..." if len(names) > 5 else "")
    try:
        folders = listing_of(source, root, tree, data)
    except UserError:
        folders = None
    if folders is not None and len(folders.class_names) > 1 and len(folders.entries) > len(archives.entries):
        folders.notes.insert(
            0,
            f"{shown}: {len(archives.entries)} images in archives, fewer than in the class folders beside them, are "
            f"left aside (to read them alone, name them: --source {source}/FILE)",
        )
        return folders
    archives.notes.append(f"{tree.root.total} images below {source} are in no archive ({shown}) and are left out")
    return archives


def are_class_folders(source: str, data: DataParams) -> bool:
    """Whether a folder can be read as class folders too."""
    root = Path(source).resolve()
    try:
        return len(listing_of(source, root, read_tree(root), data).class_names) > 1
    except UserError:
        return False


def _disagreement(tables: Listing, folders: Listing, files: str) -> list[str]:
    """A line where tables and folders speak of the same classes, but not for each image."""
    by_folder = {entry.path: spelling_key(entry.class_name or "") for entry in folders.entries}
    if set(by_folder.values()) != {spelling_key(name) for name in tables.class_names.values()}:
        return []
    pairs = [(by_folder[e.path], spelling_key(e.class_name or "")) for e in tables.entries if e.path in by_folder]
    other = sum(one != two for one, two in pairs)
    return [f"{files} gives {other} of {len(pairs)} images another class than their folder does; it counts"] * bool(
        other
    )


def _waiting(tree: Tree, named: set[str]) -> dict[str, int]:
    """Folders called test of which no image is named: they are to be classified."""
    said = {folder.path: split_of_folder(folder.name) for folder in tree.root.filled}
    return {
        folder.path: folder.total
        for folder in tree.root.filled
        if said[folder.path] == ("test", "") and named.isdisjoint(folder.all_images())
    }
