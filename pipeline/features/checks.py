"""Named arrays to a data set: what each key must be, and everything that is wrong or unusual said in one line."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pipeline.features.vectors import check_vectors
from stages.arrays import UNNAMED, Values, hash_arrays, read_arrays
from stages.errors import UserError, nearest
from stages.names import display_name, slug
from stages.stores.artifacts import NO_LLM
from stages.text import counted

KEYS = (
    "embedding", "class_id", "label", "labels", "split", "image_id", "view", "class_names", "text_template",
    "templates", "prompts", "prompt_class_id", "prompt_source", "prompt_text",
)  # fmt: skip
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
UNLABELLED = -1
MOST_CLASSES = 1_000_000
LONGEST_ID = 1000
"""Letters of an image id or a class name."""
PLAIN_SOURCE = "prompts"
"""What prompts without `prompt_source` are called."""


@dataclass(frozen=True)
class Prompts:
    """Reference prompts of one source.

    Attributes:
        rows: of the array `prompts`.
        class_ids: one a row.
        texts: one a row; None where the file has embeddings alone.
    """

    rows: Int[np.ndarray, " N"]
    class_ids: Int[np.ndarray, " N"]
    texts: list[str] | None


@dataclass(frozen=True)
class FeatureSet:
    """A data set as embeddings; B rows are images, or views of images.

    Attributes:
        where: what an error names.
        sha256: of the file or folder; "" for arrays in memory.
        arrays: as they were saved, mapped where they can be.
        rows: rows of `embedding` that are taken, in their order.
        image_ids: one a taken row.
        views: one a taken row; 0 is the image itself.
        class_ids: one a taken row; of a set whose images have several classes, -1.
        splits: one a taken row; None asks for the seeded split.
        class_names: class id -> name, no two alike; classes with an image alone.
        text_rows: class id -> its row of `text_template`; {} without class text.
        templates: the sentences that `text_template` embeds, one `{}` each; None where nobody says them.
        prompts: source -> its prompts.
        notes: lines for the user.
        several: class ids of each taken row, of a set whose images may have several classes or none; None in any other.
    """

    where: str
    sha256: str
    arrays: Mapping[str, Values]
    rows: Int[np.ndarray, " B"]
    image_ids: list[str]
    views: Int[np.ndarray, " B"]
    class_ids: Int[np.ndarray, " B"]
    splits: list[str] | None
    class_names: dict[int, str]
    text_rows: dict[int, int]
    templates: list[str] | None
    prompts: dict[str, Prompts]
    notes: list[str] = field(default_factory=list)
    several: list[list[int]] | None = None

    @property
    def embedding(self) -> Float[np.ndarray, "B D"]:
        """As it was saved."""
        return _numbers(self.arrays, "embedding", self.where)

    @property
    def width(self) -> int:
        """D."""
        return int(self.embedding.shape[1])

    @property
    def text_template(self) -> Float[np.ndarray, "C T D"] | None:
        """As it was saved, with a place for the templates."""
        if "text_template" not in self.arrays:
            return None
        found = _numbers(self.arrays, "text_template", self.where)
        return found[:, None] if found.ndim == 2 else found


def read_features(
    source: Path, *, columns: Mapping[str, str] | None = None, class_names: Mapping[str, str] | None = None
) -> FeatureSet:
    """Read and check a file or folder of arrays.

    Args:
        columns: our key -> what the file calls it.
        class_names: name in the file -> name to use.

    Raises:
        UserError: see `stages.arrays.read_arrays` and `check_features`.
    """
    strange = sorted(set(columns or ()) - set(KEYS))
    if strange:
        raise UserError(f"column {strange[0]!r}: no key of features; {nearest(strange[0], list(KEYS))}", exit_code=2)
    arrays = read_arrays(source, names=columns)
    return check_features(arrays, where=str(source), class_names=class_names, sha256=hash_arrays(source))


def check_features(
    arrays: Mapping[str, Values], *, where: str, class_names: Mapping[str, str] | None = None, sha256: str = ""
) -> FeatureSet:
    """Everything that the arrays say, or one line on what is wrong with them.

    Raises:
        UserError: a key is missing, of another shape or type, out of range, NaN, zero; ids that stand twice; one class.
    """
    notes: list[str] = []
    _require_keys(arrays, where)
    unused = sorted(set(arrays) - set(KEYS))
    multi_label = "labels" in arrays and not {"class_id", "label"} & set(arrays)
    unused += ["labels"] * ("labels" in arrays and not multi_label)
    notes += [f"{len(unused)} arrays are not used: {', '.join(key[:40] for key in unused)[:200]}"] * bool(unused)
    embedding = _numbers(arrays, "embedding", where)
    if embedding.ndim != 2 or 0 in embedding.shape:
        raise UserError(f"{where}: embedding is of shape {embedding.shape}; expected (N, D), one row an image")
    off = {"embedding": check_vectors(embedding, f"{where}: embedding")}
    matrix: Bool[np.ndarray, "B C"] | None = None
    if multi_label:
        matrix, names, lines = _several(arrays, where, len(embedding))
        all_ids = np.zeros(len(embedding), np.int64)
    else:
        all_ids, names, lines = _classes(arrays, where, len(embedding))
    notes += lines
    labelled = all_ids != UNLABELLED
    if not labelled.all():
        notes.append(
            f"{int((~labelled).sum())} images are unlabelled (class -1 or empty) and left out of the data set: "
            "`trainer predict` names the classes of such files"
        )
    rows = np.flatnonzero(labelled)
    class_ids = all_ids[rows].astype(np.int32)
    count = len(names)
    text_rows, templates = _text(arrays, where, embedding.shape[1], count, off)
    prompts = _prompts(arrays, where, embedding.shape[1], count, off)
    names, lines = _distinct(_renamed(names, class_names or {}, where), where)
    notes += lines
    used = (np.unique(class_ids) if matrix is None else np.flatnonzero(matrix.any(axis=0))).tolist()
    empty = [name for class_id, name in names.items() if class_id not in set(used)]
    if len(used) < 2:
        only = f"; only {names[used[0]][:80]!r}" if used else ""
        raise UserError(f"{where}: {len(used)} classes with an image{only}: a classifier needs at least two")
    if empty:
        shown = ", ".join(name[:40] for name in empty[:5]) + (", ..." if len(empty) > 5 else "")
        notes.append(f"{len(empty)} classes have no image and are left out, their text as well: {shown}")
    kept = {class_id: names[class_id] for class_id in used}
    image_ids, views = _images(arrays, where, rows, len(embedding))
    splits = _splits(arrays, where, rows, len(embedding), notes)
    several = None if matrix is None else [np.flatnonzero(row).tolist() for row in matrix]
    if several is not None:
        class_ids = np.full(len(rows), UNLABELLED, np.int32)
    _require_whole_images(where, image_ids, views, class_ids.tolist() if several is None else several, splits)
    for key, number in off.items():
        if number:
            total = len(np.asarray(arrays[key]).reshape(-1, embedding.shape[1]))
            notes.append(f"{number} of {total} rows of {key} are not of length 1: each is divided by its length")
    return FeatureSet(
        where=where,
        sha256=sha256,
        arrays=arrays,
        rows=rows,
        image_ids=image_ids,
        views=views,
        class_ids=class_ids,
        splits=splits,
        class_names=kept,
        text_rows={class_id: row for class_id, row in text_rows.items() if class_id in kept},
        templates=templates,
        prompts=_of_classes(prompts, kept),
        notes=[*notes, *_about_text(text_rows, prompts, kept)],
        several=several,
    )


def _require_keys(arrays: Mapping[str, Values], where: str) -> None:
    if UNNAMED in arrays:
        shape = np.shape(arrays[UNNAMED])
        raise UserError(
            f"{where}: one array without a name, of shape {tuple(shape)}; a data set needs `embedding` (N, D) and "
            "`class_id` (N,) or `label` (N,): save them together, as np.savez(FILE, embedding=..., class_id=...) does "
            "(docs/sources.md)"
        )
    found = ", ".join(sorted(key[:40] for key in arrays))[:300] or "nothing"
    if "embedding" not in arrays:
        raise UserError(f"{where}: no `embedding` (N, D); it has {found}; `--column embedding=KEY` names another key")
    told = [key for key in ("class_id", "label") if key in arrays]
    if len(told) > 1 or not (told or "labels" in arrays):
        both = (
            "both `class_id` and `label`: keep one" if told
            else "neither `class_id` nor `label` (N,), nor `labels` (N, C) of 0 and 1"
        )  # fmt: skip
        mend = "" if told else "; without classes nothing can be trained; `trainer predict` takes such files"
        raise UserError(f"{where}: {both}; it has {found}{mend}")
    if ("prompts" in arrays) != ("prompt_class_id" in arrays):
        raise UserError(f"{where}: `prompts` (P, D) and `prompt_class_id` (P,) belong together; it has {found}")
    for key, needs in {"view": "image_id", "templates": "text_template", "prompt_text": "prompts",
                       "prompt_source": "prompts"}.items():  # fmt: skip
        if key in arrays and needs not in arrays:
            raise UserError(f"{where}: `{key}` without `{needs}`; it has {found}")


def _numbers(arrays: Mapping[str, Values], key: str, where: str) -> np.ndarray:
    found = arrays[key]
    if isinstance(found, list):
        raise UserError(f"{where}: {key} holds text; expected numbers")
    return found


def _whole(arrays: Mapping[str, Values], key: str, where: str, count: int) -> Int[np.ndarray, " B"]:
    """Whole numbers, one a row."""
    array = _numbers(arrays, key, where)
    _require_count(key, np.shape(array), where, count)
    if array.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.isfinite(array) & (array == np.floor(array))))
        if len(wrong):
            raise UserError(f"{where}: {key} holds {array[wrong[0]]} (row {wrong[0]}); expected whole numbers")
    beyond = np.flatnonzero((array < -MOST_CLASSES) | (array > 2**31 - 1))
    if len(beyond):
        raise UserError(f"{where}: {key} holds {array[beyond[0]]} (row {beyond[0]}), which is out of range")
    return np.asarray(array).astype(np.int64)


def _texts(arrays: Mapping[str, Values], key: str, where: str, count: int | None) -> list[str]:
    """Texts, one a row; numbers are written out."""
    found = arrays[key]
    if count is not None:
        _require_count(key, (len(found),) if isinstance(found, list) else np.shape(found), where, count)
    if not isinstance(found, list):
        if found.dtype.kind not in "iu" or found.ndim != 1:
            raise UserError(f"{where}: {key} holds {found.dtype} of shape {found.shape}; expected one text a row")
        return [str(number) for number in found.tolist()]
    for row, text in enumerate(found):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: {key} {ascii(text)[:80]} (row {row}) is not Unicode text") from error
    return found


def _require_count(key: str, shape: tuple[int, ...], where: str, count: int) -> None:
    if shape != (count,):
        raise UserError(f"{where}: {key} is of shape {tuple(shape)}; expected ({count},), one a row")


def _names(texts: Sequence[str], key: str, where: str) -> list[str]:
    """Class names and ids: no control characters, not empty, not longer than a name is."""
    found = []
    for row, text in enumerate(texts):
        name = unicodedata.normalize("NFC", text).strip()
        odd = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs")), None)
        if not name or odd is not None or len(name) > LONGEST_ID:
            what = "is empty" if not name else f"holds {odd!a}" if odd is not None else f"has {len(name)} letters"
            raise UserError(
                f"{where}: {key} {name[:60]!r} (row {row}) {what}; expected 1 to {LONGEST_ID} letters on one line"
            )
        found.append(name)
    return found


def _classes(
    arrays: Mapping[str, Values], where: str, count: int
) -> tuple[Int[np.ndarray, " B"], dict[int, str], list[str]]:
    """The class id of each row (-1: unlabelled), the name of each id, and lines."""
    key = "class_id" if "class_id" in arrays else "label"
    named = (
        _names(_texts(arrays, "class_names", where, None), "class_names", where) if "class_names" in arrays else None
    )
    if key == "label" and isinstance(arrays[key], list):
        return _of_labels(_texts(arrays, key, where, count), named, where)
    ids = _whole(arrays, key, where, count)
    least, most = int(ids.min()), int(ids.max())
    if least < UNLABELLED or most >= MOST_CLASSES:
        wrong = least if least < UNLABELLED else most
        row = int(np.flatnonzero(ids == wrong)[0])
        raise UserError(f"{where}: {key} {wrong} (row {row}): expected 0 to {MOST_CLASSES - 1}, or -1 where unknown")
    if named is not None and most >= len(named):
        row = int(np.flatnonzero(ids == most)[0])
        raise UserError(
            f"{where}: {key} {most} (row {row}) has no name: class_names has {len(named)}, for 0 to {len(named) - 1}"
        )
    if named is not None:
        return ids, dict(enumerate(named)), []
    most = max(most, len(arrays["text_template"]) - 1 if "text_template" in arrays else 0)
    lines = ["no class_names: the classes are called by their numbers"]
    return ids, {number: str(number) for number in range(most + 1)}, lines


def _several(
    arrays: Mapping[str, Values], where: str, count: int
) -> tuple[Bool[np.ndarray, "B C"], dict[int, str], list[str]]:
    """Which classes each row has, the name of each class, and lines."""
    found = _numbers(arrays, "labels", where)
    if found.ndim == 1:
        raise UserError(
            f"{where}: labels is of shape {found.shape}; one class an image is called `class_id` or `label` (`--column "
            "class_id=labels`), several are 0 and 1 of shape (N, C)"
        )
    if found.ndim != 2 or found.shape[0] != count or not found.shape[1]:
        raise UserError(f"{where}: labels is of shape {found.shape}; expected ({count}, C), one column a class")
    wrong = np.argwhere((found != 0) & (found != 1))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise UserError(
            f"{where}: labels holds {found[row, column]} (row {row}, column {column}); expected 1 where the image has "
            "the class and 0 where it has not"
        )
    matrix = np.asarray(found).astype(bool)
    if "class_names" not in arrays:
        names = [str(number) for number in range(matrix.shape[1])]
        lines = ["no class_names: the classes are called by their numbers"]
    else:
        names, lines = _names(_texts(arrays, "class_names", where, None), "class_names", where), []
    if len(names) != matrix.shape[1]:
        raise UserError(
            f"{where}: labels has {matrix.shape[1]} columns and class_names {len(names)} names; one each, in one order"
        )
    none = int((~matrix.any(axis=1)).sum())
    lines += [f"{none} of {counted(count, 'row')} have none of the classes, and are kept"] * bool(none)
    return matrix, dict(enumerate(names)), lines


def _of_labels(
    labels: list[str], named: list[str] | None, where: str
) -> tuple[Int[np.ndarray, " B"], dict[int, str], list[str]]:
    """Labels that are names: numbered as `class_names` has them, else in sorted order."""
    tidy = [unicodedata.normalize("NFC", label).strip() for label in labels]
    known = named if named is not None else sorted({label for label in tidy if label and label != str(UNLABELLED)})
    _names(known, "label", where)
    twice = next((name for name, n in Counter(known).items() if n > 1 and name in set(tidy)), None)
    if twice is not None:
        raise UserError(f"{where}: label {twice[:80]!r} is the name of two classes; say which with `class_id`")
    number = {name: i for i, name in enumerate(known)}
    number |= {"": UNLABELLED, str(UNLABELLED): UNLABELLED}
    for row, label in enumerate(tidy):
        if label not in number:
            raise UserError(
                f"{where}: label {label[:80]!r} (row {row}) is not among the {len(known)} class_names "
                f"({nearest(label, known)})"
            )
    return np.array([number[label] for label in tidy], np.int64), dict(enumerate(known)), []


def _renamed(names: dict[int, str], wanted: Mapping[str, str], where: str) -> dict[int, str]:
    strange = next((name for name in wanted if name not in names.values()), None)
    if strange is not None:
        raise UserError(f"{where}: no class {strange!r} to be renamed; {nearest(strange, list(names.values()))}")
    return {class_id: wanted.get(name, name) for class_id, name in names.items()}


def _distinct(names: dict[int, str], where: str) -> tuple[dict[int, str], list[str]]:
    """Names that sentences would say alike, each with its class id behind it, and a line that counts them.

    Class ids tell the classes apart; people, tables and confusion matrices have the names alone.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for class_id, name in names.items():
        alike[unicodedata.normalize("NFC", display_name(name))].append(class_id)
    if "" in alike:
        raise UserError(f"{where}: class {alike[''][0]} has no name (found {names[alike[''][0]]!r}); give it one")
    twice = {name: ids for name, ids in alike.items() if len(ids) > 1}
    if not twice:
        return names, []
    taken = set(alike) - set(twice)
    found = dict(names)
    for ids in twice.values():
        for class_id in ids:
            name = f"{names[class_id]} ({class_id})"
            while unicodedata.normalize("NFC", display_name(name)) in taken:
                name = f"{name} ({class_id})"
            taken.add(unicodedata.normalize("NFC", display_name(name)))
            found[class_id] = name
    first = next(iter(twice.values()))
    shown = " and ".join(repr(found[class_id]) for class_id in first[:3])
    some = ", ".join(sorted(twice)[:5])[:200] + (", ..." if len(twice) > 5 else "")
    line = (
        f"{len(twice)} names are given to {sum(map(len, twice.values()))} classes ({some}): they are kept apart by "
        f"their class ids and called so: {shown}"
    )
    return found, [line]


