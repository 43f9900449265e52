"""What a protocol is: it builds the task that methods learn from, and scores what they learned."""

from dataclasses import dataclass
from typing import Protocol as TypingProtocol

import torch
from jaxtyping import Int
from torch import Tensor

from trainer.data import Images, Task
from trainer.features import Features
from trainer.methods import Predictor


@dataclass(frozen=True)
class Score:
    """The outcome of one run on the test split.

    Attributes:
        metrics: metric name -> fraction of 1.
        predictions: predicted label of each test image, where the protocol judges all of them; else None.
        confusion: images of class row predicted as class column, likewise.
    """

    metrics: dict[str, float]
    predictions: Int[Tensor, "B"] | None = None
    confusion: Int[Tensor, "C C"] | None = None


class Protocol(TypingProtocol):
    """One way of testing: which classes and images are learned from, and what is measured."""

    name: str

    def caveat(self, features: Features) -> str | None:
        """A line on what this protocol cannot measure on this data set, if anything."""
        ...

    def task(self, features: Features, source: str, *, shots: int, seed: int) -> Task:
        """The task of one seed; no test image is in it."""
        ...

    def score(self, predictor: Predictor, features: Features, source: str, test: Images, *, new_classes: bool) -> Score:
        """Judge a predictor on the test split; `new_classes` says whether it can serve classes it never saw."""
        ...


def only_classes(images: Images, labels: range) -> Images:
    """The images of a range of classes, labels counted from the range's start."""
    keep = (images.labels >= labels.start) & (images.labels < labels.stop)
    return Images(images.embeddings[keep], images.labels[keep] - labels.start)


def predict(predictor: Predictor, images: Images, text: object, *, tile: int = 4096) -> Int[Tensor, "B"]:
    """The most likely class of each image, in tiles, so that memory does not grow with the number of images."""
    found = [
        predictor.logits(images.embeddings[i : i + tile].float(), text).argmax(dim=-1)  # type: ignore[arg-type]
        for i in range(0, len(images.labels), tile)
    ]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=images.labels.device)
