"""Methods without descent, or with a convex one: class text, one-vs-rest logistic and ridge regression, and AAPE+."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.aape_plus import attended_cosines, fit_ridge, leave_one_out, regression
from trainer.aape_plus.voices import SHARPNESSES, STRENGTHS
from trainer.data import ClassText
from trainer.methods.aape_plus import BETAS, SHARES, ShotsPredictor, TextHead
from trainer.methods.linear import LinearPredictor
from trainer.methods.text import NamedByText
from trainer.multilabel.data import Labelled, LabelTask, check_labels
from trainer.multilabel.draws import select_labels
from trainer.multilabel.finish import LabelPredictor, Needs, finished, served_by_text, unseen_by_text
from trainer.multilabel.losses import binary_loss
from trainer.multilabel.stacking import stack_labels
from trainer.text import TextSource, class_weights
from trainer.training import Info

STRENGTHS_OF_LOGISTIC = tuple(10.0**k for k in range(-2, 6))
USUAL_STRENGTH = 100.0
ITERATIONS = 300
USUAL_BETA = 10.0


@dataclass
class TextScores:
    """Cosine to one text embedding a class."""

    source: TextSource
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c) for any classes."""
        return images.float() @ class_weights(text, self.source).T


@dataclass(frozen=True)
class TextLabels(NamedByText):
    """`zero-shot` (the mean of the templates) or `cupl` (that of the prompts): only probabilities are learned."""

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Fit the probabilities."""
        check_labels(task)
        task.text.require_text()
        started, images = time.perf_counter(), len(task.train) + len(task.val) > 0
        part = served_by_text(TextScores(self.source), images=images)
        unseen, note = unseen_by_text(task, seed=seed)
        return finished(
            [part], [part], unseen, task.text, note=note, started=started, n_parameters=0,
            chosen={"class_text": self.source}, last=len(task.val),
        )  # fmt: skip


def fit_one_vs_rest(
    rows: Labelled, *, strength: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """Weight and bias of C independent logistic regressions: C sum of losses + ||w||^2 / 2 each, the bias free.

    Args:
        start: where the descent begins.
    """
    x, y = rows.embeddings.float(), rows.labels
    weight = x.new_zeros(y.shape[1], x.shape[1]) if start is None else start[0].clone()
    bias = x.new_zeros(y.shape[1]) if start is None else start[1].clone()
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-7, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = binary_loss(x @ weight.T + bias, y) + weight.square().sum() / (2 * strength * y.numel())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


@dataclass(frozen=True)
class LogisticLabels:
    """One logistic regression a class against all others; their common strength by the likelihood of unseen images."""

    name: str = "logistic"
    needs: Needs = "images"
    uses_prompts: bool = False

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Choose the strength, then fit on all images."""
        check_labels(task)
        started, selection = time.perf_counter(), select_labels(task, seed=seed)
        strength, before = USUAL_STRENGTH, None
        if selection.val is not None:
            fits: dict[float, tuple[Tensor, Tensor]] = {}
            losses = {}
            for each in STRENGTHS_OF_LOGISTIC:
                fits[each] = fit_one_vs_rest(selection.train, strength=each, start=fits.get(each / 10))
                losses[each] = float(binary_loss(_linear(selection.val.embeddings, fits[each]), selection.val.labels))
            strength = min(losses, key=lambda each: losses[each])
            before = fits[strength]
        fitted = before if before and not selection.held_out else fit_one_vs_rest(task.train, strength=strength)
        parts = [LinearPredictor(task.text.names, *each) for each in (fitted, before or fitted)]
        unseen = task.train.float32() if selection.val is None else selection.val
        return finished(
            parts[:1], parts[1:], unseen, task.text, note=selection.note, started=started,
            n_parameters=fitted[0].numel() + fitted[1].numel(), chosen={"C": strength},
        )  # fmt: skip


def _linear(x: Tensor, fitted: tuple[Tensor, Tensor]) -> Tensor:
    return x.float() @ fitted[0].T + fitted[1]


Target = Literal["labels", "residual"]


@dataclass(frozen=True)
class Regressed:
    """One setting of a ridge regression, with what it says of images that it did not see.

    Attributes:
        target: 0 and 1, or what is left of them when the text has spoken.
        scores: of each training image by the fit without it, then of the validation images.
    """

    target: Target
    strength: float
    sharpness: float
    scores: Float[Tensor, "M C"]


def regressions(
    train: Labelled, val: Labelled, targets: dict[Target, Tensor], sharpnesses: Sequence[float],
    strengths: Sequence[float] = STRENGTHS,
) -> Iterator[Regressed]:  # fmt: skip
    """Every setting; the training images are left out in turn, in closed form."""
    for sharpness in sharpnesses:
        ridge = fit_ridge(train.embeddings, sharpness=sharpness)
        for target, values in targets.items():
            for strength in strengths:
                scores = leave_one_out(ridge, values, strength).float()
                if len(val):
                    of_val = regression(ridge, values, strength).float32().of(val.embeddings.float())
                    scores = torch.cat([scores, of_val])
                yield Regressed(target, strength, sharpness, scores)


def _predictor(names: tuple[str, ...], train: Labelled, values: Tensor, found: Regressed) -> ShotsPredictor:
    of = regression(fit_ridge(train.embeddings, sharpness=found.sharpness), values, found.strength).float32()
    return ShotsPredictor(names, of.weight, of.bias, of.keys, of.values, of.sharpness)


