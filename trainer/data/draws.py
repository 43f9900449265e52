"""Which images are the shots, and which ones choices are made on: drawn by seed, or read from a file that names them.

One rule draws everywhere: the images of a class are shuffled by seed and class, and the first are taken, so that
k shots are the first k of 2k. A test image is never drawn. Classes have equally many shots, unless all images are asked
for, or up to a number of them; then the losses and means of the methods count images, not classes, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from stages.errors import UserError
from stages.numbers import Shots, most
from stages.text import counted
from trainer.data import Images, Task

if TYPE_CHECKING:
    from trainer.data.features import Features, Split
    from trainer.data.indices import Indices

MOST_TO_CHOOSE_BY = 4
"""Images a class that choices are made on, at most, and never more than the shots (CoOp's rule)."""
SHOWN = 8
"""Classes that a line names."""
FEW = 0.1
"""Share of the classes that may have fewer images than what is said of a task's shots."""


@dataclass(frozen=True)
class Selection:
    """Images to learn from and images to choose by.

    Attributes:
        train: images to learn from while choosing.
        val: images to choose by; None where there are none.
        held_out: whether val was taken out of the shots, so that what was chosen has to be fitted again on all.
        note: one line for the records.
    """

    train: Images
    val: Images | None
    held_out: bool
    note: str


def shuffled(labels: Int[Tensor, " B"], classes: int, *, seed: int) -> list[Int[np.ndarray, " M"]]:
    """The positions of each class's images, shuffled by seed and class; the same on every device."""
    found = labels.cpu().numpy()
    own = np.split(np.argsort(found, kind="stable"), np.bincount(found, minlength=classes).cumsum()[:-1])
    return [rows[np.random.default_rng([seed, label]).permutation(len(rows))] for label, rows in enumerate(own)]


def usual_shots(labels: Int[Tensor, " B"], classes: int) -> int:
    """Shots that all but a few classes (FEW of them) have at least; where classes are equal, those of every class."""
    counts = torch.bincount(labels, minlength=classes).sort().values
    return int(counts[int(FEW * classes)])


def mean_shots(labels: Int[Tensor, " B"]) -> int:
    """Shots of a class, on average over the classes that have any: what the length of a training follows."""
    return max(1, round(len(labels) / max(1, int((labels.bincount() > 0).sum()))))


def fewer(counts: Sequence[int], shots: Shots, names: Sequence[str]) -> str:
    """The classes with fewer images than shots, with their counts, shortened: `3 of 10 classes have ...: hole 2, ...`;
    nothing where there are none.
    """
    short = [(count, name) for count, name in zip(counts, names, strict=True) if count < most(shots)]
    if not short:
        return ""
    listed = ", ".join(f"{name[:40]} {count}" for count, name in sorted(short)[:SHOWN])
    listed += f", and {len(short) - SHOWN} more" * (len(short) > SHOWN)
    whose = f"{len(short)} of {counted(len(names), 'class', 'classes')}"
    return f"{whose} {'has' if len(short) == 1 else 'have'} fewer training images: {listed}"


def sample_shots(
    labels: Int[Tensor, " B"], shots: Shots, *, seed: int, names: tuple[str, ...], up_to: bool = False
) -> Int[np.ndarray, " M"]:
    """Positions of `shots` images of each class, class by class.

    Args:
        up_to: a class with fewer gives all that it has.

    Raises:
        UserError: a class has fewer images than shots.
    """
    order = shuffled(labels, len(names), seed=seed)
    counts = [len(rows) for rows in order]
    if shots != "all" and not up_to and min(counts) < shots:
        lower = f"lower --shots to {min(counts)}, " if min(counts) else ""
        raise UserError(
            f"{shots} shots asked, but {fewer(counts, shots, names)}; {lower}go on with what there "
            "is (--up-to, or --shots all), or add images"
        )
    return np.concatenate([rows[: None if shots == "all" else shots] for rows in order])


def few_shot(features: Features, shots: Shots, *, seed: int, up_to: bool = False) -> tuple[Images, Images]:
    """The k-shot training images, and at most min(k, MOST_TO_CHOOSE_BY) validation images a class.

    Validation images come from the `val` split; a data set without one gives its unused training images. A class with
    neither has no validation image; `selection` then holds out from the shots themselves. Where the features bring
    published indices, those decide instead.

    Raises:
        UserError: a class has too few images, or the indices do not fit the data set.
    """
    used = drawn(features, shots, seed=seed, up_to=up_to)
    train, val = ((features.train if split == "train" else features.val).take(rows) for split, rows in used.values())
    return train, val


Drawn = dict[str, tuple[str, Int[np.ndarray, " M"]]]
"""`train` and `val` of a task -> the split that its images come from, and their positions there."""


def drawn(features: Features, shots: Shots, *, seed: int, up_to: bool = False) -> Drawn:
    """Where the images of `few_shot` stand."""
    if features.indices is not None:
        return _named(features, features.indices, shots, seed)
    names = features.class_names
    chosen = sample_shots(features.train.images.labels, shots, seed=seed, names=names, up_to=up_to)
    used, split = (0, "val") if len(features.val.image_ids) else (shots, "train")
    source = features.val if split == "val" else features.train
    order = shuffled(source.images.labels, len(names), seed=seed)
    spare = [rows[len(rows) if used == "all" else used :] for rows in order]
    by = int(min(most(shots), MOST_TO_CHOOSE_BY))
    return {"train": ("train", chosen), "val": (split, np.concatenate([rows[:by] for rows in spare]))}


def left_over(features: Features, shots: Shots, *, seed: int, up_to: bool = False) -> Images:
    """The labelled images of train and val that `few_shot` draws neither to learn from nor to choose by."""
    used = drawn(features, shots, seed=seed, up_to=up_to)
    return Images.join(*(not_drawn(getattr(features, split), split, used) for split in ("train", "val")))


def not_drawn(source: Split, name: str, used: Drawn) -> Images:
    """The images of a split that a task has neither to learn from nor to choose by."""
    taken = {row for each, rows in used.values() if each == name for row in rows.tolist()}
    return source.take(np.array([i for i in range(len(source.image_ids)) if i not in taken], dtype=np.int64))


def split_off(images: Images, count: int | Sequence[int], *, seed: int) -> tuple[Images, Images]:
    """At most `count` images of each class (one number for all, or one a class), and the rest, in their old order."""
    if not len(images):
        return images, images
    classes = int(images.labels.max()) + 1
    counts = [count] * classes if isinstance(count, int) else count[:classes]
    drawn = torch.zeros(len(images), dtype=torch.bool)
    for rows, number in zip(shuffled(images.labels, classes, seed=seed), counts, strict=True):
        drawn[torch.from_numpy(rows[:number])] = True
    drawn = drawn.to(images.labels.device)
    return images.take(drawn.nonzero()[:, 0]), images.take((~drawn).nonzero()[:, 0])


def select(task: Task, *, seed: int) -> Selection:
    """The images that a method chooses its settings by: the same rule for every method.

    With validation images of every class: at most min(shots, MOST_TO_CHOOSE_BY) a class of them. Of a class without
    any, a quarter of its shots, at most MOST_TO_CHOOSE_BY and at least one, is held out, and the method is fitted again
    on all shots with what was chosen: a choice is never made on some classes alone. Classes with validation images set
    as many shots aside meanwhile: learned from more of them, a choice would be made against the others. Of a single
    shot nothing can be held out. A few such classes (FEW) have no say; with more of them a method takes its default.
    """
    classes = len(task.text)
    counts = torch.bincount(task.train.labels, minlength=classes).cpu()
    lacking = torch.bincount(task.val.labels, minlength=classes).cpu() == 0
    by = min(int(counts.max()), MOST_TO_CHOOSE_BY)
    val, _ = split_off(task.val, by, seed=seed)
    if not bool(lacking.any()):
        return Selection(task.train, val, False, f"validation images, at most {by} a class")
    whose = "every class" if bool(lacking.all()) else f"{int(lacking.sum())} of {classes} classes"
    single = lacking & (counts < 2)
    if int(single.sum()) > FEW * classes:
        alone = "" if bool(single[lacking].all()) else f" for {int(single.sum())} of them"
        note = f"none: one shot and no validation image of {whose}{alone}, defaults taken"
        return Selection(task.train, None, False, note)
    if bool(single[lacking].all()):
        few = f"{int(single.sum())} with one shot and no validation image have no say"
        return Selection(task.train, val, False, f"validation images, at most {by} a class; {few}")
    count = torch.where(counts < 2, 0, (counts // 4).clamp(1, MOST_TO_CHOOSE_BY))
    held, train = split_off(task.train, count.tolist(), seed=seed)
    held = held.take(lacking.to(held.labels.device)[held.labels].nonzero()[:, 0])
    least, largest = int(count[lacking & ~single].min()), int(count[lacking].max())
    each = f"{least}" if least == largest else f"{least} to {largest}"
    aside = "" if bool(lacking.all()) else ", as many of the others set aside"
    note = f"{each} of the training images of {whose} held out by seed{aside}, then fitted again on all"
    if bool(single.any()):
        note += f"; {int(single.sum())} with one shot have no say"
    return Selection(train, Images.join(val, held) if len(val) else held, True, note)


def _named(features: Features, indices: Indices, shots: Shots, seed: int) -> Drawn:
    draw = None if shots == "all" else indices.draws.get((seed, shots))
    if draw is None or not draw.get("train"):
        there = ", ".join(f"seed {s} with {k} shots" for s, k in sorted(indices.draws))[:200]
        raise UserError(f"{indices.file}: no draw of seed {seed} with {shots} shots; it has {there or 'none'}")
    found: Drawn = {}
    splits = {"train": features.train, "val": features.val}
    for split in ("train", "val"):
        # CoOp's validation images may come from its own val split or from train; the test split is never looked up.
        for own in ("train", "val") if split == "train" else ("val", "train"):
            source = splits[own]
            position = {image_id: i for i, image_id in enumerate(source.image_ids)}
            wanted = draw.get(split, ())
            if all(image_id in position for image_id in wanted):
                found[split] = own, np.array([position[image_id] for image_id in wanted], dtype=np.int64)
                break
        else:
            known = {*features.train.image_ids, *features.val.image_ids}
            strange = next((image_id for image_id in wanted if image_id not in known), wanted[0])
            raise UserError(
                f"{indices.file}: {split} image {strange!r} of seed {seed} is not in the train or val split of "
                f"{features.dataset!r}"
            )
    return found
