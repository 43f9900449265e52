"""Named arrays that someone else saved: `.npz`, a folder of `.npy`, `.safetensors`, a `.pt` dict, Parquet with vectors.

Such files come from strangers. Nothing of theirs is run (no pickle, `weights_only` for `.pt`), and what a file says of
its sizes is checked against what it holds and against this machine's memory before anything of it is read. Plain
arrays are mapped, not copied, where the form allows it.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from stages.arrays.base import UNNAMED, Values
from stages.errors import UserError
from stages.files import refuse_lfs_pointer, sha256_file

FORMS = (".npz", ".npy", ".safetensors", ".pt", ".pth", ".parquet")
FORM_NAMES = ".npz, .npy in a folder, .safetensors, .pt or Parquet"
MAIN = "embedding"
"""The key that tells files of features from others."""
LABELS = ("class_id", "label")
"""Keys whose rows may be empty: unlabelled."""

__all__ = ["FORMS", "FORM_NAMES", "MAIN", "UNNAMED", "Values", "hash_arrays", "holds_arrays", "read_arrays"]


def holds_arrays(source: Path, *, main: str = MAIN) -> bool:
    """Whether a file or folder holds arrays and no data set of another kind, told without reading them.

    A Parquet file does where it has a column of vectors called `main` and none that names or holds images.
    """
    suffix = source.suffix.lower()
    if source.is_file():
        if suffix == ".parquet":
            from stages.arrays.tables import has_vectors

            return has_vectors(source, main)
        return suffix in FORMS
    if not source.is_dir():
        return False
    if (source / f"{main}.npy").is_file():
        return True
    from stages.arrays.tables import has_vectors

    return any(has_vectors(file, main) for file in _files(source, ".parquet"))


def read_arrays(source: Path, *, names: Mapping[str, str] | None = None) -> dict[str, Values]:
    """The arrays of a file or folder by their keys; that of a lone `.npy` or tensor under `UNNAMED`.

    Args:
        source: a file of one of `FORMS`, or a folder of `.npy` or of Parquet files. Of Parquet files every column is a
            key; those with the same columns are put one after the other, by name.
        names: our key -> what the file calls it. Where a label is null in Parquet it becomes -1, or empty text.

    Raises:
        UserError: not such a file, damaged, of objects (pickle), larger than memory, a bomb, or a key that is missing.
    """
    try:
        found = _read(source, labels=[(names or {}).get(key, key) for key in LABELS])
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{source}: larger than this machine's memory") from error
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or ' '.join(str(error).split())[:160]})") from error
    for ours, theirs in (names or {}).items():
        if theirs not in found:
            raise UserError(f"{source}: no array {theirs!r}; it has {_listed(found)}")
        found[ours] = found.pop(theirs)
    return found


def hash_arrays(source: Path) -> str:
    """sha256 of the file; of a folder that of the names and hashes of its files."""
    if source.is_file():
        return sha256_file(source)
    files = _files(source, ".npy") or _files(source, ".parquet")
    return hashlib.sha256(json.dumps([[file.name, sha256_file(file)] for file in files]).encode()).hexdigest()


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() == suffix and p.is_file() and not p.name.startswith(".")
    )


def _listed(found: Mapping[str, Values]) -> str:
    return ", ".join(sorted(key[:60] for key in found))[:400] or "none"


def _read(source: Path, *, labels: Collection[str]) -> dict[str, Values]:
    if not source.exists():
        raise UserError(f"{source}: not found")
    if source.is_dir():
        arrays, tables = _files(source, ".npy"), _files(source, ".parquet")
        if arrays and tables:
            raise UserError(f"{source}: .npy and Parquet files side by side: keep one form")
        if arrays:
            from stages.arrays.numpy_files import read_npy

            return {file.stem: read_npy(file) for file in arrays}
        if not tables:
            raise UserError(f"{source}: no .npy and no Parquet file in this folder")
        from stages.arrays.tables import read_tables

        return read_tables(tables, labels=labels)
    if not source.is_file():  # would be read without end
        raise UserError(f"{source}: a pipe or a device, no plain file")
    refuse_lfs_pointer(source)
    match source.suffix.lower():
        case ".npz":
            from stages.arrays.numpy_files import read_npz

            return read_npz(source)
        case ".npy":
            from stages.arrays.numpy_files import read_npy

            return {UNNAMED: read_npy(source)}
        case ".safetensors":
            from stages.arrays.tensors import read_safetensors

            return read_safetensors(source)
        case ".pt" | ".pth":
            from stages.arrays.tensors import read_pt

            return read_pt(source)
        case ".parquet":
            from stages.arrays.tables import read_tables

            return read_tables([source], labels=labels)
    raise UserError(f"{source}: not a file of arrays ({FORM_NAMES})", exit_code=2)
