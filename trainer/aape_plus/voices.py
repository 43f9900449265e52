"""Text and shots as voices: which ones speak, with which ridge and how loud, decided by images they have not seen."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.aape_plus.gaussian import discriminant, discriminant_without, fit_gaussian
from trainer.aape_plus.ridge import fit_ridge, leave_one_out, regression
from trainer.aape_plus.scores import Scores, added
from trainer.aape_plus.stacking import weigh
from trainer.data import Images
from trainer.ends import at_end

Voice = Literal["labels", "residual", "gaussian"]
"""Of the shots: ridge regression of the labels or of what zero-shot leaves of them (the likelier one), the Gaussian."""
STRENGTHS, USUAL_STRENGTH = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001), 0.3
"""Ridges, in mean squared lengths of the centred images, from class means (more changes nothing) to interpolation; the
usual one where nothing is unseen."""
SHARPNESSES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Of the kernels that are tried beside the linear one, with at most MOST_KEYS shots: each of them is kept."""
MOST_KEYS = 1600
MOST_SCORES = 2**21
"""Of unseen images by which ridges and kernels are chosen; of more images every second, or third, ..."""
LIFTS = (0.0, 0.5, 1.0)
"""Of classes with few shots, where classes have unequally many."""
PATIENCE = 4
"""Ridges that are tried beyond the best."""
GAIN = 0.1
"""Nats by which all unseen images together have to be likelier under a setting than under one before it."""
USUAL_RIDGE, USUAL_TEXT = 20.0, 0.4
"""Weights where nothing is unseen: of the regression of labels, and of calibrated text beside one shot a class."""
UNSEEN_SHARE, USUAL_UNSEEN = 0.8, 5.0
"""Where the largest score of the shots speaks neither for fitted classes nor for new ones beside them: a share of the
mean right score on unseen images; and without such images."""

Each = TypeVar("Each")