@dataclass(frozen=True)
class RidgeLabels:
    """A ridge regression of the labels, its strength by the likelihood of images left out in turn."""

    name: str = "ridge"
    needs: Needs = "images"
    uses_prompts: bool = False

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Solve for each strength."""
        check_labels(task)
        started, train, val = time.perf_counter(), task.train.float32(), task.val.float32()
        both = Labelled.join(train, val)
        targets: dict[Target, Tensor] = {"labels": train.labels.double()}
        best, least = None, math.inf
        for found in regressions(train, val, targets, (0.0,)):
            loss = stack_labels([found.scores], both.labels)[0]
            if best is None or loss < least:
                best, least = found, loss
        assert best is not None
        part = _predictor(task.text.names, train, targets["labels"], best)
        return finished(
            [part], [best.scores], both, task.text, note=_left_out(train, val), started=started,
            n_parameters=part.weight.numel() + part.bias.numel(), chosen={"strength": best.strength}, last=len(val),
        )  # fmt: skip


def _left_out(train: Labelled, val: Labelled) -> str:
    return f"{len(val)} validation images and each of {len(train)} training images left out in turn" if len(val) else (
        f"each of {len(train)} training images left out in turn"
    )  # fmt: skip


def choose_head(text: ClassText, images: Labelled) -> TextHead:
    """The sharpness of the attention over the prompts, then the template's share, by the likelihood of the images."""
    x = images.embeddings.float()
    template = x @ class_weights(text, "ensemble").T
    if text.prompts is None:
        return TextHead(1.0, 0.0, 1.0)
    prompts, mask = text.require_prompts()
    betas = BETAS if prompts.shape[1] > 1 else BETAS[:1]
    each = {beta: attended_cosines(x, prompts, mask, beta=beta) for beta in betas}
    losses = {beta: stack_labels([scores], images.labels)[0] for beta, scores in each.items()}
    beta = min(losses, key=lambda at: losses[at])
    of_share = {0.0: losses[beta], 1.0: stack_labels([template], images.labels)[0]}
    for share in SHARES:
        of_share[share] = stack_labels([share * template + (1 - share) * each[beta]], images.labels)[0]
    share = min(of_share, key=lambda at: of_share[at])
    return TextHead(share, 0.0 if share == 1 else beta, 1.0)


def usual_head(text: ClassText) -> TextHead:
    """Half the template, half the attended prompts: where there is no image to choose by. The sentences cannot choose:
    each would attend to itself.
    """
    return TextHead(1.0, 0.0, 1.0) if text.prompts is None else TextHead(0.5, USUAL_BETA, 1.0)


@dataclass(frozen=True)
class AAPEPlusLabels:
    """AAPE+ one class against the rest, this project's own: the image attends over the prompts of each class, and a
    ridge regression (linear or with a kernel) of the labels, or of what the text leaves of them, is added as loudly as
    makes unseen images likeliest. Nothing is trained by descent.

    Attributes:
        text: False leaves the text out: the control.
    """

    name: str = "aape-plus"
    text: bool = True

    @property
    def needs(self) -> Needs:
        """Class text, or images alone."""
        return "text" if self.text else "images"

    @property
    def uses_prompts(self) -> bool:
        """As far as there is text."""
        return self.text

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Closed forms and two convex fits of a handful of weights."""
        check_labels(task)
        if self.text:
            task.text.require_text()
        started, train, val = time.perf_counter(), task.train.float32(), task.val.float32()
        both = Labelled.join(train, val)
        chosen: Info = {}
        parts: list[Any] = []
        heard: list[Tensor] = []
        targets: dict[Target, Tensor] = {"labels": train.labels.double()}
        if self.text:
            unseen, note = unseen_by_text(task, seed=seed)
            head = choose_head(task.text, unseen) if len(both) else usual_head(task.text)
            chosen |= {"class_text": head.source, "template_share": head.share, "beta": head.beta}
            parts.append(served_by_text(TextLabelHead(head), images=len(both) > 0))
            if not len(train):
                return finished(
                    parts, parts, unseen, task.text, note=note, started=started, n_parameters=0, chosen=chosen
                )  # fmt: skip
            heard.append(head.logits(both.embeddings, task.text))
            _, (weight,), bias = stack_labels(heard, both.labels)
            shares = torch.sigmoid(weight * heard[0][: len(train)].double() + bias)
            targets["residual"] = train.labels.double() - shares
        best, least = None, math.inf
        for found in regressions(train, val, targets, (0.0, *SHARPNESSES)):
            loss = stack_labels([*heard, found.scores], both.labels)[0]
            if best is None or loss < least - 1e-6:
                best, least = found, loss
        assert best is not None
        part = _predictor(task.text.names, train, targets[best.target], best)
        chosen |= {"ridge_of": best.target, "strength": best.strength, "sharpness": best.sharpness}
        numbers = sum(each.numel() for each in (part.weight, part.bias, part.values))
        return finished(
            [*parts, part], [*heard, best.scores], both, task.text, note=_left_out(train, val), started=started,
            n_parameters=numbers, chosen=chosen, last=len(val),
        )  # fmt: skip


@dataclass
class TextLabelHead:
    """Cosines to the attended prompts and the template of each class."""

    head: TextHead
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one."""
        return self.head.attends

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes."""
        return self.head.logits(images.float(), text)
