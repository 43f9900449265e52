"""Which labelled images a classifier is measured on before the test: none that it learned from, and no test image.

Its confidence is fitted on them, and the method that serves is the one that does best there (`trainer/runs/choice.py`).

Three kinds, the first that there is:

1. where there are some of every class, images that the draw left over, of the validation split or training images that
   are no shots: no choice was made on them (`trainer.data.draws.left_over`);
2. the images that the method made its choices on: few, and it does a little better on them than on others;
3. where those were taken out of the shots: the same method, fitted without them, on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.confidence.conformal import right_class_scores
from trainer.confidence.distance import Distance, distances, known_rows
from trainer.confidence.temperature import Calibration, fit_temperature
from trainer.data import ClassText, Images, Task
from trainer.data.draws import select
from trainer.methods.base import Predictor
from trainer.runs.record import Validation
from trainer.runs.scoring import scores

MOST_IMAGES, MOST_ENTRIES = 5000, 2**22
"""Images that are taken, and logits that are held at once (double precision: 32 MB): more are drawn from, by seed."""
LEFT_OVER, CHOSEN_ON, HELD_OUT = (
    "labelled images that no choice was made on",
    "validation images that choices were made on",
    "images held out of the shots, by the same method fitted without them",
)


@dataclass(frozen=True)
class Unseen:
    """Labelled images that a classifier did not learn from.

    Attributes:
        source: one of the three kinds.
        train: what the classifier that scores them learned from.
        refit: None where the classifier itself scores them; else the task to fit the method on for that.
    """

    images: Images
    source: str
    train: Images
    refit: Task | None = None

    def measured(self, predictor: Predictor, text: ClassText) -> tuple[Calibration, Validation]:
        """Temperature of a predictor, and how well it does: the classifier itself, or the one fitted on `refit`."""
        logits, labels = scored(predictor, self.images, text)
        temperature = fit_temperature(logits, labels)
        right = float((logits.argmax(1) == labels).double().mean())
        loss = round(float(cross_entropy(logits.double() / temperature, labels)), 6)
        about = f"{len(labels)} {self.source}"
        scores = right_class_scores((logits.double() / temperature).softmax(1), labels).float().sort().values
        return (
            Calibration(temperature, len(labels), self.source, scores),
            Validation(accuracy=round(right, 8), loss=loss, images=about),
        )

    def distance(self, train: Images) -> Distance:
        """How far they lie from what the classifier learned from.

        Args:
            train: all that the classifier that serves learned from.
        """
        own = distances(self.images.embeddings, known_rows(self.train))
        return Distance(known_rows(train), own.sort().values)


def unseen(task: Task, left_over: Images, *, seed: int) -> Unseen | None:
    """The images to measure a classifier on; None where every labelled image was learned from.

    Args:
        task: what it was fitted on.
        left_over: labelled images of the task's classes in neither its train nor its val.
    """
    return next(every_kind(task, left_over, seed=seed), None)


def every_kind(task: Task, left_over: Images, *, seed: int) -> Iterator[Unseen]:
    """All kinds of images that a classifier can be measured on, the best one first; `unseen` has the arguments."""
    classes = len(task.text)
    if bool((torch.bincount(left_over.labels, minlength=classes) > 0).all()):
        yield Unseen(_some(left_over, classes, seed=seed), LEFT_OVER, task.train)
    selection = select(task, seed=seed)
    if selection.val is not None and not selection.held_out:
        yield Unseen(_some(selection.val, classes, seed=seed), CHOSEN_ON, task.train)
        none = task.val.take(torch.arange(0, device=task.val.labels.device))
        selection = select(replace(task, val=none), seed=seed)
    if selection.val is not None:
        val = _some(selection.val, classes, seed=seed)
        yield Unseen(val, HELD_OUT, selection.train, replace(task, train=selection.train, val=selection.val))


def _some(images: Images, classes: int, *, seed: int) -> Images:
    """As many of them as are enough, in their old order."""
    most = max(1, min(MOST_IMAGES, MOST_ENTRIES // classes))
    if len(images) <= most:
        return images
    drawn = np.sort(np.random.default_rng(seed).permutation(len(images))[:most])
    return images.take(torch.from_numpy(drawn).to(images.labels.device))


@torch.no_grad()
def scored(predictor: Predictor, images: Images, text: ClassText) -> tuple[Float[Tensor, "B C"], Int[Tensor, " B"]]:
    """Logits and labels of some images."""
    found = [logits for _, logits in scores(predictor, images, text)]
    return torch.cat(found), images.labels
