"""What every baseline shares: the zero-shot classifier and tau that it starts from, the images it chooses by, records.

The text of a class is the normalised mean of its templates, as in the published code.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from trainer.data import Images, Task, check_task
from trainer.selection import Split, split_for_selection
from trainer.text import TextSource, calibrate_tau, class_weights

Info = dict[str, float | str | int]
Score = tuple[float, float]
"""Accuracy, then minus the mean negative log-likelihood: the larger is the better choice."""
WORST: Score = (-1.0, -math.inf)


@dataclass(frozen=True)
class Ground:
    """A checked task with float32 images.

    Attributes:
        train: all shots.
        weights: unit text embedding of each class.
        tau: softmax temperature of the cosines with `weights`.
        split: images to learn from and to choose by.
        started: clock at the start of the fit.
    """

    names: tuple[str, ...]
    train: Images
    weights: Float[Tensor, "C D"]
    tau: float
    split: Split
    started: float

    def info(self, *, n_parameters: int, val: Score | None, **chosen: float | str | int) -> Info:
        """The records of a fitted method.

        Args:
            n_parameters: numbers fitted to the shots.
            val: the score on the images that it was chosen by; None where there were none.
        """
        return {
            **chosen,
            "tau": self.tau,
            "selection": self.split.note,
            "n_parameters": n_parameters,
            **({} if val is None else {"val_accuracy": val[0]}),
            "fit_seconds": time.perf_counter() - self.started,
        }


def prepare(task: Task, *, seed: int, source: TextSource = "ensemble") -> Ground:
    """Check a task and calibrate tau.

    Args:
        source: what names the classes.

    Raises:
        UserError: the task is not one that can be learned (see `trainer.data.check_task`).
    """
    check_task(task)
    started = time.perf_counter()
    train = task.train.float32()
    weights = class_weights(task.text, source)
    tau = calibrate_tau(train.embeddings @ weights.T, train.labels)
    split = split_for_selection(Task(task.text, train, task.val.float32()), seed=seed)
    return Ground(task.text.names, train, weights, tau, split, started)


def judge(logits: Float[Tensor, "B C"], labels: Int[Tensor, "B"]) -> Score:
    """How good logits are for choosing by. Values that are no numbers score worst."""
    loss = float(cross_entropy(logits, labels))
    if math.isnan(loss):
        return WORST
    return float((logits.argmax(1) == labels).double().mean()), -loss


def class_sums(images: Images, classes: int) -> Float[Tensor, "C D"]:
    """The sum of each class's embeddings."""
    sums = images.embeddings.new_zeros(classes, images.embeddings.shape[1])
    return sums.index_add_(0, images.labels.long(), images.embeddings)


def one_hot(labels: Int[Tensor, "B"], classes: int) -> Float[Tensor, "B C"]:
    """Labels as rows of the identity."""
    return torch.eye(classes, device=labels.device)[labels]


def all_views(images: Images) -> Images:
    """Every view as an image of its own: the centre crops, then the augmentations, image by image."""
    if images.views is None:
        return images
    views = images.views.shape[1]
    embeddings = torch.cat([images.embeddings, images.views.flatten(0, 1)])
    return Images(embeddings, torch.cat([images.labels, images.labels.repeat_interleave(views)]))


def drawn_view(images: Images, generator: torch.Generator) -> Images:
    """One view of each image, drawn by seed among the centre crop and the augmentations."""
    if images.views is None:
        return images
    views = torch.cat([images.embeddings[:, None], images.views], dim=1)
    drawn = torch.randint(views.shape[1], (len(images),), generator=generator).to(views.device)
    return Images(views[torch.arange(len(images), device=views.device), drawn], images.labels)


def mean_view(images: Images) -> Float[Tensor, "B D"]:
    """The normalised mean of each image's views."""
    if images.views is None:
        return images.embeddings
    return normalize(images.embeddings + images.views.sum(1), dim=-1)
