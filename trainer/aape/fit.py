"""Training of h and g (section 4.1, "follows CoOp"): SGD, cosine by epoch, one warm-up epoch, batches of 32.

What is notable: p^a is computed before the loop, because with the default (`detach`) it is constant. The learning rate
and the epoch are those with the best validation accuracy (then loss). A seed decides the start values, the order and
the held-out images. The steps themselves: `trainer/aape/steps.py`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.command import say
from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.steps import Steps, build_steps
from trainer.data import ClassText, Images, Task
from trainer.selection import split_for_selection
from trainer.text import TextSource, choose_class_text, class_weights

EVALUATIONS = 10
"""Validation measurements of one run, spread over its epochs."""
CLOSE_TARGET = 0.9
"""Above this mean cos(x, p^a) the prompts have no part in p^a any more."""
CHUNK = 4096
"""Images scored at once."""


@dataclass
class Fitted:
    """A trained classifier and how it came to be.

    Attributes:
        classifier: h and g.
        tau: softmax temperature.
        class_text: where w comes from.
        history: one record an epoch of the chosen run: `epoch`, `lr`, `loss_task`, `loss_distill`, `loss` (their
            weighted sum), and `val_accuracy`, `val_loss` where measured.
        info: what was chosen and what it cost.
    """

    classifier: Classifier
    tau: float
    class_text: TextSource
    history: list[dict[str, float]]
    info: dict[str, float | str | int]


@dataclass
class _Run:
    """One learning rate: its records and the best state met so far."""

    lr: float
    history: list[dict[str, float]] = field(default_factory=list)
    score: tuple[float, float] = (-1.0, -math.inf)
    epoch: int = 0
    tau: float = 0.0
    state: dict[str, Tensor] = field(default_factory=dict)

    def keep_if_better(self, steps: Steps, epoch: int, score: tuple[float, float]) -> None:
        """Remember this epoch's state when its (accuracy, -loss) beats the best so far."""
        if score > self.score:
            self.score, self.epoch, self.tau = score, epoch, steps.tau
            self.state = {name: value.clone() for name, value in steps.classifier.state_dict().items()}


def fit(task: Task, settings: TrainParams, *, seed: int) -> Fitted:
    """Learn h and g, with every open choice made on validation images.

    Where nothing can be held out (one shot, no validation split): the first rate that does not diverge, the last epoch.

    Raises:
        UserError: prompts are needed and missing, or every learning rate diverges.
    """
    started = time.perf_counter()
    train = task.train.float32()
    known = settings.tau if isinstance(settings.tau, float) else None
    source, tau = choose_class_text(task.text, task.train, source=settings.class_text, tau=known)
    weights = class_weights(task.text, source)
    split = split_for_selection(Task(task.text, train, task.val.float32()), seed=seed)
    grid = settings.lr_grid if settings.lr == "auto" else (settings.lr,)
    problem = _Problem(task.text, weights, tau, settings, seed)
    constant = problem.constant_targets(split.train)
    best = _Run(grid[0])
    for lr in grid:
        run = problem.run(split.train, split.val, constant, lr=lr)
        best = max(best, run, key=lambda run: run.score)
        if split.val is None and best.state:
            break
    if not best.state:
        raise UserError(
            f"training diverged at every learning rate ({', '.join(map(str, grid))}): "
            "set a lower train.lr or a higher train.tau"
        )
    if split.val is not None:
        problem.notes["val_accuracy"] = best.score[0]
    if split.held_out:
        best = problem.run(train, None, problem.constant_targets(train), lr=best.lr, stop_after=best.epoch)
    classifier = problem.classifier()
    classifier.load_state_dict(best.state)
    info: dict[str, float | str | int] = {
        "lr": best.lr,
        "epoch": best.epoch,
        "tau": best.tau,
        "class_text": source,
        "selection": split.note,
        "n_parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "fit_seconds": time.perf_counter() - started,
        **problem.notes,
    }
    return Fitted(classifier.eval(), best.tau, source, best.history, info)


