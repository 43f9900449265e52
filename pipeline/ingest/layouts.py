"""Which folders are splits, which are classes, and which images belong to neither.

| layout | read as |
|---|---|
| `CLASS/*` | classes, split by seed |
| `SPLIT/CLASS/*` | splits called train, val and test in any way that `splits.split_of_folder` knows |
| `CLASS/SPLIT/*` | the same the other way round |
| `SPLIT/SPLIT/CLASS/*`, `ANY/CLASS/*` | as without the folder that stands alone |

A folder that could be a split or a class is refused, and the line names the setting that says which.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.ingest.class_names import spelling_key
from pipeline.ingest.splits import PLAIN_WORDS, SPLIT_NAMES, split_of_folder
from pipeline.ingest.trees import Folder

UNLABELLED = ("test", "pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled")
"""Words of folders whose images wait for their classes."""


class LayoutError(Exception):
    """Folders that can be read in more ways than one, or in none; the message names the mend."""


@dataclass(slots=True)
class Layout:
    """What the folders are.

    Attributes:
        groups: split (None asks for the seeded split), class name as on disk, its folder.
        place: the folder that the classes or splits lie in.
        unlabelled: folders of images without a class.
        outside: other folders whose images belong to no class.
        notes: lines for the user.
    """

    place: Folder
    groups: list[tuple[str | None, str, Folder]] = field(default_factory=list)
    unlabelled: list[Folder] = field(default_factory=list)
    outside: list[Folder] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lay_out(root: Folder, split_folders: Mapping[str, str] | None) -> Layout:
    """Find splits and classes.

    Args:
        split_folders: the setting of that name: folder -> split; {} says that every folder is a class; None looks.

    Raises:
        LayoutError: no class folders, or several readings.
    """
    layout = Layout(_unwrapped(root, split_folders))
    place = layout.place
    if place.path:
        layout.notes.append(f"read from {place.path}")
    top = place.filled
    if not top:
        raise LayoutError(_nothing(place))
    if split_folders:
        _as_told(layout, top, split_folders)
    elif split_folders is not None:
        layout.groups = [(None, folder.name, folder) for folder in top]
    else:
        _by_looking(layout, top)
    if not layout.groups:
        raise LayoutError(_nothing(place))
    return layout


def _unwrapped(root: Folder, split_folders: Mapping[str, str] | None) -> Folder:
    """The folder that matters: below folders that stand alone, or beside folders of other files (`annotations`)."""
    place = root
    while len(place.filled) == 1 and not place.images:
        only = place.filled[0]
        empty = any(not any(f.others for f in folder.below()) for folder in place.folders if folder is not only)
        named = split_folders is not None and any(_same(only.name, name) for name in split_folders)
        if named or empty or not only.filled or _is_split(only):
            break
        place = only
    return place


def _by_looking(layout: Layout, top: list[Folder]) -> None:
    """Sort the folders of a level by their names and by what they hold.

    Raises:
        LayoutError: several readings.
    """
    said = {folder.path: split_of_folder(folder.name) for folder in top}
    splits = [folder for folder in top if _is_split(folder)]
    others = [folder for folder in top if not _is_split(folder)]
    if others and _all_splits_in_words(top, said):
        splits, others = top, []
    deep = [folder for folder in splits if _inner(folder).filled]
    flat = [folder for folder in splits if not _inner(folder).filled]
    if not others:
        if not deep:
            raise LayoutError(_flat_splits(splits))
        _take_splits(layout, splits)
    elif deep:
        kinds = {split for folder in deep for split, _ in [said[folder.path] or ("", "")]}
        if len(kinds) < 2 or any(_inner(folder).filled for folder in others):
            raise LayoutError(_mixed(splits, others))
        _take_splits(layout, splits)
        _leave_out(layout, others)
    elif not flat:
        if _class_and_split_in_names(top):
            raise LayoutError(
                f"the names of {_listed(top)} say a class and a split: move them to SOURCE/train/CLASS and "
                f"SOURCE/test/CLASS; if each is a class of its own: {_no_splits()}"
            )
        _take_classes(layout, top)
    elif len(flat) == 1 and len(others) > 1:
        if _waits(flat[0]):
            _take_classes(layout, others)
            layout.unlabelled.append(flat[0])
            layout.notes.append(f"if {flat[0].name} is a class: {_no_splits()}")
        else:
            _take_classes(layout, top)
            layout.notes.append(
                f"{flat[0].name} holds images as {_listed(others)} do: it is read as a class (if it is a split: "
                f"put class folders into it)"
            )
    elif len(flat) == 1 and not _waits(flat[0]):  # valid beside invalid
        _take_classes(layout, top)
        layout.notes.append(f"{flat[0].name} holds images as {others[0].name} does: it is read as a class")
    else:
        raise LayoutError(_mixed(splits, others))


def _as_told(layout: Layout, top: list[Folder], split_folders: Mapping[str, str]) -> None:
    told: list[Folder] = []
    for name, split in split_folders.items():
        folder = next((f for f in top if _same(f.name, name)), None)
        if folder is None:
            raise LayoutError(f"split_folders names {name[:80]!r}, which has no images; found {_listed(top)}")
        told.append(folder)
        inner = _inner(folder)
        if not inner.filled:
            raise LayoutError(
                f"split folder {name[:80]!r} holds no class folders; expected {name[:80]}/CLASS/image.jpg"
            )
        layout.groups += [(split, child.name, child) for child in inner.filled]
    _leave_out(layout, [folder for folder in top if folder not in told])


def _take_splits(layout: Layout, splits: list[Folder]) -> None:
    """Class folders below split folders; those that hold none wait for their classes."""
    mapping = []
    for folder in splits:
        split = (split_of_folder(folder.name) or ("train", ""))[0]
        inner = _inner(folder)
        if not inner.filled:
            layout.unlabelled.append(folder)
            continue
        layout.groups += [(split, child.name, child) for child in inner.filled]
        mapping.append((inner.path.removeprefix(f"{layout.place.path}/"), split))
    if any(name.lower() not in SPLIT_NAMES for name, _ in mapping):
        layout.notes.append("split folders: " + ", ".join(f"{name} is {split}" for name, split in mapping)[:400])
    if {split for _, split in mapping} == {"train"}:
        layout.groups = [(None, name, folder) for _, name, folder in layout.groups]
        labelled = [folder for folder in splits if folder not in layout.unlabelled]
        layout.notes.append(
            f"{_listed(labelled)} alone has class folders: its images are split by seed into train, val and test (to "
            f"keep them as they are: {_told(labelled)})"
        )


def _take_classes(layout: Layout, top: list[Folder]) -> None:
    """Class folders, or class folders with split folders in each.

    Raises:
        LayoutError: the folders below have the same names in each, so that these may be splits of other names.
    """
    inside = [split_of_folder(child.name) for folder in top for child in folder.filled]
    if all(folder.filled and not folder.images for folder in top):
        kinds = {split for split, _ in filter(None, inside)}
        if all(_is_split(child) for folder in top for child in folder.filled) and len(kinds) > 1:
            for folder in top:
                for child in folder.filled:
                    layout.groups.append(((split_of_folder(child.name) or ("train", ""))[0], folder.name, child))
            layout.notes.append(f"split folders below the class folders ({_listed(top[0].filled)})")
            return
        if len(top) > 1 and _repeated(top):
            raise LayoutError(
                f"folders {_listed(top)} hold folders of the same names ({_listed(top[0].filled)}): splits, or "
                f"classes? Say which: {_told(top)} for splits, {_no_splits()} for classes; or name one of them as the "
                "source"
            )
    layout.groups = [(None, folder.name, folder) for folder in top]


def _leave_out(layout: Layout, others: list[Folder]) -> None:
    for folder in others:
        (layout.unlabelled if _waits(folder) and not _inner(folder).filled else layout.outside).append(folder)


# Folders


def _is_split(folder: Folder) -> bool:
    """Whether a name says a split and nothing else."""
    said = split_of_folder(folder.name)
    return said is not None and not said[1]


def _waits(folder: Folder) -> bool:
    """Whether a name says that its images have no class yet."""
    said = split_of_folder(folder.name)
    words = folder.name.lower().replace("-", "_").split("_")
    return (said is not None and said[0] == "test") or any(word in UNLABELLED for word in words)


def _all_splits_in_words(top: list[Folder], said: Mapping[str, tuple[str, str] | None]) -> bool:
    """Whether all names say a split beside other words, and what is below says that they mean it."""
    found = [said[folder.path] for folder in top]
    if None in found or len({each[0] for each in found if each}) < 2:
        return False
    same_words = len({each[1] for each in found if each}) == 1
    deep = [folder for folder in top if _inner(folder).filled]
    return bool(deep) and (same_words or (len(deep) == len(top) and _repeated([_inner(folder) for folder in top])))


def _class_and_split_in_names(top: list[Folder]) -> bool:
    """Whether folders are called `cat_train`, `cat_test`, `dog_train`, `dog_test`."""
    found = [split_of_folder(folder.name) for folder in top]
    words = [each[1] for each in found if each]
    kinds = {each[0] for each in found if each}
    return None not in found and len(kinds) > 1 and len(set(words)) * len(kinds) == len(words)


def _inner(folder: Folder) -> Folder:
    """Below a split folder's repetition (`Train/Train`) or its `images`, where that stands alone."""
    here = folder
    while len(here.filled) == 1 and not here.images:
        only = here.filled[0]
        if not _same(only.name, folder.name) and only.name.lower() not in PLAIN_WORDS and not _is_split(only):
            break
        here = only
    return here


