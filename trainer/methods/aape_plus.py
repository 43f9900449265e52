"""AAPE+: this project's own method on top of the paper's. It is not in the paper, and nothing is trained by descent.

Aggregate: at inference the image attends over the cached prompts of each class (`trainer/aape_plus/attention.py`).
Adapt: a ridge regression on the shots, beside which the text counts as a constant share of a shot.

    logits_c(x) = (f_c(x) + w cos(x, p_c(x)) / tau_text) / tau,    w = TEXT_SHOTS / shots

shots being those of a class on average.

A class without shots has no f_c: among new classes alone only the text speaks. Where fitted and new classes stand side
by side, the fitted ones share among them, by the formula, what the text gives them together, raised or lowered by how
their largest f_c compares with the score of a right class on unseen images. The constants below were chosen on
Caltech101 and EuroSAT, without their test splits, and confirmed on clothing and textile: `docs/method.md`.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.errors import UserError
from trainer.aape_plus import (
    Ridge,
    attended_by_each,
    attended_cosines,
    calibrated,
    class_scores,
    fit_ridge,
    leave_one_out,
    likeliest,
    negative_log_likelihood,
)
from trainer.data import ClassText, Images, Task, check_task
from trainer.draws import mean_shots, select, usual_shots
from trainer.methods.base import Needs
from trainer.methods.linear import LinearPredictor
from trainer.training import Info

BETAS = (0.0, 5.0, 10.0, 20.0, 40.0)
"""Sharpness of the attention; 0 is the mean of the prompts."""
STRENGTHS, USUAL_STRENGTH = (0.03, 0.1, 0.3, 1.0, 3.0), 0.3
"""Ridges, in mean squared lengths of the centred images; the usual one where nothing is unseen."""
MULTIPLES, USUAL_MULTIPLE = (0.0, 0.5, 1.0, 2.0, 4.0), 1.0
"""Of the text's weight."""
ODDS = 0.25
"""What unseen images have to gain, in nats, by the setting beside the usual one; n steps away it is n^2 times that."""
TEXT_SHOTS = 0.02
"""The text's weight beside one shot a class, in ridge scores for one nat of calibrated text."""
USUAL_TAU = 0.05
"""Where nothing is unseen. Ridge scores lie between 0 and 1."""
LEAVE_ONE_OUT_SHOTS = 4
"""With fewer shots, one less is another task: then validation images alone decide, where there are any."""
EVIDENCE = 0.5
"""Weight of the largest ridge score in favour of the fitted classes, beside new ones."""
UNSEEN_SHARE, USUAL_UNSEEN = 0.8, 0.25
"""Where that score speaks for neither: a share of the mean right score on unseen images; and without such images."""


