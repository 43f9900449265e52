"""Training of h and g (section 4.1, "follows CoOp"): SGD, cosine by epoch, one warm-up epoch, batches of 32.

What is notable: the training set stays on the device and shuffling is an index; p^a is computed before the loop,
because with the default (`detach`) it is constant; the loss is read back once an epoch. The learning rate and the
epoch are those with the best validation accuracy (then loss). A seed decides the start values, the order and the
held-out images.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stages.errors import UserError
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.losses import calibrate_tau, clip_reward, distillation_loss
from trainer.aape.settings import AAPESettings
from trainer.data import ClassText, Images, Task
from trainer.selection import split_for_selection

EVALUATIONS = 10
"""Validation measurements of one run, spread over its epochs."""
CHUNK = 4096
"""Images scored at once."""


@dataclass
class Fitted:
    """A trained classifier and how it came to be.

    Attributes:
        classifier: h and g.
        tau: softmax temperature.
        class_text: where w comes from, `template` or `prompts`.
        history: one record an epoch of the chosen run: `epoch`, `lr`, `loss_task`, `loss_distill`, `loss` (their
            weighted sum), and `val_accuracy`, `val_loss` where measured.
        info: what was chosen and what it cost.
    """

    classifier: Classifier
    tau: float
    class_text: str
    history: list[dict[str, float]]
    info: dict[str, float | str | int]


@dataclass
class _Run:
    """One learning rate: its records and the best state met so far."""

    lr: float
    history: list[dict[str, float]] = field(default_factory=list)
    score: tuple[float, float] = (-1.0, -math.inf)
    epoch: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


def class_weights(text: ClassText, source: str) -> Float[Tensor, "C D"]:
    """w_c, unit float32 rows: the template embedding (paper) or the mean of the prompts."""
    return text.prompt_mean() if source == "prompts" else normalize(text.template.float(), dim=-1)


def choose_class_text(task: Task, settings: AAPESettings) -> tuple[str, float]:
    """Where w_c comes from and tau. `auto` takes the source under which the training images are likelier, zero-shot.

    Neither has a trained parameter, so this looks at training images alone.
    """
    sources = [settings.class_text] if settings.class_text != "auto" else ["template", "prompts"]
    if settings.class_text == "auto" and task.text.prompts is None:
        sources = ["template"]
    found = []
    for source in sources:
        cosines = task.train.embeddings.float() @ class_weights(task.text, source).T
        tau = calibrate_tau(cosines, task.train.labels) if settings.tau == "auto" else settings.tau
        found.append((float(cross_entropy(cosines / tau, task.train.labels)), source, tau))
    _, source, tau = min(found)
    return source, tau


def fit(task: Task, settings: AAPESettings, *, seed: int) -> Fitted:
    """Learn h and g, with every open choice made on validation images.

    Where nothing can be held out (one shot, no validation split): the first rate that does not diverge, the last epoch.

    Raises:
        UserError: prompts are needed and missing, or every learning rate diverges.
    """
    started = time.perf_counter()
    train = task.train.float32()
    source, tau = choose_class_text(task, settings)
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
        "tau": tau,
        "class_text": source,
        "selection": split.note,
        "n_parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "fit_seconds": time.perf_counter() - started,
        **problem.notes,
    }
    return Fitted(classifier.eval(), tau, source, best.history, info)


class _Problem:
    """What all runs of one fit share: text, temperature, start values."""

    def __init__(self, text: ClassText, weights: Tensor, tau: float, settings: AAPESettings, seed: int) -> None:
        self.text, self.weights, self.tau, self.settings, self.seed = text, weights, tau, settings, seed
        self.notes: dict[str, float] = {}

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
        self.notes["target_image_cosine"] = float((constant * train.embeddings).sum(-1).mean())
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
        classifier = self.classifier()
        targets = self.targets() if settings.distills and not settings.detach else None
        parameters = list(classifier.parameters())
        if targets is not None:
            parameters += list(targets.aggregator.parameters())
        optimizer = _optimizer(parameters, settings)
        shots = int(torch.bincount(train.labels).min())
        epochs = settings.epochs_for(shots, -(-len(train) // settings.batch))
        every = -(-epochs // EVALUATIONS)
        order = torch.Generator().manual_seed(self.seed + 2)
        run = _Run(lr)
        for epoch in range(1, (stop_after or epochs) + 1):
            rate = learning_rate(epoch, epochs, peak=lr, settings=settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums = torch.zeros(2, device=train.labels.device)
            for rows in torch.randperm(len(train), generator=order).to(train.labels.device).split(settings.batch):  # type: ignore[no-untyped-call]
                task_loss, distill_loss, reward = self.losses(classifier, targets, constant, train.take(rows), rows)
                loss = task_loss + settings.lambda_ * distill_loss - settings.reward_weight * reward
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                sums += torch.stack([task_loss.detach(), distill_loss.detach()]) * len(rows)
            task_mean, distill_mean = (sums / len(train)).tolist()
            if not math.isfinite(task_mean + distill_mean):
                return _Run(lr)  # a rate that diverges is no choice, whatever its first epochs scored
            record = {
                "epoch": epoch,
                "lr": rate,
                "loss": task_mean + settings.lambda_ * distill_mean,
                "loss_task": task_mean,
                "loss_distill": distill_mean,
            }
            last = epoch == (stop_after or epochs)
            if val is not None and (epoch % every == 0 or last):
                accuracy, loss_value = measure(classifier, val, self.weights, self.tau)
                record |= {"val_accuracy": accuracy, "val_loss": loss_value}
                self.keep_if_better(run, classifier, epoch, (accuracy, -loss_value))
            elif val is None and last:
                self.keep_if_better(run, classifier, epoch, (0.0, 0.0))
            run.history.append(record)
        return run

    def keep_if_better(self, run: _Run, classifier: Classifier, epoch: int, score: tuple[float, float]) -> None:
        """Remember this epoch's state when its (accuracy, -loss) beats the best so far."""
        if score > run.score:
            run.score, run.epoch, run.state = score, epoch, copy.deepcopy(classifier.state_dict())

    def losses(
        self,
        classifier: Classifier,
        targets: PromptTargets | None,
        constant: Float[Tensor, "M D"] | None,
        batch: Images,
        rows: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L_task, L_distill and the CLIP reward of one batch; the last two are 0 where they have no part."""
        generated = classifier.generate(batch.embeddings)
        task_loss = cross_entropy(
            classifier.cosines(batch.embeddings, generated, self.weights) / self.tau, batch.labels
        )
        distill_loss = reward = task_loss.new_zeros(())
        if targets is not None:
            target = targets(batch.embeddings, batch.labels)
            reward = clip_reward(batch.embeddings, target, self.settings.reward_scale)
        elif constant is not None:
            target = constant[rows]
        else:
            return task_loss, distill_loss, reward
        if generated is not None:
            distill_loss = distillation_loss(generated, target, self.settings.distill)
        return task_loss, distill_loss, reward


def _optimizer(parameters: list[torch.nn.Parameter], settings: AAPESettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=settings.warmup_lr, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=settings.warmup_lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
    )


def learning_rate(epoch: int, epochs: int, *, peak: float, settings: AAPESettings) -> float:
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