def _repeated(top: list[Folder]) -> bool:
    """Whether the folders below have mostly the same names in each."""
    names = [{spelling_key(child.name) for child in folder.filled} for folder in top]
    common, union = set.intersection(*names), set.union(*names)
    return len(common) > 1 and 2 * len(common) >= len(union)


def _same(one: str, other: str) -> bool:
    return spelling_key(one) == spelling_key(other)


# Messages


def _listed(folders: Iterable[Folder]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names[:5])[:120] + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _told(folders: list[Folder]) -> str:
    """The flags that say which folder is which split."""
    splits = [(split_of_folder(folder.name) or ("", ""))[0] for folder in folders[:3]]
    free = [split for split in ("train", "test", "val") if split not in splits]
    return " ".join(f"--split-folder {f.name[:60]}={s or free.pop(0)}" for f, s in zip(folders, splits, strict=False))


def _no_splits() -> str:
    return "--split-folder none (in the settings split_folders: {})"


def _nothing(place: Folder) -> str:
    where = f" in {place.path}" if place.path else ""
    if not place.folders:
        return f"no class folders{where}; expected SOURCE/CLASS/image.jpg or SOURCE/train/CLASS/image.jpg"
    return f"{len(place.folders)} class folders{where} but no image in them"


def _flat_splits(splits: list[Folder]) -> str:
    return (
        f"{_listed(splits)} hold images and no class folders: expected SOURCE/train/CLASS/image.jpg, or a file that "
        f"names the images and their classes; if these are the classes: {_no_splits()}"
    )


def _mixed(splits: list[Folder], others: list[Folder]) -> str:
    return (
        f"split folders ({_listed(splits)}) beside other folders ({_listed(others)}): if all are classes, say "
        f"{_no_splits()}; if the others are to be left out, {_told(splits)}"
    )