@dataclass(frozen=True)
class TextHead:
    """cos(x, p_c(x)) / tau for any classes.

    Attributes:
        source: `template`, or `prompts` to attend over.
    """

    source: str
    beta: float
    tau: float

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of unit float32 images.

        Raises:
            UserError: `text` has no prompts and the head needs them.
        """
        return _cosines(images, text, self.source, self.beta) / self.tau


@dataclass
class AAPEPlusPredictor:
    """The text head, and the ridge scores of the classes that had shots.

    Attributes:
        names: fitted classes, in the order of the rows of `weight`.
        weight: W of the ridge scores.
        bias: b of the ridge scores.
        text_weight: w.
        tau: temperature of the sum.
        unseen: the largest ridge score that speaks neither for the fitted classes nor for new ones beside them.
    """

    names: tuple[str, ...]
    text_head: TextHead
    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    text_weight: float
    tau: float
    unseen: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one, and not only their mean."""
        return self.text_head.beta > 0

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes: fitted, new, or both.

        Raises:
            UserError: the widths of images, text and shots differ, or prompts are needed and missing.
        """
        widths = {images.shape[1], text.template.shape[1], self.weight.shape[1]}
        if len(widths) > 1:
            raise UserError(
                f"the images are {images.shape[1]} wide, the class text {text.template.shape[1]} and the fitted shots "
                f"{self.weight.shape[1]}: embed all with the same encoder"
            )
        x = images.float()
        heard = self.text_head.logits(x, text)
        row = {name: i for i, name in enumerate(self.names)}
        fitted = torch.tensor([row.get(name, -1) for name in text.names], device=x.device)
        known = fitted >= 0
        if not bool(known.any()):
            return heard
        seen = x @ self.weight[fitted[known]].T + self.bias[fitted[known]]
        own = (seen + self.text_weight * heard[:, known]) / self.tau
        if bool(known.all()):
            return own
        evidence = EVIDENCE * (seen.max(1).values - self.unseen) / self.tau
        together = heard[:, known].logsumexp(1) + evidence
        heard[:, known] = own.log_softmax(1) + together[:, None]
        return heard


@dataclass(frozen=True)
class AAPEPlus:
    """AAPE+. With prompts or, where there are none, with the template alone.

    Attributes:
        text: False leaves the text out (w = 0) and chooses all else alike: what the text is worth is the difference.
    """

    name: str = "aape-plus"
    needs: Needs = "text"
    uses_prompts: bool = True
    serves_new_classes: bool = True
    text: bool = True

    @classmethod
    def without_text(cls) -> AAPEPlus:
        """The control: the ridge regression alone."""
        return cls("aape-plus-no-text", needs="images", uses_prompts=False, serves_new_classes=False, text=False)

    def fit(self, task: Task, *, seed: int) -> AAPEPlusPredictor | LinearPredictor:
        """Closed forms; the same task and seed give the same predictor.

        Raises:
            UserError: the task is not one that can be learned (see `trainer.data.check_task`), or a class has no
                prompt while others have.
        """
        check_task(task)
        if self.text:
            task.text.require_text()
        started = time.perf_counter()
        train = task.train.float32()
        selection = select(task, seed=seed)
        # where validation images are those of some classes alone, every shot left out in turn stands for all classes
        val = None if selection.held_out or selection.val is None else selection.val.float32()
        head = choose_text_head(task.text, train if val is None else Images.join(train, val)) if self.text else None
        ridge = fit_ridge(train, len(task.text))
        strength, multiple, one_multiple = USUAL_STRENGTH, USUAL_MULTIPLE, TEXT_SHOTS / mean_shots(train.labels)
        tau, unseen = USUAL_TAU, USUAL_UNSEEN
        found: Info = {}
        leave = usual_shots(train.labels, len(task.text)) >= (2 if val is None else LEAVE_ONE_OUT_SHOTS)
        kept = (torch.bincount(train.labels)[train.labels] > 1).nonzero()[:, 0]  # a class's only image tells nothing
        held = [images for images in (val, train.take(kept) if leave else None) if images is not None]
        if held:
            labels = torch.cat([images.labels for images in held])
            heard = None if head is None else torch.cat([head.logits(each.embeddings, task.text) for each in held])
            seen = functools.lru_cache(maxsize=1)(partial(unseen_scores, ridge, val, left_out=kept if leave else None))

            def scores(setting: tuple[float, float]) -> Float[Tensor, "B C"]:
                own = seen(setting[0])
                return own if heard is None else own + setting[1] * one_multiple * heard

            multiples = MULTIPLES if self.text else (0.0,)
            log_prior = {(s, m): _log_prior(s, m) for s in STRENGTHS for m in multiples}
            (strength, multiple), tau = likeliest(scores, labels, log_prior)
            logits = scores((strength, multiple))
            unseen = UNSEEN_SHARE * float(seen(strength).gather(1, labels[:, None]).mean())
            found = {
                "val_accuracy": float((logits.argmax(1) == labels).double().mean()),
                "val_loss": negative_log_likelihood(logits, labels, tau),
            }
        weight, bias = class_scores(ridge, strength)
        info: Info = {
            "strength": strength,
            "tau": tau,
            "selection": _note(val, leave=leave),
            "n_parameters": weight.numel() + bias.numel(),
            **found,
            "fit_seconds": time.perf_counter() - started,
        }
        if head is None:
            return LinearPredictor(task.text.names, weight / tau, bias / tau, info=info)
        text_weight = multiple * one_multiple
        of_text: Info = {
            "class_text": head.source,
            "beta": head.beta,
            "tau_text": head.tau,
            "text_weight": text_weight,
            "unseen": unseen,
        }
        info = {**of_text, **info}
        return AAPEPlusPredictor(task.text.names, head, weight, bias, text_weight, tau, unseen, info=info)


def choose_text_head(text: ClassText, images: Images) -> TextHead:
    """Template or prompts, and beta, by the likelihood of the images, to which nothing but tau is fitted."""
    heads = [(("template", 0.0), _cosines(images.embeddings, text, "template", 0.0))]
    if text.prompts is not None:
        each = attended_by_each(images.embeddings, *text.require_prompts(), betas=BETAS)
        heads += [(("prompts", beta), scores) for beta, scores in zip(BETAS, each, strict=True)]
    _, tau, source, beta = min((*calibrated(scores, images.labels), *head) for head, scores in heads)
    return TextHead(source, beta, tau)


def unseen_scores(
    ridge: Ridge, val: Images | None, strength: float, *, left_out: Int[Tensor, " M"] | None
) -> Float[Tensor, "B C"]:
    """Scores of images that the ridge regression has not seen: validation images, then each of these shots left out."""
    scores = []
    if val is not None:
        weight, bias = class_scores(ridge, strength)
        scores.append(val.embeddings @ weight.T + bias)
    if left_out is not None:
        without = leave_one_out(ridge, strength)
        scores.append(without if len(left_out) == len(without) else without[left_out])
    return torch.cat(scores)


def _cosines(images: Float[Tensor, "B D"], text: ClassText, source: str, beta: float) -> Float[Tensor, "B C"]:
    prompts, mask = (text if source == "prompts" else text.named_by_template()).require_prompts()
    return attended_cosines(images, prompts, mask, beta=beta)


def _log_prior(strength: float, multiple: float) -> float:
    steps = (
        STRENGTHS.index(strength) - STRENGTHS.index(USUAL_STRENGTH),
        MULTIPLES.index(multiple) - MULTIPLES.index(USUAL_MULTIPLE),
    )
    return -ODDS * sum(step**2 for step in steps)


def _note(val: Images | None, *, leave: bool) -> str:
    parts = [] if val is None else [f"{len(val)} validation images"]
    parts += ["each shot left out"] if leave else []
    return " and ".join(parts) or "none: one shot and no validation split, defaults taken"
