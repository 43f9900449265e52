"""What AAPE adds to the common training (`trainer/training.py`): its step, its losses, and p^a.

What is notable: p^a is computed before the loop, because with the default (`detach`) it is constant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.command import say
from stages.training import TrainParams
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.controls import prompts_of
from trainer.aape.losses import class_means, clip_reward, distillation_loss
from trainer.aape.schedule import distills, generator_share
from trainer.data import ClassText, Images
from trainer.likelihood import least_loss
from trainer.text import TAU_RANGE
from trainer.training import WORST, Info, Learner, Score

STEP_ENTRIES = 2**23
"""Entries of the largest tensor of a step (float32: 32 MB); a larger batch is added up from parts."""
CLOSE_TARGET = 0.9
"""Above this mean cos(x, p^a) the prompts have no part in p^a any more."""


@dataclass(frozen=True)
class Start:
    """Where a descent begins, where that is not at the seed's start values.

    Attributes:
        classifier: h and g that were learnt before.
        gates: name of a parameter -> the share of each step that each of its entries takes; None: the whole.
    """

    classifier: Classifier
    gates: Mapping[str, Tensor] | None = None


class AAPELearner(Learner):
    """h and g in training.

    Args:
        classifier: h and g at their start values.
        weights: w_c.
        tau: softmax temperature, or where a learnt one starts; like CLIP's own it is held above 0.01.
        targets: p^a of each training image as a constant, an aggregator that learns beside h, or None: no L_distill.
        settings: losses, and what is learned.
        gates: see `Start`.
    """

    by_likelihood: ClassVar[bool] = True

    def __init__(
        self,
        classifier: Classifier,
        weights: Float[Tensor, "C D"],
        tau: float,
        targets: PromptTargets | Float[Tensor, "M D"] | None,
        settings: TrainParams,
        gates: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.gates = gates
        self.before = {} if gates is None else {n: p.detach().clone() for n, p in classifier.named_parameters()}
        self.classifier, self.weights, self.targets, self.settings = classifier, weights, targets, settings
        self.start, learnt = tau, settings.tau == "learnt"
        log_scale = torch.tensor(-math.log(tau), device=weights.device)
        self.log_scale = nn.Parameter(log_scale, requires_grad=learnt)
        self.joint = targets if isinstance(targets, PromptTargets) else None
        self.aggregator = None if self.joint is None else self.joint.aggregator
        self.near: float | None = None
        self.aligned = settings.align
        if settings.distill_by == "image":
            self.most = max(1, STEP_ENTRIES // (len(weights) * settings.hidden))

    @property
    def tau(self) -> float:
        """The temperature as it now is."""
        return math.exp(-float(self.log_scale.detach())) if self.log_scale.requires_grad else self.start

    def groups(self) -> list[dict[str, Any]]:
        """g and the aggregator, h at its share of the rate, and the temperature without decay."""
        generator = [] if self.classifier.h is None else list(self.classifier.h.parameters())
        learned = [each for name, each in self.classifier.named_parameters() if not name.startswith("h.")]
        learned += [] if self.aggregator is None else self.aggregator.parameters()
        groups: list[dict[str, Any]] = [{"params": learned}] if learned else []
        if generator:
            groups.append({"params": generator, "share": generator_share(self.settings, tau=self.start)})
        if self.log_scale.requires_grad:
            groups.append({"params": [self.log_scale], "weight_decay": 0.0})
        return groups

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """cos(x, w_c(x)) / tau."""
        logits: Tensor = self.classifier(images, self.weights) / self.tau
        return logits

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """lambda L_distill + L_task, less the CLIP reward of an aggregator that learns beside h; and the first two."""
        settings = self.settings
        generated = self.classifier.generate(batch.embeddings)
        cosines = self.classifier.cosines(batch.embeddings, generated, self.classifier.text_side(self.weights))
        logits = cosines * self.log_scale.exp()
        task = cross_entropy(logits, batch.labels)
        distill = reward = task.new_zeros(())
        if self.targets is not None and generated is not None:
            if isinstance(self.targets, PromptTargets):
                target = self.targets(batch.embeddings, batch.labels)
                reward = clip_reward(batch.embeddings, target, settings.reward_scale)
            else:
                target = self.targets[rows]
            if settings.distill_by == "class":
                generated, target = (class_means(each, batch.labels) for each in (generated, target))
            distill = distillation_loss(generated, target, settings.distill)
        loss = task + settings.lambda_ * distill - settings.reward_weight * reward
        found = {"loss": loss, "loss_task": task, "loss_distill": distill}
        if self.aligned:
            zero_shot = (batch.embeddings @ self.weights.T / self.start).softmax(1)
            found["loss_general"] = cross_entropy(logits, zero_shot)
        return found

    def measure(self, val: Images) -> Score:
        """Accuracy, and the likelihood at the temperature that suits these images best.

        Of few images most settings are right of equally many; how sure they are of them tells more. With a temperature
        of its own a head is not preferred for being louder.
        """
        logits = self(val.embeddings)
        if not bool(torch.isfinite(logits).all()):
            return WORST
        loss, self.near = least_loss(logits * self.tau, val.labels, near=self.near)
        return float((logits.argmax(1) == val.labels).double().mean()), -loss

    @torch.no_grad()
    def settle(self) -> None:
        """CLIP's own bound of the temperature; and what the gates keep of the step is taken back."""
        for name, gate in (self.gates or {}).items():
            value, before = self.classifier.get_parameter(name), self.before[name]
            value.copy_(before + gate * (value - before))
            before.copy_(value)
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=-math.log(TAU_RANGE[0]))