def _text(
    arrays: Mapping[str, Values], where: str, width: int, classes: int, off: dict[str, int]
) -> tuple[dict[int, int], list[str] | None]:
    """Class id -> row of `text_template`, and the sentences where they are said."""
    if "text_template" not in arrays:
        return {}, None
    array = _numbers(arrays, "text_template", where)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(
            f"{where}: text_template is of shape {array.shape}; expected (C, D), or (C, T, D) of T templates"
        )
    if array.shape[-1] != width:
        raise UserError(
            f"{where}: text_template is {array.shape[-1]} wide and embedding {width}: both must come from one encoder"
        )
    if len(array) != classes:
        raise UserError(
            f"{where}: text_template has {len(array)} rows for {classes} classes; one each, in the order of "
            "the class ids (text of some classes alone comes in as `prompts`)"
        )
    off["text_template"] = check_vectors(array.reshape(-1, width), f"{where}: text_template")
    if "templates" not in arrays:
        return {i: i for i in range(classes)}, None
    templates = _texts(arrays, "templates", where, 1 if array.ndim == 2 else array.shape[1])
    wrong = next((text for text in templates if text.count("{}") != 1), None)
    if wrong is not None:
        raise UserError(f"{where}: templates: {wrong[:80]!r} needs exactly one {{}}")
    return {i: i for i in range(classes)}, templates


