"""Gradient descent, the same for everything that is trained: AAPE, its variants and the trained baselines.

A method gives candidates: settings that its publication names, or that its grid holds, the default first. Each is
trained. The candidate and the epoch with the best validation score are kept, by accuracy (then the least loss) as
published, or by likelihood where the learner says so. The start is epoch 0 and a choice like any other, so that what
begins as zero-shot never ends below it on the validation images. Where those were taken out of the shots, the choice is
trained again on all of them. Without validation images: the first candidate that does not diverge, its last epoch.
Each step takes one view of an image, drawn by seed, where the store has augmentations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from stages.errors import UserError
from trainer.alignment import General
from trainer.data import Images
from trainer.data.draws import mean_shots

EVALUATIONS = 10
"""Validation measurements of one run, spread over its epochs, unless its schedule has more."""
CHUNK = 4096
"""Images scored at once."""
CLASSIC_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200}
"""CoOp's epochs by number of shots; 16 and more train as long as 8."""

Info = dict[str, float | str | int]
Score = tuple[float, float]
"""Accuracy, and minus the mean negative log-likelihood: of each the larger is the better."""
WORST: Score = (-1.0, -math.inf)


class Examples(Protocol):
    """What a learner learns from: `trainer.data.Images`, or `trainer.data.pairs.Pairs`."""

    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> Any:
        """What a step takes of these rows."""


class Learner(nn.Module):
    """Something that learns; a classifier's `forward` maps unit images (B, D) to logits (B, C).

    Attributes:
        most: images whose gradient is computed at once; a larger batch is added up from parts.
        measured: what the records call the two numbers of `measure`, the second with its sign changed.
        by_likelihood: whether the second number of `measure` decides, and the first only where that ties.
        aligned: share of a step against the direction of `loss_general`, one of its losses, that is dropped; see
            `trainer.alignment`.
    """

    most: int = 2**31
    aligned: float = 0.0
    by_likelihood: ClassVar[bool] = False
    measured: ClassVar[tuple[str, str]] = ("val_accuracy", "val_loss")

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups of parameters. Beside its own keys: `share`, of the learning rate, and `every`, steps
        from one update of the group to the next.
        """
        return [{"params": list(self.parameters())}]

    def losses(self, rows: Int[Tensor, " B"], batch: Any, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The mean `loss` of a batch, and further terms for the records.

        Args:
            rows: where the batch stands in the training set.
            batch: what `Examples.draw` gave.
            rng: for whatever else is drawn.
        """
        return {"loss": cross_entropy(self(batch.embeddings), batch.labels)}

    def measure(self, val: Any) -> Score:
        """How good it is on examples to choose by."""
        parts = zip(val.embeddings.split(CHUNK), val.labels.split(CHUNK), strict=True)
        return together([(judge(self(x), y), len(y) / len(val)) for x, y in parts])

    def may_beat(self, val: Any, best: Score) -> bool:
        """Whether `measure` could be better than this; False where that is certain and cheaper to know."""
        return True

    def rank(self, score: Score) -> Score:
        """The score as choices compare it."""
        return score[::-1] if self.by_likelihood else score

    def settle(self) -> None:
        """After each step: bring what has left its bounds back into them."""