def start_targets(text: ClassText, settings: TrainParams, seed: int) -> PromptTargets:
    """The aggregator at the seed's start values, over the prompts of the classes, or those of a control."""
    prompts, mask = prompts_of(text, settings.distill_prompts, seed=seed + 3).require_prompts()
    return PromptTargets(settings, prompts=prompts, mask=mask, rng=torch.Generator().manual_seed(seed + 1))


@dataclass
class Learners:
    """Makes a learner at the seed's start values for the images that it will learn from.

    Attributes:
        notes: what is to be known of p^a, for the records.
        start: where it begins; None: at the seed's start values.
    """

    text: ClassText
    weights: Float[Tensor, "C D"]
    tau: float
    settings: TrainParams
    seed: int
    notes: Info = field(default_factory=dict)
    start: Start | None = None
    _made: tuple[Images, Tensor] | None = None

    def __call__(self, images: Images) -> AAPELearner:
        """A learner; p^a that is constant is computed once for the same images."""
        settings, targets = self.settings, None
        if distills(settings):
            targets = self._constant(images) if settings.detach else start_targets(self.text, settings, self.seed)
        classifier = Classifier(
            width=self.weights.shape[1],
            hidden=settings.hidden,
            head=settings.head,
            image=settings.image,
            steps=settings.chain,
            rng=torch.Generator().manual_seed(self.seed),
        )
        if self.start is not None:
            classifier.load_state_dict(self.start.classifier.state_dict())
        gates = None if self.start is None else self.start.gates
        return AAPELearner(classifier.to(self.weights.device), self.weights, self.tau, targets, settings, gates)

    def _constant(self, images: Images) -> Float[Tensor, "M D"]:
        """p^a of each image after training on the CLIP reward."""
        if self._made is None or self._made[0] is not images:
            targets = start_targets(self.text, self.settings, self.seed)
            rewards = targets.fit(images)
            if rewards:
                self.notes |= {"reward_start": rewards[0], "reward_end": rewards[-1]}
            self._made = images, targets.constant(images)
            self.note(self._made[1], images)
        return self._made[1]

    def note(self, target: Float[Tensor, "M D"], images: Images) -> None:
        """Record the mean cos(x, p^a), and say so where p^a has become the image and the prompts have dropped out.

        With `query: mean` p^a is one vector a class: then a large cosine says that the images are alike.
        """
        cosine = self.notes["cos_x_pa"] = float((target * images.embeddings).sum(-1).mean())
        if cosine > CLOSE_TARGET and self.settings.query != "mean":
            self.notes["note"] = f"cos(x, p^a) = {cosine:.2f}: p^a is nearly the image itself; take query: mean"
            say_once(f"note: {self.notes['note']} (query: {self.settings.query})")


say_once = functools.cache(say)