class Setting(NamedTuple):
    """A voice, its ridge, and of a ridge regression the kernel (see `similarity`; 0 is linear) and the lift of classes
    with few shots (see `lifts`).
    """

    voice: Voice
    ridge: float
    sharpness: float = 0.0
    lift: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """What unseen images decided.

    Attributes:
        text: weight of the text.
        shots: each voice as it was set, and its weight.
        unseen: the score of the shots that speaks for neither.
        judged: accuracy and loss on unseen images; empty without any.
    """

    text: float
    shots: tuple[tuple[Setting, float], ...] = ((Setting("labels", USUAL_STRENGTH), USUAL_RIDGE),)
    unseen: float = USUAL_UNSEEN
    judged: dict[str, float] = field(default_factory=dict)

    def info(self) -> dict[str, float | str]:
        """For the records; a ridge at an end of those that were tried is named."""
        found: dict[str, float | str] = {"text_weight": self.text}
        searched: dict[str, tuple[float, tuple[float, ...]]] = {}
        for (voice, ridge, sharpness, lift), weight in self.shots:
            found |= {f"{voice}_ridge": ridge, f"{voice}_weight": weight}
            if lift:
                found[f"{voice}_lift"] = lift
            if voice != "gaussian":
                found[f"{voice}_kernel"] = sharpness
            if weight:
                searched[f"{voice}_ridge"] = ridge, (*STRENGTHS, math.inf)
                searched[f"{voice}_kernel"] = sharpness, (0.0, *SHARPNESSES)
        return {**found, "unseen": self.unseen, **self.judged, **(at_end(**searched) if self.judged else {})}


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
        self.train, self.classes, self.gaussian = train, classes, fit_gaussian(train, classes)
        self.targets: dict[Voice, Tensor] = {"labels": torch.eye(classes, device=train.device).double()[train.labels]}
        self.text: list[Tensor] = []
        if heard is not None:
            of_train, of_val = heard
            self.targets["residual"] = self.targets["labels"] - of_train.double().softmax(1)
            self.text = [torch.cat([of_val, of_train[self.left_out]])]
        self.counts = torch.bincount(train.labels, minlength=classes)
        self.ridge = functools.cache(lambda sharpness: fit_ridge(train.embeddings, sharpness=sharpness))

    def choose(self, voices: Sequence[str]) -> Chosen | None:
        """The ridge regression, the Gaussian beside it, a kernel for the former; each time with all weights anew.

        None without unseen images.

        Args:
            voices: those of the shots that may speak, and `kernel` where the regression may have one.
        """
        if not len(self.labels):
            return None
        some = slice(None, None, 1 + len(self.labels) * self.classes // MOST_SCORES)
        said = functools.cache(lambda setting: self.said(setting)[some].clone())
        text, labels = [heard[some] for heard in self.text], self.labels[some]
        tried = LIFTS if bool((self.counts != self.counts[0]).any()) else LIFTS[:1]
        regressions = [_scan(each, lift=lift) for lift in tried for each in self.targets if each in voices]
        best: dict[str, Setting] = {}

        def settle(slot: str, scans: Sequence[Sequence[Setting]]) -> None:
            def scores(setting: Setting) -> list[Tensor]:
                return [*text, *(said(each) for _, each in sorted((best | {slot: setting}).items()))]

            if scans:
                best[slot] = likeliest(scans, scores, labels)

        settle("ridge", regressions)
        if "gaussian" in voices:
            settle("gaussian", [_scan("gaussian")])
        if regressions and "kernel" in voices and len(self.train) <= MOST_KEYS:
            linear = best["ridge"]
            regressions += [_scan(linear.voice, sharpness, linear.lift) for sharpness in SHARPNESSES]
        settle("ridge", regressions)
        settings = [best[slot] for slot in sorted(best)]
        scores = [self.said(setting) for setting in settings]
        _, weights = weigh([*self.text, *scores], self.labels)
        shots = tuple(zip(settings, weights[len(self.text) :], strict=True))
        seen = torch.zeros_like(scores[0])
        for (_, weight), each in zip(shots, scores, strict=True):
            seen.add_(each, alpha=weight)
        right = (seen - seen.mean(1, keepdim=True)).gather(1, self.labels[:, None])
        logits = seen + weights[0] * self.text[0] if self.text else seen
        judged = {
            "val_accuracy": float((logits.argmax(1) == self.labels).double().mean()),
            "val_loss": float(cross_entropy(logits, self.labels)),
        }
        return Chosen(weights[0] if self.text else 0.0, shots, UNSEEN_SHARE * float(right.mean()), judged)

    def said(self, setting: Setting) -> Float[Tensor, "M C"]:
        """The scores of the unseen images."""
        parts = [self.fitted(setting).float32().of(self.val.embeddings)]
        if len(self.left_out):
            if setting.voice == "gaussian":
                without = discriminant_without(self.gaussian, setting.ridge)
            else:
                without = leave_one_out(self.ridge(setting.sharpness), self._lifted(setting), setting.ridge)
            parts.append(without[self.left_out].float())
        return torch.cat(parts)

    def fitted(self, setting: Setting) -> Scores:
        """The scores of any image."""
        if setting.voice == "gaussian":
            return discriminant(self.gaussian, setting.ridge)
        return regression(self.ridge(setting.sharpness), self._lifted(setting), setting.ridge)

    def _lifted(self, setting: Setting) -> Float[Tensor, "B C"]:
        """What a ridge regression is of."""
        targets = self.targets[setting.voice]
        return targets * lifts(self.counts, setting.lift) if setting.lift else targets

    def together(self, chosen: Chosen) -> Scores:
        """All that the shots say."""
        return added([self.fitted(setting) for setting, _ in chosen.shots], [a for _, a in chosen.shots]).float32()


def lifts(counts: Int[Tensor, " C"], lift: float) -> Float[Tensor, " C"]:
    """(mean count / count)^lift of each class, by which the targets of a ridge regression are multiplied.

    A ridge regression of one_hot(y) scores class c as n_c (mu_c - mu) (S + ridge)^-1 (x - mu) + n_c / n, mu the mean of
    all shots: twice the shots, twice as loud. With lift 1 the counts are gone; with equal counts nothing changes. The
    adjustment of logits by counts (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021) moves the
    constant alone.
    """
    return (counts.double().mean() / counts.clamp_min(1)) ** lift


def _scan(voice: Voice, sharpness: float = 0.0, lift: float = 0.0) -> list[Setting]:
    return [Setting(voice, ridge, sharpness, lift) for ridge in STRENGTHS]


def likeliest(
    scans: Iterable[Sequence[Each]], scores: Callable[[Each], Sequence[Tensor]], labels: Int[Tensor, " M"]
) -> Each:
    """The setting that makes the labels likeliest, each with the weights that suit it best; of equals the first.

    Args:
        scans: settings along one range each; a scan ends after PATIENCE settings worse than its best.
    """
    best: tuple[float, Each] | None = None
    weights: list[float] | None = None
    for scan in scans:
        least, waited = math.inf, 0
        for setting in scan:
            loss, weights = weigh(scores(setting), labels, start=weights)
            if best is None or loss < best[0] - GAIN / len(labels):
                best = loss, setting
            least, waited = (loss, 0) if loss < least else (least, waited + 1)
            if waited == PATIENCE:
                break
    if best is None:
        raise ValueError("no setting to choose from")
    return best[1]
