"""AAPE+: this project's own method on top of the paper's. It is not in the paper, and nothing is trained by descent.

Aggregate: at inference the image attends over the cached prompts of each class (`trainer/aape_plus/attention.py`).
Adapt: what the shots say in two closed forms is added to it, each voice as loud as makes unseen images likeliest.

    logits_c(x) = a_t t_c(x) + a_r r_c(x) + a_g g_c(x),    t_c(x) = cos(x, p_c(x)) / tau_text

r is a ridge regression of what is left of the labels when zero-shot has spoken, one_hot(y) - softmax(t), or of the
labels as they are; g a Gaussian discriminant with one covariance. Unseen images are validation images, and each shot
left out in turn: exact, and without a second fit.

A class without shots has no r and g: among new classes alone only the text speaks. Where fitted and new classes stand
side by side, the fitted ones share among them, by the formula, what the text gives them together, raised or lowered by
how the largest score of the images compares with that of a right class on unseen images: `docs/aape-plus.md`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.errors import UserError
from trainer.aape_plus import Chosen, Scores, Voice, Voices, attended_by_each, attended_cosines, calibrated
from trainer.aape_plus.voices import USUAL_TEXT
from trainer.data import ClassText, Images, Task, check_task
from trainer.data.draws import mean_shots, select, usual_shots
from trainer.ends import AT_END, at_end
from trainer.methods.base import Needs
from trainer.methods.linear import LinearPredictor, require_fitted
from trainer.text import class_weights
from trainer.training import Info

Part = Literal["text", "kernel"] | Voice
BETAS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Sharpness of the attention; 0 is the mean of the prompts, the largest all but the sentence nearest to the image."""
SHARES = (0.25, 0.5, 0.75)
"""Of the template, beside prompts; without 0 and 1, which are prompts alone and the template alone."""
LEAVE_ONE_OUT_SHOTS = 4
"""With fewer shots, one less is another task: then validation images alone decide, where there are any."""
EVIDENCE = 0.5
"""Weight of the largest score of the shots in favour of the fitted classes, beside new ones."""


@dataclass(frozen=True)
class TextHead:
    """(share cos(x, w_c) + (1 - share) cos(x, p_c(x))) / tau for any classes, w_c the mean of their templates.

    Attributes:
        share: of the template; 1 where nobody wrote prompts.
    """

    share: float
    beta: float
    tau: float

    @property
    def source(self) -> str:
        """`template`, `prompts`, or `both`."""
        return {0.0: "prompts", 1.0: "template"}.get(self.share, "both")

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one, and not only their mean."""
        return self.share < 1 and self.beta > 0

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of unit float32 images.

        Raises:
            UserError: `text` has no prompts and the head needs them.
        """
        cosines = images @ class_weights(text, "ensemble").T if self.share else images.new_zeros(len(images), len(text))
        if self.share < 1:
            attended = attended_cosines(images, *text.require_prompts(), beta=self.beta)
            cosines = self.share * cosines + (1 - self.share) * attended
        return cosines / self.tau


