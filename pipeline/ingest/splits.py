"""Train, val and test: as sources call them, as file names say them, and as a seed draws them."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.ingest.base import Entry
from stages.params import SplitParams

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train", "restval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""What sources call the splits -> ours, as Hugging Face `datasets` has it too; `restval` is Karpathy's."""

PLAIN_WORDS = frozenset(
    {"set", "sets", "data", "dataset", "datasets", "split", "splits", "folder", "images", "image", "imgs", "img"}
    | {"photos", "photo", "pictures", "pics", "samples", "crops", "seg", "raw", "new", "final", "full", "resized"}
    | {"jpg", "jpeg", "jpegs", "png", "pngs"}
)
"""What a split's name is written with and no class is called: `test_set`, `train_images`, `seg_train`, `trainset`."""


def split_named(text: str) -> str:
    """Our name of a split.

    Raises:
        ValueError: no such split.
    """
    if text.lower() not in SPLIT_NAMES:
        raise ValueError(f"unknown split {text[:40]!r}; expected train, val or test")
    return SPLIT_NAMES[text.lower()]


def split_of_folder(name: str) -> tuple[str, str] | None:
    """The split that a folder's name says, and what else it says; None where it says none, or several.

    `Training_Set`, `TrainImages`, `train2017`, `seg_train` say nothing else; `flowers-train` says `flowers`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", name))
    found: list[str] = []
    rest: list[str] = []
    for word in re.findall(r"[^\W\d_]+", spaced.lower()):
        stem = next((word.removesuffix(end) for end in _ENDS if word.endswith(end)), word)
        if word in SPLIT_NAMES or stem in SPLIT_NAMES:
            found.append(SPLIT_NAMES[word if word in SPLIT_NAMES else stem])
        elif word not in PLAIN_WORDS:
            rest.append(word)
    return (found[0], " ".join(rest)) if len(found) == 1 else None


_ENDS = ("images", "dataset", "data", "sets", "set", "imgs", "img")


def splits_by_file_name(names: Sequence[str]) -> list[str | None]:
    """The splits that file names such as `train.csv` and `captions_val2017.json` say; all None where they say none.

    They count where every name says one and they differ: a lone `train.csv` is a whole data set, split by seed.
    """
    said = [{SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES} for name in names]
    if all(len(words) == 1 for words in said) and len(set.union(set(), *said)) > 1:
        return [next(iter(words)) for words in said]
    return [None] * len(names)


def draw_splits(entries: list[Entry], split: SplitParams) -> list[Entry]:
    """Give every entry a split: its own, or one drawn per class by seed. Shares are rounded, train takes the rest.

    An image of several classes is drawn with the rarest of them, so that each split has its share of that one.
    """
    groups: dict[int, list[str]] = defaultdict(list)
    counts = Counter(class_id for entry in entries for class_id in entry.classes)
    for entry in entries:
        if entry.split is None:
            groups[min(entry.classes, key=lambda each: (counts[each], each), default=0)].append(entry.image_id)
    chosen: dict[str, str] = {}
    for class_id, ids in sorted(groups.items()):
        ids.sort()
        order = np.random.default_rng([split.seed, class_id]).permutation(len(ids))
        n_test, n_val = round(split.test * len(ids)), round(split.val * len(ids))
        for rank, position in enumerate(order):
            chosen[ids[position]] = "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
    return [entry if entry.split else replace(entry, split=chosen[entry.image_id]) for entry in entries]