def _prompts(
    arrays: Mapping[str, Values], where: str, width: int, classes: int, off: dict[str, int]
) -> dict[str, Prompts]:
    """Source -> its rows of `prompts`, in their order."""
    if "prompts" not in arrays:
        return {}
    array = _numbers(arrays, "prompts", where)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{where}: prompts is of shape {array.shape}; expected (P, D), one row a sentence")
    if array.shape[1] != width:
        raise UserError(
            f"{where}: prompts are {array.shape[1]} wide and embedding {width}: both must come from one encoder"
        )
    off["prompts"] = check_vectors(array, f"{where}: prompts")
    ids = _whole(arrays, "prompt_class_id", where, len(array))
    wrong = np.flatnonzero((ids < 0) | (ids >= classes))
    if len(wrong):
        raise UserError(
            f"{where}: prompt_class_id {ids[wrong[0]]} (row {wrong[0]}) is no class: there are {classes}, from 0"
        )
    sources = [PLAIN_SOURCE] * len(array)
    if "prompt_source" in arrays:
        sources = _names(_texts(arrays, "prompt_source", where, len(array)), "prompt_source", where)
    texts = _texts(arrays, "prompt_text", where, len(array)) if "prompt_text" in arrays else None
    folders: dict[str, str] = {}
    found = {}
    for source in sorted(set(sources)):
        folder = slug(source).casefold()
        if folder == NO_LLM or folder in folders:
            what = "stands for text without a source" if folder == NO_LLM else f"and {folders[folder]!r} are one folder"
            raise UserError(f"{where}: prompt_source {source!r} {what}: choose another name")
        folders[folder] = source
    each = np.array(sources)
    for source in folders.values():
        rows = np.flatnonzero(each == source)
        found[source] = Prompts(rows, ids[rows].astype(np.int32), None if texts is None else [texts[r] for r in rows])
    return found