@dataclass(frozen=True)
class Schedule:
    """How a learner is trained.

    Attributes:
        lr: peak learning rate.
        epochs: passes over the images.
        batch: images a step.
        momentum: of sgd.
        eps: of Adam and AdamW.
        warmup_steps, warmup_epochs: how long the rate is `warmup_lr` at first; one epoch at least is left after it.
        cosine: half a cosine from `lr` to 0, by `step` or by `epoch` (CoOp); `off` keeps the rate.
        evaluations: validation measurements at most, spread over the epochs.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float
    epochs: int
    batch: int
    weight_decay: float = 0.0
    momentum: float = 0.9
    eps: float = 1e-8
    warmup_steps: int = 0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    cosine: Literal["step", "epoch", "off"] = "step"
    evaluations: int = EVALUATIONS

    def rate(self, step: int, *, per_epoch: int) -> float:
        """The learning rate of a step, counted from 0."""
        epoch = step // per_epoch
        if step < self.warmup_steps or epoch < min(self.warmup_epochs, self.epochs - 1):
            return self.warmup_lr
        at, last = (epoch, self.epochs) if self.cosine == "epoch" else (step, self.epochs * per_epoch)
        return self.lr if self.cosine == "off" else self.lr * 0.5 * (1 + math.cos(math.pi * at / last))


def epochs_within(images: Images, *, batch: int, most_steps: int, wanted: int | None = None, warmup: int = 1) -> int:
    """Passes over these images: `wanted`, else CoOp's by their shots, or fewer where `most_steps` batches end before.

    Args:
        warmup: epochs at the warm-up's rate; if there are any, one more epoch follows whatever `most_steps` says.
    """
    classic = CLASSIC_EPOCHS[max(k for k in CLASSIC_EPOCHS if k <= mean_shots(images.labels))]
    return max(1 + min(warmup, 1), min(wanted or classic, -(-most_steps // -(-len(images) // batch))))


@dataclass(frozen=True)
class Candidate:
    """One setting to try.

    Attributes:
        learner: makes it at its start values for the examples that it will learn from.
        chosen: the setting, for the records.
    """

    schedule: Schedule
    learner: Callable[[Any], Learner]
    chosen: Info = field(default_factory=dict)


@dataclass
class Trained:
    """A trained candidate: the learner as it was in its best epoch, and how it came to be.

    Attributes:
        epoch: 0 is the start, before any step.
        history: one record an epoch: `epoch`, `lr`, the losses, and what was measured on images to choose by.
        diverged: whether a loss was no number; then it is no choice.
    """

    candidate: Candidate
    learner: Learner
    score: Score = WORST
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    diverged: bool = False

    @property
    def val(self) -> Score | None:
        """The validation score; None where nothing was held out."""
        return self.score if math.isfinite(self.score[1]) else None

    @property
    def info(self) -> Info:
        """What was chosen."""
        return {**self.candidate.chosen, "lr": self.candidate.schedule.lr, "epoch": self.epoch}


class Chosen(Protocol):
    """What a choice is made on: `trainer.data.draws.Selection`, or `trainer.data.pairs.PairSelection`."""

    @property
    def train(self) -> Examples: ...

    @property
    def val(self) -> Examples | None: ...

    @property
    def held_out(self) -> bool: ...


def choose(candidates: Sequence[Candidate], selection: Chosen, *, seed: int) -> Trained:
    """The best candidate on the validation images, or without any the first that does not diverge.

    Raises:
        UserError: every candidate diverges.
    """
    tried = []
    for candidate in candidates:
        tried.append(descend(candidate, selection.train, selection.val, seed=seed))
        if selection.val is None and not tried[-1].diverged:
            break
    return _sound(tried)


def refit(trained: Trained, train: Examples, selection: Chosen, *, seed: int) -> Trained:
    """The choice trained on all shots, up to its best epoch: the same, unless validation images were taken out of them.

    Raises:
        UserError: it diverges.
    """
    if not selection.held_out:
        return trained
    again = _sound([descend(trained.candidate, train, None, seed=seed, stop_after=trained.epoch)])
    again.score = trained.score
    return again


def descend(
    candidate: Candidate, train: Examples, val: Examples | None, *, seed: int, stop_after: int | None = None
) -> Trained:
    """Train one candidate; keeps its best validation epoch, the start among them, or without such images its last."""
    schedule, rng = candidate.schedule, torch.Generator().manual_seed(seed)
    learner = candidate.learner(train)
    trained, optimizer = Trained(candidate, learner), _optimizer(learner, schedule)
    per_epoch = -(-len(train) // schedule.batch)
    every, last = -(-schedule.epochs // schedule.evaluations), schedule.epochs if stop_after is None else stop_after
    if val is not None:
        with torch.no_grad():
            trained.score = learner.measure(val)
    best, step = _copy(learner), 0
    general = General(learner, learner.aligned) if learner.aligned else None
    for epoch in range(1, last + 1):
        sums: dict[str, Tensor] = {}
        for rows in torch.randperm(len(train), generator=rng).split(schedule.batch):  # type: ignore[no-untyped-call]
            rate = schedule.rate(step, per_epoch=per_epoch)
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("share", 1.0) if step % group.get("every", 1) == 0 else 0.0
            optimizer.zero_grad()
            for part in rows.to(train.device).split(learner.most):
                losses = learner.losses(part, train.draw(part, rng), rng)
                if general is not None:
                    general.add(losses["loss_general"] * (len(part) / len(rows)))
                (losses["loss"] * (len(part) / len(rows))).backward()  # type: ignore[no-untyped-call]
                for name, value in losses.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() * len(part)
            if general is not None:
                general.align()
            optimizer.step()
            learner.settle()
        means = {name: float(value) / len(train) for name, value in sums.items()}
        record = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **means}
        trained.history.append(record)
        if not math.isfinite(means["loss"]):
            return Trained(candidate, learner, diverged=True)  # no choice, whatever its first epochs scored
        score, better = trained.score, val is None and epoch == last
        if val is not None and (epoch % every == 0 or epoch == last):
            with torch.no_grad():
                if learner.may_beat(val, trained.score):
                    score = learner.measure(val)
                    record |= dict(zip(learner.measured, (score[0], -score[1]), strict=True))
                    better = learner.rank(score) > learner.rank(trained.score)
        if better:
            trained.score, trained.epoch, best = score, epoch, _copy(learner)
    learner.load_state_dict(best)
    return trained


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


def together(found: Sequence[tuple[Score, float]]) -> Score:
    """The score of several parts, each with its share."""
    accuracy, likelihood = (sum(score[i] * share for score, share in found) for i in range(2))
    return (accuracy, likelihood) if math.isfinite(likelihood) else WORST


def judge(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> Score:
    """How good logits are for choosing by. Values that are no numbers score worst."""
    loss = float(cross_entropy(logits, labels))
    if math.isnan(loss):
        return WORST
    return float((logits.argmax(1) == labels).double().mean()), -loss


def uniform(*shape: int, rng: torch.Generator) -> nn.Parameter:
    """PyTorch's default start of a linear layer, U(-1/sqrt(in), 1/sqrt(in)).

    Drawn on the CPU, so that a seed means the same start on every device.
    """
    return nn.Parameter((torch.rand(*shape, generator=rng) * 2 - 1) / math.sqrt(shape[-1]))


def _sound(tried: Sequence[Trained]) -> Trained:
    sound = [each for each in tried if not each.diverged]
    if not sound:
        rates = ", ".join(str(rate) for rate in dict.fromkeys(each.candidate.schedule.lr for each in tried))
        raise UserError(
            f"training diverged at every learning rate ({rates}): set a lower train.lr or a higher train.tau for AAPE; "
            "for other methods see that the embeddings are those of one encoder (`pipeline verify`)"
        )
    return max(sound, key=lambda each: each.learner.rank(each.score))


def _optimizer(learner: Learner, schedule: Schedule) -> torch.optim.Optimizer:
    groups, decay = learner.groups(), schedule.weight_decay
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=schedule.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=schedule.lr, eps=schedule.eps, weight_decay=decay, fused=True)
