"""Methods that descend: TaI on sentences, class embeddings and LMPT on images, AAPE's generator.

The loop, the choice among rates and epochs and the start at zero-shot are those of every trained method
(`trainer/training.py`); the measure is mAP on images to choose by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.training import TrainParams
from trainer.aape import Classifier, distills, rates
from trainer.data import ClassText
from trainer.methods.aape import AAPEPredictor
from trainer.methods.linear import LinearPredictor
from trainer.methods.text import another
from trainer.multilabel.data import Labelled, LabelTask, check_labels
from trainer.multilabel.draws import LabelSelection, select_labels
from trainer.multilabel.finish import LabelPredictor, Needs, finished, mixed, served_by_text, unseen_by_text
from trainer.multilabel.losses import (
    asymmetric_loss,
    binary_loss,
    class_specific_embedding_loss,
    distribution_balanced_loss,
    ranking_loss,
)
from trainer.multilabel.metrics import average_precisions, mean_of
from trainer.multilabel.stacking import stack_labels
from trainer.text import TAU_RANGE, TextSource, class_weights
from trainer.training import Candidate, Learner, Schedule, Score, choose, refit

SCALE = 20.0
"""Cosines are multiplied by this before a margin of 1 is asked for: 0.05 in cosines, TaI's with its own scale."""
RATES = (3e-4, 3e-3)
"""Adam's, of class embeddings of length 1."""
STEPS, BATCH = 300, 64
MOST_PAIRS = 2**24
"""Entries of the ranking loss of a batch."""


