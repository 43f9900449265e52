"""What a method may see of a task with several classes an image: no test image is in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.errors import UserError
from trainer.data import ClassText, check_unit, check_width


@dataclass(frozen=True)
class Labelled:
    """Embeddings with the classes of each: images, or sentences that stand for images.

    Attributes:
        embeddings: unit rows, float16 or float32.
        labels: True where the row has the class.
        views: unit embeddings of V augmentations of each image; None where there are none.
    """

    embeddings: Float[Tensor, "B D"]
    labels: Bool[Tensor, "B C"]
    views: Float[Tensor, "B V D"] | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.labels.device

    @property
    def counts(self) -> Int[Tensor, " C"]:
        """Rows of each class."""
        return self.labels.sum(0)

    def float32(self) -> Labelled:
        """The same with float32 embeddings, without augmentations."""
        return Labelled(self.embeddings.float(), self.labels)

    def take(self, rows: Int[Tensor, " M"]) -> Labelled:
        """These rows, in this order."""
        views = None if self.views is None else self.views[rows]
        return Labelled(self.embeddings[rows], self.labels[rows], views)

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> Labelled:
        """What a step of training takes of these rows: one view of each."""
        taken = self.take(rows)
        if taken.views is None:
            return taken
        views = torch.cat([taken.embeddings[:, None], taken.views], dim=1)
        drawn = torch.randint(views.shape[1], (len(taken),), generator=rng).to(views.device)
        return Labelled(views[torch.arange(len(taken), device=views.device), drawn], taken.labels)

    @staticmethod
    def join(first: Labelled, second: Labelled) -> Labelled:
        """These rows, then those, without augmentations."""
        embeddings = torch.cat([first.embeddings.float(), second.embeddings.float()])
        return Labelled(embeddings, torch.cat([first.labels, second.labels]))

    def tensors(self) -> Iterator[Tensor]:
        """All that it holds."""
        yield from (self.embeddings, self.labels)
        if self.views is not None:
            yield self.views


@dataclass(frozen=True)
class LabelTask:
    """Everything that a method may see when it is fitted.

    Attributes:
        text: the classes.
        train, val: images to learn from and to choose by; either may be empty.
        sentences: embedded text with the classes that it is about: the prompts of the classes, and captions of
            training images, whose classes are those that they name. No label of an image is in them.
    """

    text: ClassText
    train: Labelled
    val: Labelled
    sentences: Labelled

    @cached_property
    def digest(self) -> bytes:
        """A hash over all that decides a fit."""
        found = hashlib.sha256(json.dumps([self.text.names, self.text.is_text]).encode())
        text = [self.text.template, self.text.templates, self.text.prompts, self.text.mask]
        for tensor in [*text, *self.train.tensors(), *self.val.tensors(), *self.sentences.tensors()]:
            found.update(b"-" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            if tensor is not None:
                found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.digest()


def check_labels(task: LabelTask) -> None:
    """Refuse a task that no method can learn from.

    Raises:
        UserError: rows that do not fit each other, widths that differ, values that are no numbers or not of length 1.
    """
    classes, width = task.text.template.shape
    check_unit(task.text.template, name="template embeddings")
    for name, rows in (("train images", task.train), ("val images", task.val), ("sentences", task.sentences)):
        if rows.labels.shape != (len(rows.embeddings), classes):
            raise UserError(
                f"the {name} have {tuple(rows.labels.shape)} labels for {len(rows.embeddings)} embeddings and "
                f"{classes} classes: build the features again"
            )
        if len(rows):
            check_width(rows.embeddings.shape[1], width, f"the {name} are", "the text embeddings")
            check_unit(rows.embeddings, name=f"embeddings of the {name}")
