"""What every method starts from: the class weights and tau of zero-shot, the images it chooses by, its records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task, check_task
from trainer.data.draws import Selection, select
from trainer.methods.base import Needs
from trainer.text import TextSource, choose_class_text, class_weights, label_free_tau
from trainer.training import Info, Score

NO_LABELS = "none: no image is labelled, defaults taken"
SAW_VIEWS = "views of the one image, no label"
"""What a method says of itself in the tables that judges an image by its views."""


@dataclass(frozen=True)
class Prepared:
    """A checked task with float32 images.

    Attributes:
        train: all shots.
        source: what names the classes.
        weights: unit text embedding of each class.
        tau: softmax temperature of the cosines with `weights`.
        selection: images to learn from and to choose by.
        started: clock at the start of the fit.
    """

    names: tuple[str, ...]
    train: Images
    source: TextSource
    weights: Float[Tensor, "C D"]
    tau: float
    selection: Selection
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
            "selection": self.selection.note,
            "n_parameters": n_parameters,
            **({} if val is None else {"val_accuracy": val[0], "val_loss": -val[1]}),
            "fit_seconds": time.perf_counter() - self.started,
        }


def prepare(
    task: Task, *, seed: int, source: Literal["auto"] | TextSource = "ensemble", tau: float | None = None,
    needs: Needs = "text",
) -> Prepared:  # fmt: skip
    """Check a task, and calibrate tau; without labels it is `trainer.text.label_free_tau`, of the unlabelled images.

    Args:
        source: what names the classes; the mean of the templates as in the published code of the baselines.
        tau: fixed; None calibrates it.
        needs: `images` of a method that can do without text.

    Raises:
        UserError: the task is not one that can be learned (see `trainer.data.check_task`), or has no text and needs it.
    """
    check_task(task)
    if needs != "images":
        task.text.require_text()
    started = time.perf_counter()
    train = task.train.float32()
    if not task.has_labels:
        named: TextSource = "template" if source == "auto" else source
        weights = class_weights(task.text, named)
        seen = train.embeddings if task.unlabelled is None else task.unlabelled.embeddings.float()
        found = label_free_tau(seen @ weights.T) if tau is None else tau
        return Prepared(
            task.text.names, train, named, weights, found, Selection(train, None, False, NO_LABELS), started
        )
    source, tau = choose_class_text(task.text, train, source=source, tau=tau)
    selection = select(Task(task.text, train, task.val.float32()), seed=seed)
    return Prepared(task.text.names, train, source, class_weights(task.text, source), tau, selection, started)


def class_sums(images: Images, classes: int) -> Float[Tensor, "C D"]:
    """The sum of each class's embeddings."""
    return class_totals(images.embeddings, images.labels, classes)


def class_totals(rows: Float[Tensor, "M width"], labels: Int[Tensor, " M"], classes: int) -> Float[Tensor, "C width"]:
    """The sum of the rows of each class: one addition a number. On a GPU, where additions come in any order, a product
    with the labels as rows of the identity, so that the last bit does not change from run to run.
    """
    if rows.is_cuda:
        return one_hot(labels, classes).to(rows.dtype).T @ rows
    return rows.new_zeros(classes, rows.shape[1]).index_add(0, labels.long(), rows)


def one_hot(labels: Int[Tensor, " B"], classes: int) -> Float[Tensor, "B C"]:
    """Labels as rows of the identity."""
    return torch.eye(classes, device=labels.device)[labels]


def all_views(images: Images) -> Images:
    """Every view as an image of its own: the centre crops, then the augmentations, image by image."""
    if images.views is None:
        return images
    views = images.views.shape[1]
    embeddings = torch.cat([images.embeddings, images.views.flatten(0, 1)])
    return Images(embeddings, torch.cat([images.labels, images.labels.repeat_interleave(views)]))


def mean_view(images: Images) -> Float[Tensor, "B D"]:
    """The normalised mean of each image's views."""
    if images.views is None:
        return images.embeddings
    return normalize(images.embeddings + images.views.sum(1), dim=-1)


def columns(names: Sequence[str], text: ClassText) -> Int[Tensor, " C"]:
    """Where these classes stand in `text`; -1 for one that it does not have."""
    place = {name: i for i, name in enumerate(text.names)}
    return torch.tensor([place.get(name, -1) for name in names], device=text.template.device)