class LabelLearner(Learner):
    """A learner that is measured by mAP, then by its loss."""

    measured: ClassVar[tuple[str, str]] = ("val_map", "val_loss")

    def objective(self, rows: Labelled) -> Float[Tensor, ""]:
        """What is descended, on these rows."""
        raise NotImplementedError

    def losses(self, rows: Int[Tensor, " B"], batch: Labelled, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The objective."""
        return {"loss": self.objective(batch)}

    def measure(self, val: Labelled) -> Score:
        """mAP, and minus the binary cross entropy at the scale and bias that suit these images best."""
        scores = self(val.embeddings.float())
        if not bool(torch.isfinite(scores).all()):
            return -1.0, -math.inf
        found = mean_of(average_precisions(scores.cpu().numpy(), val.labels.cpu().numpy()))
        return (0.0 if math.isnan(found) else found), -stack_labels([scores], val.labels)[0]


class ClassEmbeddings(LabelLearner):
    """One free embedding a class, at the class text first."""

    def __init__(self, weights: Float[Tensor, "C D"]) -> None:
        super().__init__()
        self.own = nn.Parameter(weights.clone())

    def weight(self) -> Float[Tensor, "C D"]:
        """Unit rows."""
        return normalize(self.own, dim=-1)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Cosines."""
        return images.float() @ self.weight().T


class RankedSentences(ClassEmbeddings):
    """TaI: sentences in the place of images, ranking loss; one shift that all classes share is learned."""

    def __init__(self, weights: Float[Tensor, "C D"]) -> None:
        super().__init__(weights)
        self.own.requires_grad_(False)
        self.shift = nn.Parameter(weights.new_zeros(weights.shape[1]))

    def groups(self) -> list[dict[str, Any]]:
        """The shift alone."""
        return [{"params": [self.shift]}]

    def weight(self) -> Float[Tensor, "C D"]:
        """Unit rows."""
        return normalize(self.own + self.shift, dim=-1)

    def objective(self, rows: Labelled) -> Float[Tensor, ""]:
        """The ranking loss of the scaled cosines."""
        return ranking_loss(SCALE * self(rows.embeddings), rows.labels, margin=1.0)


class Balanced(ClassEmbeddings):
    """LMPT: the distribution-balanced loss on images, the class-specific embedding loss on sentences.

    Args:
        weights: class text.
        scale, bias: of the cosines as logits, fitted to the training images.
        images: what it learns from: it knows how rare each class is.
        sentences: of the embedding loss; None leaves that out.
        plain: binary cross entropy in the place of the balanced loss: the control.
    """

    def __init__(
        self, weights: Float[Tensor, "C D"], scale: float, bias: float, images: Labelled, sentences: Labelled | None, *,
        plain: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(weights)
        self.scale, self.bias, self.sentences, self.plain = scale, bias, sentences, plain
        self.counts, self.total = images.counts, len(images)

    def losses(self, rows: Int[Tensor, " B"], batch: Labelled, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Both losses with equal weight, as LMPT has them; sums over the classes."""
        logits = self.scale * self(batch.embeddings) + self.bias
        classes = logits.shape[1]
        if self.plain:
            task = classes * binary_loss(logits, batch.labels)
        else:
            task = classes * distribution_balanced_loss(logits, batch.labels, self.counts, images=self.total)
        if self.sentences is None or not len(self.sentences):
            return {"loss": task, "loss_task": task}
        drawn = torch.randint(len(self.sentences), (len(rows),), generator=rng).to(batch.device)
        said = self.sentences.take(drawn)
        apart = classes * class_specific_embedding_loss(self(said.embeddings), said.labels, self.counts)
        return {"loss": (task + apart) / 2, "loss_task": task}


@dataclass(frozen=True)
class TaI:
    """Texts as images (Guo et al., "Texts as Images in Prompt Tuning for Multi-Label Recognition", CVPR 2023).

    Kept: the classifier is learnt from sentences as if they were images, with the ranking loss, and no image is needed
    (`--shots 0`); sentences name their classes by the noun filter. Not kept: the learned context in front of the names
    (the class embeddings themselves are learned), and the second, local head over patches and words, which one
    embedding an image does not have.

    Attributes:
        shuffled: the control: each sentence is given another class's place.
    """

    name: str = "tai"
    shuffled: bool = False
    needs: Needs = "text"
    uses_prompts: bool = True

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Learn class embeddings on sentences; images, where there are some, choose rate and epoch alone."""
        check_labels(task)
        task.text.require_text()
        started = time.perf_counter()
        sentences = task.sentences
        if self.shuffled:
            moved = another(len(task.text), seed=seed)
            sentences = Labelled(sentences.embeddings, sentences.labels[:, moved])
        unseen, note = unseen_by_text(task, seed=seed)
        images = len(task.train) + len(task.val) > 0
        train, val = (sentences, unseen) if images else _part(sentences, seed)
        texts = mixed(train, seed=seed)
        starts: list[TextSource] = ["ensemble", "prompts"] if task.text.prompts is not None else ["ensemble"]
        weights = {source: class_weights(task.text, source) for source in starts}
        candidates = [
            Candidate(_schedule(lr, len(texts), len(task.text)), partial(_ranked, weights[source]), {"start": source})
            for source in starts
            for lr in RATES
        ]
        best = choose(candidates, LabelSelection(texts, val, False, note), seed=seed)
        assert isinstance(best.learner, RankedSentences)
        head = _linear(task.text, best.learner)
        part = served_by_text(head, images=images)
        return finished(
            [part], [part], unseen, task.text, note=note, started=started, n_parameters=head.weight.shape[1],
            chosen={**best.info, "sentences": len(sentences)}, history=best.history, last=len(task.val),
        )  # fmt: skip


def _ranked(weights: Float[Tensor, "C D"], _: Labelled) -> RankedSentences:
    return RankedSentences(weights)


def _part(sentences: Labelled, seed: int) -> tuple[Labelled, Labelled]:
    """Three quarters of the sentences to learn from, the others to choose by; of a few all for both."""
    if len(sentences) < 8:
        return sentences, sentences.float32()
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(seed)).to(sentences.device)
    held = len(sentences) // 4
    return sentences.take(order[held:]), sentences.take(order[:held]).float32()


def _schedule(lr: float, rows: int, classes: int) -> Schedule:
    batch = max(1, min(BATCH, rows, MOST_PAIRS // classes**2))
    epochs = max(1, min(50, STEPS // -(-rows // batch)))
    return Schedule("adam", lr, epochs, batch, cosine="step")


def _linear(text: ClassText, learner: ClassEmbeddings) -> LinearPredictor:
    weight = learner.weight().detach()
    return LinearPredictor(text.names, weight, weight.new_zeros(len(weight)))


@dataclass(frozen=True)
class LMPT:
    """LMPT (Xia et al., "LMPT: Prompt Tuning with Class-Specific Embedding Loss for Long-Tailed Multi-Label Visual
    Recognition", 2023, ALVR 2024), and its controls.

    Kept: the distribution-balanced loss on images, and the class-specific embedding loss (class-aware soft margin,
    re-weighting) between texts and classes; the texts are the prompts, and captions of training images where there are
    some. Not kept: the learned context in front of the names: the class embeddings themselves are learned.

    Attributes:
        loss: `both`; `balanced`: without the embedding loss; `plain`: binary cross entropy alone.
    """

    name: str = "lmpt"
    loss: Literal["both", "balanced", "plain"] = "both"
    needs: Needs = "shots"

    @property
    def uses_prompts(self) -> bool:
        """In the embedding loss alone."""
        return self.loss == "both"

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Learn class embeddings on images and sentences."""
        check_labels(task)
        task.text.require_text()
        started, selection = time.perf_counter(), select_labels(task, seed=seed)
        weights = class_weights(task.text, "ensemble")
        scale, bias = _as_logits(weights, task.train)
        sentences = task.sentences.float32() if self.loss == "both" else None

        def learner(images: Labelled) -> Balanced:
            return Balanced(weights, scale, bias, images, sentences, plain=self.loss == "plain")

        candidates = [Candidate(_schedule(lr, len(selection.train), len(weights)), learner) for lr in RATES]
        return _trained(task, candidates, selection, seed, started)


def _as_logits(weights: Float[Tensor, "C D"], images: Labelled) -> tuple[float, float]:
    """Scale and bias that make the labels of images likeliest, given their cosines."""
    _, (scale,), bias = stack_labels([images.embeddings.float() @ weights.T], images.labels)
    scale = min(max(scale, 1 / TAU_RANGE[1]), 1 / TAU_RANGE[0])
    return scale, bias


def _trained(
    task: LabelTask, candidates: Sequence[Candidate], selection: LabelSelection, seed: int, started: float
) -> LabelPredictor:
    """Choose, calibrate on the images to choose by, and fit again on all where these were held out."""
    best = choose(candidates, selection, seed=seed)
    assert isinstance(best.learner, ClassEmbeddings)
    before = _linear(task.text, best.learner)
    again = refit(best, task.train, selection, seed=seed)
    assert isinstance(again.learner, ClassEmbeddings)
    part = _linear(task.text, again.learner)
    unseen = task.train.float32() if selection.val is None else selection.val
    return finished(
        [part], [before], unseen, task.text, note=selection.note, started=started, n_parameters=part.weight.numel(),
        chosen=again.info, history=again.history,
    )  # fmt: skip


class GeneratedLabels(LabelLearner):
    """h and g of AAPE under the asymmetric loss.

    Args:
        targets: p^a of each class: the mean of its prompts; of an image the mean over its classes. None: no L_distill.
        scale, bias: of cosines as logits.
    """

    def __init__(
        self, classifier: Classifier, weights: Float[Tensor, "C D"], targets: Float[Tensor, "C D"] | None, scale: float,
        bias: float, lambda_: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classifier, self.weights, self.targets = classifier, weights, targets
        self.scale, self.bias, self.lambda_ = scale, bias, lambda_

    def groups(self) -> list[dict[str, Any]]:
        """g, and h at a tenth of its rate, as AAPE has them."""
        generator = [] if self.classifier.h is None else list(self.classifier.h.parameters())
        learned = [each for name, each in self.classifier.named_parameters() if not name.startswith("h.")]
        groups: list[dict[str, Any]] = [{"params": learned}]
        return [*groups, {"params": generator, "share": 0.1}] if generator else groups

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x))."""
        cosines: Tensor = self.classifier(images.float(), self.weights)
        return cosines

    def losses(self, rows: Int[Tensor, " B"], batch: Labelled, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The asymmetric loss, summed over the classes, and lambda L_distill of images that have a class."""
        x = batch.embeddings.float()
        generated = self.classifier.generate(x)
        cosines = self.classifier.cosines(x, generated, self.classifier.text_side(self.weights))
        task = len(self.weights) * asymmetric_loss(self.scale * cosines + self.bias, batch.labels)
        has = batch.labels.any(1)
        distill = task.new_zeros(())
        if self.targets is not None and generated is not None and bool(has.any()):
            target = normalize(batch.labels[has].to(x.dtype) @ self.targets, dim=-1)
            distill = (generated[has] - target).square().sum(-1).mean()
        return {"loss": task + self.lambda_ * distill, "loss_task": task, "loss_distill": distill}


@dataclass(frozen=True)
class AAPELabels:
    """AAPE's h and g with the asymmetric loss in the place of cross entropy.

    p^a is the mean of the prompts of the image's classes: an aggregator that attends with the image over the prompts of
    one class at a time has no single class here.

    Args:
        settings: the `train:` section.
        distill: False is the control without L_distill.
    """

    name: str
    settings: TrainParams
    distill: bool = True

    @property
    def needs(self) -> Needs:
        """Prompts enter through L_distill alone."""
        return "shots"

    @property
    def uses_prompts(self) -> bool:
        """Whether L_distill has a part."""
        return self.distill and distills(self.settings)

    def fit(self, task: LabelTask, *, seed: int) -> LabelPredictor:
        """Learn h and g."""
        check_labels(task)
        task.text.require_text()
        settings = self.settings
        started, selection = time.perf_counter(), select_labels(task, seed=seed)
        source: TextSource = "ensemble"
        weights = class_weights(task.text, source)
        scale, bias = _as_logits(weights, task.train)
        targets = task.text.prompt_mean() if self.uses_prompts and task.text.prompts is not None else None

        def learner(_: Labelled) -> GeneratedLabels:
            rng = torch.Generator().manual_seed(seed)
            classifier = Classifier(
                width=weights.shape[1], hidden=settings.hidden, head=settings.head, image=settings.image, rng=rng
            )
            return GeneratedLabels(
                classifier.to(weights.device), weights, targets, scale, bias, settings.lambda_ if self.distill else 0.0
            )

        batch = min(settings.batch or len(selection.train), len(selection.train))
        epochs = max(2, settings.max_steps // -(-len(selection.train) // batch))
        epochs = min(epochs, 200 if settings.epochs == "auto" else settings.epochs)
        candidates = [
            Candidate(
                Schedule(
                    settings.optimizer, lr, epochs, batch, weight_decay=settings.weight_decay,
                    momentum=settings.momentum, warmup_epochs=settings.warmup_epochs, warmup_lr=settings.warmup_lr,
                    cosine="epoch",
                ),
                learner,
            )
            for lr in rates(settings, tau=1 / scale)
        ]  # fmt: skip
        best = choose(candidates, selection, seed=seed)
        before = self._served(best.learner, source)
        again = refit(best, task.train, selection, seed=seed)
        part = self._served(again.learner, source)
        unseen = task.train.float32() if selection.val is None else selection.val
        count = sum(parameter.numel() for parameter in part.classifier.parameters())
        return finished(
            [part], [before], unseen, task.text, note=selection.note, started=started, n_parameters=count,
            chosen={**again.info, "class_text": source}, history=again.history,
        )  # fmt: skip

    def _served(self, learner: Learner, source: TextSource) -> AAPEPredictor:
        assert isinstance(learner, GeneratedLabels)
        return AAPEPredictor(learner.classifier.requires_grad_(False).eval(), 1.0, source, self.settings)
