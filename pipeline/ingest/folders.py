"""Class folders: `SOURCE/CLASS/*.jpg`, `SOURCE/SPLIT/CLASS/*.jpg` and what `layouts` lists besides."""

from collections import Counter, defaultdict
from pathlib import Path

from pipeline.ingest.base import Entry, Listing
from pipeline.ingest.class_names import join_spellings, spelling_key, tidy
from pipeline.ingest.layouts import Layout, LayoutError, lay_out
from pipeline.ingest.trees import Folder, Tree, kinds_in, read_tree
from stages.errors import UserError
from stages.params import DataParams
from stages.text import counted


class FolderReader:
    """Classes are the folders: in alphabetical order, or by number where all are numbers.

    A folder of class folders per split keeps that split.
    """

    def matches(self, source: str) -> bool:
        """Any existing folder."""
        return Path(source).is_dir()

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images of all class folders, nested folders included, and what is left out.

        Raises:
            UserError: no class folders, folders that can be read in more ways than one, or spellings of one class in
                one split; the line names the setting that decides.
        """
        if data.images is not None:
            raise UserError(f"{source}: class folders hold their images; leave --images away", exit_code=2)
        root = Path(source).resolve()
        tree = read_tree(root)
        try:
            return listing_of(source, root, tree, data)
        except UserError as error:
            if tree.root.total:
                raise
            raise UserError(f"{error} (found {kinds_in(root)})", exit_code=error.exit_code) from error


def listing_of(source: str, root: Path, tree: Tree, data: DataParams) -> Listing:
    """The listing of a tree of class folders; errors as `FolderReader.read`."""
    try:
        layout = lay_out(tree.root, data.split_folders)
        names, joined = _class_names(layout, data.class_names)
    except (LayoutError, ValueError) as error:
        raise UserError(f"{source}: {error}") from error
    keys = {name: (spelling_key(name), shown) for name, shown in names.items()}
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for name, key in keys.items():
        first[key] = min(_by_number(tidy(name)), first.get(key, _by_number(tidy(name))))
    order = sorted(first, key=lambda key: first[key])
    numbers = {key: class_id for class_id, key in enumerate(order)}
    entries = [
        Entry(path, path, numbers[keys[name]], names[name], split)
        for split, name, folder in layout.groups
        for path in folder.all_images()
    ]
    known = {entry.path for entry in entries}
    unlabelled = {folder.path: folder.total for folder in layout.unlabelled}
    known.update(path for folder in layout.unlabelled for path in folder.all_images())
    return Listing(
        root,
        entries,
        {class_id: shown for (_, shown), class_id in numbers.items()},
        ignored=sum(folder.others for folder in tree.root.below()),
        notes=[*layout.notes, *joined, *_empty(layout), *tree.notes()],
        outside=[path for path in tree.root.all_images() if path not in known],
        unlabelled=unlabelled,
    )


def _class_names(layout: Layout, wanted: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Folder name -> class name, and lines for the user.

    Raises:
        ValueError: spellings of one class side by side, or a name in `wanted` that no folder has.
    """
    by_split: dict[str | None, Counter[str]] = defaultdict(Counter)
    for split, name, folder in layout.groups:
        by_split[split][name] += folder.total
    given = set(map(tidy, wanted))
    for split, counts in by_split.items():
        spelled: dict[str, str] = {}
        for name in counts:
            other = spelled.setdefault(spelling_key(name), name)
            if other != name and not {tidy(name), tidy(other)} <= given:
                where = f" in {split}" if split else ""
                raise ValueError(
                    f"class folders {ascii(other)[:80]} and {ascii(name)[:80]}{where} differ in capitals, spaces or "
                    "Unicode form alone: one class or two? Put the images of one class into one folder, or name "
                    "each folder in class_names of the settings, with one name or with two"
                )
    empty = {tidy(folder.name) for folder in _unfilled(layout)}
    return join_spellings(by_split, {name: to for name, to in wanted.items() if tidy(name) not in empty})


def _by_number(name: str) -> tuple[int, str]:
    return (int(name) if name.isascii() and name.isdigit() and len(name) < 10 else 10**9), name


def _unfilled(layout: Layout) -> list[Folder]:
    """Folders without images where class folders lie, once by name, unless the class has images elsewhere."""
    classes = {spelling_key(name) for _, name, _ in layout.groups}
    parents = {folder.path.rpartition("/")[0] for _, _, folder in layout.groups} | {layout.place.path}
    found = (child for folder in layout.place.below() if folder.path in parents for child in folder.folders)
    empty = {spelling_key(child.name): child for child in found if not child.total}
    return [child for key, child in empty.items() if key not in classes]


def _empty(layout: Layout) -> list[str]:
    empty = _unfilled(layout)
    if not empty:
        return []
    shown = ", ".join(folder.name for folder in empty[:5])[:200] + (", ..." if len(empty) > 5 else "")
    what = counted(len(empty), "folder holds no image and is no class", "folders hold no image and are no classes")
    return [f"{what}: {shown}"]