def _of_classes(prompts: dict[str, Prompts], kept: Mapping[int, str]) -> dict[str, Prompts]:
    """Those of classes that have an image."""
    found = {}
    for source, each in prompts.items():
        here = np.isin(each.class_ids, list(kept))
        texts = None if each.texts is None else [text for text, take in zip(each.texts, here, strict=True) if take]
        if here.any():
            found[source] = Prompts(each.rows[here], each.class_ids[here], texts)
    return found


def _images(
    arrays: Mapping[str, Values], where: str, rows: Int[np.ndarray, " M"], count: int
) -> tuple[list[str], Int[np.ndarray, " M"]]:
    """Image id and view of each taken row; without `image_id` the number of the row."""
    views = np.zeros(len(rows), np.int32)
    if "view" in arrays:
        views = _whole(arrays, "view", where, count)[rows].astype(np.int32)
    if "image_id" not in arrays:
        digits = len(str(count - 1))
        return [f"{row:0{digits}d}" for row in rows.tolist()], views
    ids = _names(_texts(arrays, "image_id", where, count), "image_id", where)
    return [ids[row] for row in rows.tolist()], views


def _splits(
    arrays: Mapping[str, Values], where: str, rows: Int[np.ndarray, " M"], count: int, notes: list[str]
) -> list[str] | None:
    if "split" not in arrays:
        return None
    given = arrays["split"]
    if not isinstance(given, list):
        raise UserError(f"{where}: split holds {given.dtype}; expected the words train, val and test")
    _require_count("split", (len(given),), where, count)
    found = []
    for row in rows.tolist():
        split = SPLIT_NAMES.get(given[row].strip().lower())
        if split is None:
            raise UserError(f"{where}: split {given[row][:40]!r} (row {row}): expected train, val or test")
        found.append(split)
    if len(set(found)) == 1:
        notes.append(f"all images are in {found[0]!r}: the splits are drawn by seed")
        return None
    return found


