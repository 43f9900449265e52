"""What every method of several classes an image ends with: probabilities, a threshold, records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText
from trainer.multilabel.data import Labelled, LabelTask
from trainer.multilabel.metrics import average_precisions, best_threshold, mean_of
from trainer.multilabel.stacking import stack_labels
from trainer.training import Info

SMALLEST = 1e-9
"""Least deviation that scores are divided by."""
Needs = Literal["text", "prompts", "images", "shots"]
"""What a method cannot do without: class text, prompts, training images alone, or training images and class text."""


class LabelMethod(Protocol):
    """A way to tell several classes an image.

    Attributes:
        name: as on the command line and in tables.
        needs: what it cannot be fitted without.
        uses_prompts: whether reference prompts change the result.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Needs: ...

    @property
    def uses_prompts(self) -> bool: ...

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Fit on the task; the same seed gives the same predictor."""
        ...


@dataclass
class LabelPredictor:
    """sigmoid(sum of the weighed parts + bias) is the probability of each class; above the threshold the image has it.

    Attributes:
        parts: predictors of scores.
        threshold: of the probability.
    """

    parts: list[Any]
    weights: list[float]
    bias: float
    threshold: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one, and not only their mean."""
        return any(getattr(part, "attends", False) for part in self.parts)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores whose sigmoid gives the probabilities."""
        total = images.new_full((len(images), len(text)), self.bias, dtype=torch.float32)
        for weight, part in zip(self.weights, self.parts, strict=True):
            if weight:
                total = total + weight * part.logits(images.float(), text)
        return total

    def decided(self, images: Float[Tensor, "B D"], text: ClassText) -> Bool[Tensor, "B C"]:
        """Which classes each image has."""
        return torch.sigmoid(self.logits(images, text)) > self.threshold


def finished(
    parts: Sequence[Any], before: Sequence[Any] | Sequence[Tensor], unseen: Labelled, text: ClassText, *, note: str,
    started: float, n_parameters: int, chosen: Info, history: list[dict[str, float]] | None = None, last: int = 0,
) -> LabelPredictor:  # fmt: skip
    """Probabilities and a threshold, fitted to scores of rows that the parts did not learn from.

    Args:
        before: what gives these scores: the parts themselves, the parts before they were fitted again on all images, or
            the scores as they are.
        note: what the rows are, for the records.
        last: how many of them, the last ones, are validation images: mAP is told of these where there are any, so that
            methods are compared on the same images.
    """
    x = unseen.embeddings.float()
    scores = [each if isinstance(each, Tensor) else each.logits(x, text) for each in before]
    loss, weights, bias = stack_labels(scores, unseen.labels)
    total = sum(weight * score.double() for weight, score in zip(weights, scores, strict=True))
    shares = torch.sigmoid(torch.as_tensor(total) + bias).cpu().numpy()
    y = unseen.labels.cpu().numpy()
    threshold = best_threshold(shares, y)
    info: Info = {
        **chosen,
        "selection": note,
        "threshold": threshold,
        "n_parameters": n_parameters,
        "val_map": mean_of(average_precisions(shares[-last:], y[-last:])),
        "val_loss": loss,
        "fit_seconds": time.perf_counter() - started,
    }
    return LabelPredictor(list(parts), weights, bias, threshold, history or [], info)


def unseen_by_text(task: LabelTask, *, seed: int) -> tuple[Labelled, str]:
    """What a method that learns from no image fits its probabilities to: all images of the task, or the sentences."""
    if len(task.train) or len(task.val):
        both = Labelled.join(task.train, task.val)
        return both, f"none: nothing is learned from images; probabilities and threshold from {len(both)} of them"
    texts = mixed(task.sentences, seed=seed)
    return texts, f"none: no image; probabilities and threshold from {len(texts)} sentences, alone and mixed"


@dataclass
class Standardised:
    """The scores of each row less their mean over the classes, over their deviation.

    Cosines of images and text lie lower, and closer together, than cosines of text and text. Without an image to fit
    probabilities to, this takes the difference out: what is fitted to sentences then holds for images. The order
    of the classes of an image is not changed.
    """

    part: Any
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one."""
        return bool(getattr(self.part, "attends", False))

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of mean 0 and deviation 1 over the classes."""
        scores: Tensor = self.part.logits(images, text)
        centred = scores - scores.mean(1, keepdim=True)
        return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(SMALLEST)


def served_by_text(part: Any, *, images: bool) -> Any:
    """A part as it is, or standardised where there is no image to fit probabilities to."""
    return part if images else Standardised(part)


def mixed(sentences: Labelled, *, seed: int) -> Labelled:
    """The sentences, and as many that stand for a text about several classes: the mean of two or three of them.

    A caption names several things, the prompts of a class only that one. Deviation from TaI, which writes and collects
    texts that name several.
    """
    rng = torch.Generator().manual_seed(seed)
    count = len(sentences)
    if count < 2:
        return sentences.float32()
    rows = torch.randint(count, (count, 3), generator=rng)
    third = (torch.rand(count, generator=rng) < 0.5)[:, None]
    rows[:, 2:] = torch.where(third, rows[:, 2:], rows[:, :1])
    rows = rows.to(sentences.device)
    together = normalize(sentences.embeddings.float()[rows].sum(1), dim=-1)
    return Labelled.join(sentences, Labelled(together, sentences.labels[rows].any(1)))
