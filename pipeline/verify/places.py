"""What lies in a cache folder: stores, files that are none, and what killed commands left behind."""

from collections.abc import Iterator
from pathlib import Path

from stages import ImageStore, ManifestStore, PromptStore, TextStore, UserError
from stages.stores.artifacts import PART, STORES, Store
from stages.stores.parted import LIST, NEW, OLD, is_part

MAKERS: dict[str, type[Store]] = {s.name: s for s in (ManifestStore, PromptStore, TextStore, ImageStore)}


def stores_in(cache: Path, dataset: str | None = None) -> list[Store]:
    """Every store on disk, manifests first, then prompts, text and images; of one data set, or of all."""
    found = [store for kind in STORES for file in _files(cache, kind.name) if (store := _store_of(cache, file))]
    return [store for store in found if dataset in (None, store.dataset)]


def files_of(store: Store) -> list[Path]:
    """The files of a store: its one file, or the list of its parts and then these; where the list cannot be read, all
    that could be parts.
    """
    try:
        return list(dict.fromkeys([store.file, *store.files()]))
    except UserError:
        return [store.file, *sorted(file for file in store.folder.iterdir() if is_part(file.name))]


def aside(file: Path) -> Path:
    """Where a file of a damaged store lies while `--fix` makes the store again."""
    return file.with_name(f".{file.name}.aside")


def strays(cache: Path) -> list[str]:
    """One line for each Parquet file that lies where stores lie and is none: other readers would take it for one."""
    ours = {file for store in stores_in(cache) for file in files_of(store)}
    return [
        f"{file}: {_why(file)}: move it out of the cache"
        for kind in STORES
        for file in _files(cache, kind.name)
        if (file.suffix == ".parquet" or file.name == LIST) and file not in ours
    ]


def leftovers(cache: Path) -> list[str]:
    """One line for everything that is no fault and no store: rests of killed commands, unfinished work, other files."""
    found = []
    for kind in STORES:
        for file in _files(cache, kind.name):
            if file.suffix == ".aside":
                found.append(f"{file}: a damaged store that an interrupted --fix had put aside; remove it")
            elif file.suffix == ".part":
                found.append(f"{file}: the rest of a killed command; remove it once no command is running")
            elif file.suffix != ".parquet" and file.name != LIST:
                found.append(f"{file}: not a store")
    for folder in sorted((cache / ".work").glob("*/*")):
        parts = len(list(folder.glob("*.parquet")))
        if folder.name == NEW:
            found.append(f"{folder}: {parts} parts of a killed command, which nobody reads; the next one removes them")
        elif folder.name == OLD:
            found.append(f"{folder}: a store that a killed command was about to replace; the next one puts it back")
        else:
            found.append(f"{folder}: unfinished work, {parts} parts done; the command that began it goes on from there")
    return found


def _why(file: Path) -> str:
    if not is_part(file.name) or file.name == PART:
        return "a Parquet file where no store belongs; other readers would take it for one"
    if file.with_name(LIST).exists():
        return f"a part that {LIST} beside it does not name; other readers would take its rows for the store's"
    return f"a part without {LIST} beside it, which names those that count"


def _files(cache: Path, kind: str) -> Iterator[Path]:
    named = (PART, LIST)
    yield from sorted(path for path in (cache / kind).rglob("*") if not path.is_dir() or path.name in named)


def _store_of(cache: Path, file: Path) -> Store | None:
    """The store whose footer this file has, None where there is no such store."""
    if file.name not in (PART, LIST):
        return None
    kind, *folders = file.parent.relative_to(cache).parts
    values = dict(folder.partition("=")[::2] for folder in folders)
    try:
        store = MAKERS[kind](cache, **values)
    except (TypeError, UserError):  # other keys than the store's, or a value that is no name
        return None
    return store if store.file == file else None