def _require_whole_images(
    where: str, ids: list[str], views: Int[np.ndarray, " M"], classes: Sequence[Any], splits: list[str] | None,
) -> None:  # fmt: skip
    """Every image once with each of its views, all of one class and split, as many views as every other."""
    about: dict[str, tuple[Any, ...]] = {}
    seen: dict[str, set[int]] = defaultdict(set)
    for row, (image_id, view, class_id) in enumerate(zip(ids, views.tolist(), classes, strict=True)):
        known = class_id, None if splits is None else splits[row]
        if about.setdefault(image_id, known) != known:
            raise UserError(f"{where}: image {image_id[:120]!r} stands in two classes or splits")
        if view in seen[image_id]:
            raise UserError(
                f"{where}: image {image_id[:120]!r} stands there twice{' with view ' + str(view) if view else ''}"
            )
        seen[image_id].add(view)
    most = max(map(len, seen.values()))
    uneven = [image_id for image_id, own in seen.items() if own != set(range(most))]
    if uneven:
        raise UserError(
            f"{where}: {len(uneven)} images do not have the views 0 to {most - 1} that others have (first: "
            f"{uneven[0][:120]!r}, {sorted(seen[uneven[0]])[:8]}); 0 is the image itself"
        )


def _about_text(text_rows: Mapping[int, int], prompts: Mapping[str, Prompts], kept: Mapping[int, str]) -> list[str]:
    """What there is of text, and which classes lack some."""
    lines = []
    for source, each in prompts.items():
        there = set(each.class_ids.tolist()) & set(kept)
        here = int(np.isin(each.class_ids, list(kept)).sum())
        of = f"{len(there)} of {len(kept)} classes" if len(there) < len(kept) else f"all {len(kept)} classes"
        lines.append(f"{here} prompts of {source!r}, of {of}")
    if not text_rows and not prompts:
        lines.append("no class text: methods that read it will be left out (`text_template` or `prompts` bring it)")
    return lines