class _Problem:
    """What all runs of one fit share: text, temperature, start values."""

    def __init__(self, text: ClassText, weights: Tensor, tau: float, settings: TrainParams, seed: int) -> None:
        self.text, self.weights, self.tau, self.settings, self.seed = text, weights, tau, settings, seed
        self.notes: dict[str, float | str | int] = {}

    def classifier(self) -> Classifier:
        """h and g at the seed's start values."""
        return Classifier(
            width=self.weights.shape[1],
            hidden=self.settings.hidden,
            head=self.settings.head,
            image=self.settings.image,
            generator=torch.Generator().manual_seed(self.seed),
        ).to(self.weights.device)

    def targets(self) -> PromptTargets:
        """The aggregator at the seed's start values, over the prompts of the classes."""
        prompts, mask = self.text.require_prompts()
        generator = torch.Generator().manual_seed(self.seed + 1)
        return PromptTargets(self.settings, prompts=prompts, mask=mask, generator=generator)

    def constant_targets(self, train: Images) -> Float[Tensor, "M D"] | None:
        """p^a of each image after training on the CLIP reward; None where it has no part or learns beside h."""
        if not (self.settings.distills and self.settings.detach):
            return None
        targets = self.targets()
        rewards = targets.fit(train)
        if rewards:
            self.notes |= {"reward_start": rewards[0], "reward_end": rewards[-1]}
        constant = targets.constant(train)
        self.note_target(constant, train)
        return constant

    def run(
        self,
        train: Images,
        val: Images | None,
        constant: Float[Tensor, "M D"] | None,
        *,
        lr: float,
        stop_after: int | None = None,
    ) -> _Run:
        """One training run; keeps the state of the best validation epoch, or of the last epoch without validation."""
        settings = self.settings
        joint = self.targets() if settings.distills and not settings.detach else None
        steps = build_steps(self.classifier(), train, joint or constant, self.weights, self.tau, settings)
        shots = int(torch.bincount(train.labels).min())
        epochs = settings.epochs_for(shots, -(-len(train) // settings.batch_of(len(train))))
        every = -(-epochs // EVALUATIONS)
        order = torch.Generator().manual_seed(self.seed + 2)
        run = _Run(lr)
        for epoch in range(1, (stop_after or epochs) + 1):
            rate = learning_rate(epoch, epochs, peak=lr, settings=settings)
            shuffled = torch.randperm(len(train), generator=order).to(train.labels.device)
            task, distill = steps.epoch(shuffled, rate)
            if not math.isfinite(task + distill):
                return _Run(lr)  # a rate that diverges is no choice, whatever its first epochs scored
            loss = task + settings.lambda_ * distill
            record = {"epoch": epoch, "lr": rate, "loss": loss, "loss_task": task, "loss_distill": distill}
            last = epoch == (stop_after or epochs)
            if val is not None and (epoch % every == 0 or last):
                accuracy, loss_value = measure(steps.classifier, val, self.weights, steps.tau)
                record |= {"val_accuracy": accuracy, "val_loss": loss_value}
                run.keep_if_better(steps, epoch, (accuracy, -loss_value))
            elif val is None and last:
                run.keep_if_better(steps, epoch, (0.0, 0.0))
            run.history.append(record)
        if joint is not None:
            self.note_target(joint.constant(train), train)
        return run

    def note_target(self, target: Float[Tensor, "M D"], train: Images) -> None:
        """Record the mean cos(x, p^a), and say so where p^a has become the image and the prompts have dropped out.

        With `query: mean` p^a is one vector a class: then a large cosine says that the images are alike.
        """
        cosine = self.notes["cos_x_pa"] = float((target * train.embeddings).sum(-1).mean())
        if cosine > CLOSE_TARGET and self.settings.query != "mean":
            self.notes["note"] = f"cos(x, p^a) = {cosine:.2f}: p^a is nearly the image itself; take query: mean"
            _say_once(f"note: {self.notes['note']} (query: {self.settings.query})")


_say_once = functools.cache(say)


def learning_rate(epoch: int, epochs: int, *, peak: float, settings: TrainParams) -> float:
    """CoOp's schedule: `warmup_lr` for the warm-up epochs, then half a cosine by epoch. Epochs count from 1."""
    if epoch <= settings.warmup_epochs:
        return settings.warmup_lr
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def _chunks(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images), CHUNK):
        yield images.embeddings[start : start + CHUNK], images.labels[start : start + CHUNK]


@torch.no_grad()
def measure(classifier: Classifier, images: Images, weights: Float[Tensor, "C D"], tau: float) -> tuple[float, float]:
    """Accuracy and mean negative log-likelihood."""
    right, loss = 0, 0.0
    for embeddings, labels in _chunks(images):
        logits = classifier(embeddings, weights) / tau
        right += int((logits.argmax(1) == labels).sum())
        loss += float(cross_entropy(logits, labels, reduction="sum"))
    return right / len(images), loss / len(images)