@dataclass
class ShotsPredictor:
    """x W^T + b + exp(sharpness (x keys^T - 1)) values, for a fixed list of classes.

    Attributes:
        keys: shots; no row where the scores are linear.
    """

    names: tuple[str, ...]
    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    keys: Float[Tensor, "M D"]
    values: Float[Tensor, "M C"]
    sharpness: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def of(self, images: Float[Tensor, "B D"], rows: Int[Tensor, " N"]) -> Float[Tensor, "B N"]:
        """Scores of the classes in these rows."""
        scores = Scores(self.weight[rows], self.bias[rows], self.keys, self.values[:, rows], self.sharpness)
        return scores.of(images.float())

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of the fitted classes.

        Raises:
            UserError: `text` names other classes.
        """
        require_fitted(self.names, text)
        return self.of(images, torch.arange(len(self.names), device=images.device))


@dataclass
class AAPEPlusPredictor:
    """The text head, and the scores that the shots give their classes.

    Attributes:
        shots: a_r r(x) + a_g g(x) of the fitted classes, whose mean over the classes is 0.
        text_weight: a_t.
        unseen: the largest score of the shots that speaks neither for fitted classes nor for new ones beside them.
    """

    text_head: TextHead
    shots: ShotsPredictor
    text_weight: float
    unseen: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The fitted classes."""
        return self.shots.names

    @property
    def attends(self) -> bool:
        """Whether the prompts are needed one by one, and not only their mean."""
        return self.text_head.attends

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes: fitted, new, or both.

        Raises:
            UserError: the widths of images, text and shots differ, or prompts are needed and missing.
        """
        widths = {images.shape[1], text.template.shape[1], self.shots.weight.shape[1]}
        if len(widths) > 1:
            raise UserError(
                f"the images are {images.shape[1]} wide, the class text {text.template.shape[1]} and the fitted shots "
                f"{self.shots.weight.shape[1]}: embed all with the same encoder"
            )
        x = images.float()
        heard = self.text_head.logits(x, text)
        row = {name: i for i, name in enumerate(self.names)}
        fitted = torch.tensor([row.get(name, -1) for name in text.names], device=x.device)
        known = fitted >= 0
        if not bool(known.any()):
            return heard
        seen = self.shots.of(x, fitted[known])
        own = seen + self.text_weight * heard[:, known]
        if bool(known.all()):
            return own
        together = heard[:, known].logsumexp(1) + EVIDENCE * (seen.max(1).values - self.unseen)
        heard[:, known] = own.log_softmax(1) + together[:, None]
        return heard


@dataclass(frozen=True)
class Settled:
    """What AAPE+ decided of a task.

    Attributes:
        text_head: None where the shots speak alone.
        note: which images it was chosen by, for the records.
    """

    names: tuple[str, ...]
    text_head: TextHead | None
    voices: Voices
    chosen: Chosen
    note: str


@dataclass(frozen=True)
class AAPEPlus:
    """AAPE+. With prompts or, where there are none, with the template alone.

    Attributes:
        parts: what may speak, and whether the ridge regression may have a kernel. All else is chosen alike: what a
            part is worth is the difference.
    """

    name: str = "aape-plus"
    needs: Needs = "text"
    uses_prompts: bool = True
    serves_new_classes: bool = True
    parts: tuple[Part, ...] = ("text", "labels", "residual", "gaussian", "kernel")

    @classmethod
    def without_text(cls) -> AAPEPlus:
        """The control: the shots alone."""
        return cls("aape-plus-no-text", "images", False, False, ("labels", "gaussian", "kernel"))

    def fit(self, task: Task, *, seed: int) -> AAPEPlusPredictor | ShotsPredictor | LinearPredictor:
        """Closed forms; the same task and seed give the same predictor.

        Raises:
            UserError: the task is not one that can be learned (see `trainer.data.check_task`), or a class has no
                prompt while others have.
        """
        started = time.perf_counter()
        return self.predictor(self.settle(task, seed=seed), started=started)

    def settle(self, task: Task, *, seed: int) -> Settled:
        """All choices.

        Raises:
            UserError: see `fit`.
        """
        check_task(task)
        text = task.text if "text" in self.parts else None
        if text is not None:
            text.require_text()
        train = task.train.float32()
        selection = select(task, seed=seed)
        # where validation images are those of some classes alone, every shot left out in turn stands for all classes
        val = None if selection.held_out or selection.val is None else selection.val.float32()
        leave = usual_shots(train.labels, len(task.text)) >= (2 if val is None else LEAVE_ONE_OUT_SHOTS)
        head, heard = None, None
        if text is not None:
            labelled = train if val is None else Images.join(train, val)
            head = choose_text_head(text, labelled)
            of_train, of_val = head.logits(labelled.embeddings, text).tensor_split([len(train)])
            heard = of_train, of_val
        voices = Voices(train, val, heard, classes=len(task.text), leave=leave)
        usual = Chosen(0.0 if head is None else USUAL_TEXT / mean_shots(train.labels))
        return Settled(task.text.names, head, voices, voices.choose(self.parts) or usual, _note(val, leave=leave))

    def predictor(self, settled: Settled, *, started: float) -> AAPEPlusPredictor | ShotsPredictor | LinearPredictor:
        """What was chosen, fitted on all shots.

        Args:
            started: clock at the start of the fit.
        """
        head, chosen, names = settled.text_head, settled.chosen, settled.names
        of_shots = settled.voices.together(chosen)
        scores = (of_shots.weight, of_shots.bias, of_shots.keys, of_shots.values)
        info: Info = {
            **chosen.info(),
            "selection": settled.note,
            "n_parameters": sum(each.numel() for each in scores),
            "fit_seconds": time.perf_counter() - started,
        }
        if head is not None:
            info = {
                "class_text": head.source,
                "template_share": head.share,
                "beta": head.beta,
                "tau_text": head.tau,
                **info,
            }
            ends = [each[AT_END] for each in (at_end(beta=(head.beta, BETAS)), info) if AT_END in each]
            if ends:
                info[AT_END] = ", ".join(map(str, ends))
            shots = ShotsPredictor(names, *scores, of_shots.sharpness)
            return AAPEPlusPredictor(head, shots, chosen.text, chosen.unseen, info=info)
        if not len(of_shots.keys):
            return LinearPredictor(names, of_shots.weight, of_shots.bias, info=info)
        return ShotsPredictor(names, *scores, of_shots.sharpness, info=info)


def choose_text_head(text: ClassText, images: Images) -> TextHead:
    """Beta, then the template's share, by the likelihood of the images, to which nothing but tau is fitted."""
    x, labels = images.embeddings, images.labels
    template = x @ class_weights(text, "ensemble").T
    loss, tau = calibrated(template, labels)
    if text.prompts is None:
        return TextHead(1.0, 0.0, tau)
    prompts, mask = text.require_prompts()
    betas = BETAS if prompts.shape[1] > 1 else BETAS[:1]
    each = attended_by_each(x, prompts, mask, betas=betas)
    found = [(*calibrated(scores, labels), 0.0, beta) for beta, scores in zip(betas, each, strict=True)]
    beta = min(found)[-1]
    attended = each[betas.index(beta)]
    found += [(*calibrated(share * template + (1 - share) * attended, labels), share, beta) for share in SHARES]
    _, tau, share, beta = min([*found, (loss, tau, 1.0, 0.0)])
    return TextHead(share, beta, tau)


def _note(val: Images | None, *, leave: bool) -> str:
    parts = [] if val is None else [f"{len(val)} validation images"]
    parts += ["each shot left out"] if leave else []
    return " and ".join(parts) or "none: one shot and no validation split, defaults taken"
