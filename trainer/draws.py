"""Which images are the shots, and which ones choices are made on: drawn by seed, or read from a file that names them.

One rule draws everywhere: the images of a class are shuffled by seed and class, and the first are taken, so that
k shots are the first k of 2k. A test image is never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from stages.errors import UserError
from trainer.data import Images, Task

if TYPE_CHECKING:
    from trainer.features import Features
    from trainer.indices import Indices

MOST_TO_CHOOSE_BY = 4
"""Images a class that choices are made on, at most, and never more than the shots (CoOp's rule)."""


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


def sample_shots(labels: Int[Tensor, " B"], shots: int, *, seed: int, names: tuple[str, ...]) -> Int[np.ndarray, " M"]:
    """Positions of `shots` images of each class, class by class.

    Raises:
        UserError: a class has fewer images than shots.
    """
    order = shuffled(labels, len(names), seed=seed)
    short = [f"{name} {len(rows)}" for name, rows in zip(names, order, strict=True) if len(rows) < shots]
    if short:
        raise UserError(
            f"{shots} shots asked, but {len(short)} classes have fewer training images: {', '.join(short)[:200]}; "
            f"lower --shots to {min(map(len, order))} or add images"
        )
    return np.concatenate([rows[:shots] for rows in order])


def few_shot(features: Features, shots: int, *, seed: int) -> tuple[Images, Images]:
    """The k-shot training images, and at most min(k, MOST_TO_CHOOSE_BY) validation images a class.

    Validation images come from the `val` split; a data set without one gives its unused training images. A class with
    neither has no validation image; `selection` then holds out from the shots themselves. Where the features bring
    published indices, those decide instead.

    Raises:
        UserError: a class has too few images, or the indices do not fit the data set.
    """
    if features.indices is not None:
        return _named(features, features.indices, shots, seed)
    chosen = sample_shots(features.train.images.labels, shots, seed=seed, names=features.class_names)
    used, source = (0, features.val) if len(features.val.image_ids) else (shots, features.train)
    order = shuffled(source.images.labels, len(features.class_names), seed=seed)
    last = used + min(shots, MOST_TO_CHOOSE_BY)
    return features.train.take(chosen), source.take(np.concatenate([rows[used:last] for rows in order]))


def split_off(images: Images, count: int, *, seed: int) -> tuple[Images, Images]:
    """At most `count` images of each class, and the rest, both in their old order."""
    classes = int(images.labels.max()) + 1 if len(images) else 0
    drawn = torch.zeros(len(images), dtype=torch.bool)
    for rows in shuffled(images.labels, classes, seed=seed):
        drawn[torch.from_numpy(rows[:count])] = True
    drawn = drawn.to(images.labels.device)
    return images.take(drawn.nonzero()[:, 0]), images.take((~drawn).nonzero()[:, 0])


def select(task: Task, *, seed: int) -> Selection:
    """The images that a method chooses its settings by: the same rule for every method.

    With validation images of every class: at most min(shots, MOST_TO_CHOOSE_BY) a class of them. Of a class without
    any, a quarter of its shots, at most MOST_TO_CHOOSE_BY and at least one, is held out, and the method is fitted again
    on all shots with what was chosen: a choice is never made on some classes alone. With a single shot nothing can be
    held out, and a method takes its default.
    """
    classes = len(task.text)
    shots = int(torch.bincount(task.train.labels, minlength=classes).min())
    lacking = torch.bincount(task.val.labels, minlength=classes) == 0
    most = min(shots, MOST_TO_CHOOSE_BY)
    val, _ = split_off(task.val, most, seed=seed)
    if not bool(lacking.any()):
        return Selection(task.train, val, False, f"validation images, at most {most} a class")
    whose = "every class" if bool(lacking.all()) else f"{int(lacking.sum())} of {classes} classes"
    if shots < 2:
        return Selection(task.train, None, False, f"none: one shot and no validation image of {whose}, defaults taken")
    count = max(1, min(MOST_TO_CHOOSE_BY, shots // 4))
    held, train = split_off(task.train, count, seed=seed)
    if not bool(lacking.all()):
        spared = lacking[held.labels]
        train = Images.join(train, held.take((~spared).nonzero()[:, 0]))
        held = Images.join(val, held.take(spared.nonzero()[:, 0]))
    note = f"{count} of the training images of {whose} held out by seed, then fitted again on all"
    return Selection(train, held, True, note)


def _named(features: Features, indices: Indices, shots: int, seed: int) -> tuple[Images, Images]:
    draw = indices.draws.get((seed, shots))
    if draw is None or not draw.get("train"):
        there = ", ".join(f"seed {s} with {k} shots" for s, k in sorted(indices.draws))[:200]
        raise UserError(f"{indices.file}: no draw of seed {seed} with {shots} shots; it has {there or 'none'}")
    found = []
    for split in ("train", "val"):
        # CoOp's validation images may come from its own val split or from train; the test split is never looked up.
        for source in (features.train, features.val) if split == "train" else (features.val, features.train):
            position = {image_id: i for i, image_id in enumerate(source.image_ids)}
            wanted = draw.get(split, ())
            if all(image_id in position for image_id in wanted):
                found.append(source.take(np.array([position[image_id] for image_id in wanted], dtype=np.int64)))
                break
        else:
            known = {*features.train.image_ids, *features.val.image_ids}
            strange = next((image_id for image_id in wanted if image_id not in known), wanted[0])
            raise UserError(
                f"{indices.file}: {split} image {strange!r} of seed {seed} is not in the train or val split of "
                f"{features.dataset!r}"
            )
    return found[0], found[1]
