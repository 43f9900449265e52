"""One pass over the training set, in two ways: with autograd for every setting, or written out (`fused.py`).

The training set stays on the device and shuffling is an index; the loss is read back once an epoch.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.training import TrainParams
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.fused import FusedSteps, can_fuse
from trainer.aape.losses import class_means, clip_reward, distillation_loss
from trainer.data import Images
from trainer.text import TAU_RANGE


class Steps(Protocol):
    """A classifier in training.

    Attributes:
        classifier: h and g as they now are.
    """

    classifier: Classifier

    @property
    def tau(self) -> float:
        """The temperature as it now is."""
        ...

    def epoch(self, order: Int[Tensor, "M"], rate: float) -> tuple[float, float]:
        """One pass in this order at this learning rate; the mean task loss and the mean L_distill."""
        ...


class AutogradSteps:
    """Any settings.

    Args:
        classifier: h and g at their start values.
        images: the training set, on the device.
        targets: p^a as a constant of each image, an aggregator that learns beside h, or None without L_distill.
        weights: w_c.
        tau: softmax temperature, or where a learned one starts; like CLIP's own it is held above 0.01.
        settings: losses, optimiser, batch.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Images,
        targets: PromptTargets | Float[Tensor, "M D"] | None,
        weights: Float[Tensor, "C D"],
        tau: float,
        settings: TrainParams,
    ) -> None:
        self.classifier, self.settings, self._start = classifier, settings, tau
        self.images, self.targets, self.weights = images, targets, weights
        self.log_scale = torch.nn.Parameter(weights.new_tensor(-math.log(tau)), requires_grad=settings.tau == "learnt")
        generator = [] if classifier.h is None else list(classifier.h.parameters())
        learned = [each for name, each in classifier.named_parameters() if not name.startswith("h.")]
        if isinstance(targets, PromptTargets):
            learned += targets.aggregator.parameters()
        groups: list[dict[str, object]] = [{"params": learned}] if learned else []
        if generator:
            groups.append({"params": generator, "share": settings.generator_share})
        if self.log_scale.requires_grad:
            groups.append({"params": [self.log_scale], "weight_decay": 0.0})
        decay = settings.weight_decay
        self.optimizer: torch.optim.Optimizer
        if settings.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=settings.warmup_lr, weight_decay=decay, fused=True)
        else:
            self.optimizer = torch.optim.SGD(
                groups, lr=settings.warmup_lr, momentum=settings.momentum, weight_decay=decay, fused=True
            )

    @property
    def tau(self) -> float:
        """The temperature as it now is."""
        return math.exp(-float(self.log_scale.detach())) if self.log_scale.requires_grad else self._start

    def epoch(self, order: Int[Tensor, "M"], rate: float) -> tuple[float, float]:
        """One pass in this order at this learning rate; the mean task loss and the mean L_distill."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        sums = self.weights.new_zeros(2)
        for rows in order.split(self.settings.batch_of(len(order))):  # type: ignore[no-untyped-call]
            task, distill, reward = self.losses(rows)
            loss = task + self.settings.lambda_ * distill - self.settings.reward_weight * reward
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.log_scale.requires_grad:
                self.log_scale.data.clamp_(max=-math.log(TAU_RANGE[0]))
            sums += torch.stack([task.detach(), distill.detach()]) * len(rows)
        task_mean, distill_mean = (sums / len(order)).tolist()
        return task_mean, distill_mean

    def losses(self, rows: Int[Tensor, "B"]) -> tuple[Tensor, Tensor, Tensor]:
        """L_task, L_distill and the CLIP reward of one batch; the last two are 0 where they have no part."""
        batch, settings = self.images.take(rows), self.settings
        generated = self.classifier.generate(batch.embeddings)
        cosines = self.classifier.cosines(batch.embeddings, generated, self.classifier.text_side(self.weights))
        task = cross_entropy(cosines * self.log_scale.exp(), batch.labels)
        distill = reward = task.new_zeros(())
        if self.targets is None or generated is None:
            return task, distill, reward
        if isinstance(self.targets, PromptTargets):
            target = self.targets(batch.embeddings, batch.labels)
            reward = clip_reward(batch.embeddings, target, settings.reward_scale)
        else:
            target = self.targets[rows]
        if settings.distill_by == "class":
            generated, target = (class_means(each, batch.labels) for each in (generated, target))
        return task, distillation_loss(generated, target, settings.distill), reward


def build_steps(
    classifier: Classifier,
    images: Images,
    targets: PromptTargets | Float[Tensor, "M D"] | None,
    weights: Float[Tensor, "C D"],
    tau: float,
    settings: TrainParams,
) -> Steps:
    """The written-out step where it serves these settings, else autograd."""
    if can_fuse(settings) and not isinstance(targets, PromptTargets):
        return FusedSteps(classifier, images, targets, weights, tau, settings)
    return AutogradSteps(classifier, images, targets, weights, tau, settings)
