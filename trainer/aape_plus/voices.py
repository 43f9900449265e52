"""Text and shots as voices: which ones speak, with which ridge and how loud, decided by images they have not seen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.aape_plus.gaussian import discriminant, discriminant_without, fit_gaussian
from trainer.aape_plus.ridge import fit_ridge, leave_one_out, regression
from trainer.aape_plus.stacking import weigh
from trainer.data import Images
from trainer.ends import at_end

Voice = Literal["labels", "residual", "gaussian"]
"""Of the shots: ridge regression of the labels, or of what zero-shot leaves of them, and the Gaussian discriminant."""
SLOTS: tuple[tuple[Voice, ...], ...] = (("labels", "residual"), ("gaussian",))
"""Of the voices of a slot the likeliest speaks."""
STRENGTHS, USUAL_STRENGTH = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01), 0.3
"""Ridges, in mean squared lengths of the centred images, from class means (more changes nothing) to interpolation; the
usual one where nothing is unseen."""
USUAL_RIDGE, USUAL_TEXT = 20.0, 0.4
"""Weights where nothing is unseen: of the regression of labels, and of calibrated text beside one shot a class."""
UNSEEN_SHARE, USUAL_UNSEEN = 0.8, 5.0
"""Where the largest score of the shots speaks neither for fitted classes nor for new ones beside them: a share of the
mean right score on unseen images; and without such images."""

Setting = TypeVar("Setting")


@dataclass(frozen=True)
class Chosen:
    """What unseen images decided.

    Attributes:
        text: weight of the text.
        shots: each voice with its ridge and its weight.
        unseen: the score of the shots that speaks for neither.
        judged: accuracy and loss on unseen images; empty without any.
    """

    text: float
    shots: tuple[tuple[Voice, float, float], ...] = (("labels", USUAL_STRENGTH, USUAL_RIDGE),)
    unseen: float = USUAL_UNSEEN
    judged: dict[str, float] = field(default_factory=dict)

    def info(self) -> dict[str, float | str]:
        """For the records; a ridge at an end of those that were tried is named."""
        found: dict[str, float | str] = {"text_weight": self.text}
        for voice, strength, weight in self.shots:
            found |= {f"{voice}_ridge": strength, f"{voice}_weight": weight}
        tried = (*STRENGTHS, math.inf)
        ends = {f"{voice}_ridge": (strength, tried) for voice, strength, weight in self.shots if weight}
        return {**found, "unseen": self.unseen, **self.judged, **(at_end(**ends) if self.judged else {})}


class Voices:
    """What each voice says of unseen images: validation images, then each shot by the fit without it.

    Args:
        heard: what the text says of the shots and of the validation images; None leaves it out.
        val: images to choose by.
        leave: whether shots that are left out in turn are unseen images as well; the only one of a class is not.
    """

    def __init__(
        self, train: Images, val: Images | None, heard: tuple[Tensor, Tensor] | None, *, classes: int, leave: bool
    ) -> None:
        several = torch.bincount(train.labels)[train.labels] > 1
        self.left_out = several.nonzero()[:, 0] if leave else train.labels[:0]
        self.val = train.take(train.labels[:0]) if val is None else val
        self.labels = torch.cat([self.val.labels, train.labels[self.left_out]])
        self.ridge, self.gaussian = fit_ridge(train.embeddings), fit_gaussian(train, classes)
        self.targets: dict[str, Tensor] = {"labels": torch.eye(classes, device=train.device).double()[train.labels]}
        self.text: list[Tensor] = []
        if heard is not None:
            of_train, of_val = heard
            self.targets["residual"] = self.targets["labels"] - of_train.double().softmax(1)
            self.text = [torch.cat([of_val, of_train[self.left_out]])]

    def choose(self, voices: Sequence[Voice]) -> Chosen | None:
        """The ridge of each voice in turn, the first once more beside the others, each time with all weights anew.

        None without unseen images.
        """
        if not len(self.labels):
            return None
        there = [voice for voice in voices if voice in (*self.targets, "gaussian")]
        slots = [[(voice, ridge) for voice in slot if voice in there for ridge in STRENGTHS] for slot in SLOTS]
        slots = [slot for slot in slots if slot]
        said = functools.cache(self.said)
        best: dict[int, tuple[Voice, float]] = {}
        weights: list[float] = []

        def scores(turn: int, setting: tuple[Voice, float]) -> list[Tensor]:
            return [*self.text, *(said(*each) for _, each in sorted((best | {turn: setting}).items()))]

        for turn in (*range(len(slots)), 0):
            best[turn], weights = likeliest(slots[turn], functools.partial(scores, turn), self.labels)
        shots = tuple((*best[i], weight) for i, weight in enumerate(weights[len(self.text) :]))
        seen = torch.stack([weight * said(voice, ridge) for voice, ridge, weight in shots]).sum(0)
        right = (seen - seen.mean(1, keepdim=True)).gather(1, self.labels[:, None])
        logits = seen + weights[0] * self.text[0] if self.text else seen
        judged = {
            "val_accuracy": float((logits.argmax(1) == self.labels).double().mean()),
            "val_loss": float(cross_entropy(logits, self.labels)),
        }
        return Chosen(weights[0] if self.text else 0.0, shots, UNSEEN_SHARE * float(right.mean()), judged)

    def said(self, voice: Voice, ridge: float) -> Float[Tensor, "M C"]:
        """The scores of the unseen images."""
        weight, bias = (each.float() for each in self.fitted(voice, ridge))
        parts = [self.val.embeddings @ weight.T + bias]
        if len(self.left_out):
            if voice == "gaussian":
                without = discriminant_without(self.gaussian, ridge)
            else:
                without = leave_one_out(self.ridge, self.targets[voice], ridge)
            parts.append(without[self.left_out].float())
        return torch.cat(parts)

    def fitted(self, voice: Voice, ridge: float) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
        """W and b of the scores x W^T + b of any image."""
        if voice == "gaussian":
            return discriminant(self.gaussian, ridge)
        return regression(self.ridge, self.targets[voice], ridge)

    def together(self, chosen: Chosen) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
        """W and b of all that the shots say, of mean 0 over the classes."""
        fits = [(weight, self.fitted(voice, ridge)) for voice, ridge, weight in chosen.shots]
        weight, bias = (torch.stack([share * fit[i] for share, fit in fits]).sum(0) for i in (0, 1))
        return (weight - weight.mean(0)).float(), (bias - bias.mean()).float()


def likeliest(
    settings: Iterable[Setting], scores: Callable[[Setting], Sequence[Tensor]], labels: Int[Tensor, " M"]
) -> tuple[Setting, list[float]]:
    """The setting that makes the labels likeliest, and the weights of its scores."""
    best: tuple[float, Setting, list[float]] | None = None
    weights: list[float] | None = None
    for setting in settings:
        loss, weights = weigh(scores(setting), labels, start=weights)
        if best is None or loss < best[0]:
            best = loss, setting, weights
    if best is None:
        raise ValueError("no setting to choose from")
    return best[1], best[2]
