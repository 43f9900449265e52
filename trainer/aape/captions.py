"""AAPE from captions: an image's own captions are its reference prompts, h is fitted with the symmetric CLIP loss.

Aggregator (eq. 1), CLIP reward, h (section 3.3) and L_distill (eq. 2) are those of classes; only the task loss is
another one, and there is no g: h(x) itself is matched with text. `fit_captions` is the whole of it.

Choices where the paper is silent: all captions of an image are in its step; those of one image are never negatives of
each other, and every image has the same weight however many captions it has. The aggregator is trained before h, as for
classes, and p^a is then constant. The size of h, the batch and the schedule are `train.captions`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.training import TrainParams
from trainer.aape.aggregator import IMAGE_CHUNK, build_aggregator, climb, query_of
from trainer.aape.generator import Chain, Generator, build_generator
from trainer.aape.losses import clip_reward, distillation_loss, symmetric_clip_loss
from trainer.data import check_width
from trainer.data.pairs import CaptionTask, PairBatch, Pairs, select_pairs
from trainer.text import TAU_RANGE
from trainer.training import WORST, Candidate, Info, Learner, Schedule, Score, Trained, choose, refit

TAU_IMAGES = 512
"""Training images that tau is calibrated on."""
LOSS_BATCH = 256
"""Images of a batch in which the loss on images to choose by is measured, whatever the training's batch is."""


@dataclass
class CaptionAAPE:
    """h, fitted on captions: no caption and no aggregator is needed any more.

    Attributes:
        h: the generator.
        width: D of the encoder's space.
        tau: the temperature of the cosines that it was trained with.
        settings: `train:`.
        history: one record an epoch.
        info: what was chosen.
    """

    h: Generator | Chain
    width: int
    tau: float
    settings: TrainParams
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def embed(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The captioning embedding h(x) of unit images, as unit rows.

        Raises:
            UserError: the images have another width.
        """
        check_width(x.shape[1], self.width, "the images are", "h was fitted on")
        generated: Tensor = self.h(x.float())
        return normalize(generated, dim=-1)


class CaptionTargets:
    """p^a of images, of their own captions: the aggregator and the query that the settings ask for.

    Args:
        rng: source of the start values, and of the batches that the reward is climbed on.
    """

    def __init__(self, settings: TrainParams, *, width: int, device: torch.device, rng: torch.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.aggregator = build_aggregator(settings, width=width, rng=rng).to(device)

    def __call__(self, batch: PairBatch) -> Float[Tensor, "B D"]:
        """p^a of these images."""
        prompts, mask = batch.padded()
        of_image: Tensor = self.aggregator(query_of(self.settings, batch.mean(), batch.images), prompts, mask)
        return of_image

    def fit(self, pairs: Pairs) -> list[float]:
        """Train the aggregator on the CLIP reward; returns the reward of each step."""

        def reward() -> Tensor:
            batch = pairs.batch(torch.randperm(len(pairs), generator=self.rng)[:IMAGE_CHUNK])
            return clip_reward(batch.images, self(batch), self.settings.reward_scale)

        return climb(self.aggregator, self.settings, reward, steps=self.settings.aggregator_steps)

    @torch.no_grad()
    def constant(self, pairs: Pairs) -> Float[Tensor, "B D"]:
        """p^a of every image as a constant in float16, as embeddings are stored."""
        self.aggregator.eval()
        return torch.cat([self(batch).half() for batch in pairs.batches(IMAGE_CHUNK)])


class CaptionLearner(Learner):
    """h in training.

    Args:
        h: at its start values.
        tau: softmax temperature, or where a learnt one starts; like CLIP's own it is held above 0.01.
        targets: p^a of each training image as a constant, an aggregator that learns beside h, or None: no L_distill.
        settings: losses, and what is learned.
    """

    measured: ClassVar[tuple[str, str]] = ("val_likelihood", "val_loss")

    def __init__(
        self,
        h: Generator | Chain,
        tau: float,
        targets: CaptionTargets | Float[Tensor, "M D"] | None,
        settings: TrainParams,
    ) -> None:
        super().__init__()
        self.h, self.targets, self.settings, self.start = h, targets, settings, tau
        log_scale = torch.tensor(-math.log(tau), device=h.up.device)
        self.log_scale = nn.Parameter(log_scale, requires_grad=settings.tau == "learnt")
        self.aggregator = targets.aggregator if isinstance(targets, CaptionTargets) else None

    @property
    def tau(self) -> float:
        """The temperature as it now is."""
        return math.exp(-float(self.log_scale.detach())) if self.log_scale.requires_grad else self.start

    def groups(self) -> list[dict[str, Any]]:
        """h and the aggregator, and the temperature without decay."""
        learned = [*self.h.parameters(), *([] if self.aggregator is None else self.aggregator.parameters())]
        groups: list[dict[str, Any]] = [{"params": learned}]
        if self.log_scale.requires_grad:
            groups.append({"params": [self.log_scale], "weight_decay": 0.0})
        return groups

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """h(x) as unit rows."""
        generated: Tensor = self.h(images)
        return normalize(generated, dim=-1)

    def losses(self, rows: Int[Tensor, " B"], batch: PairBatch, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """lambda L_distill + L_task, less the CLIP reward of an aggregator that learns beside h; and the first two."""
        settings = self.settings
        generated = self.h(batch.images)
        task = symmetric_clip_loss(normalize(generated, dim=-1), batch.captions, batch.owner, self.log_scale.exp())
        distill = reward = task.new_zeros(())
        if isinstance(self.targets, CaptionTargets):
            target = self.targets(batch)
            reward = clip_reward(batch.images, target, settings.reward_scale)
            distill = distillation_loss(generated, target, settings.distill)
        elif self.targets is not None:
            distill = distillation_loss(generated, self.targets[rows].float(), settings.distill)
        loss = task + settings.lambda_ * distill - settings.reward_weight * reward
        return {"loss": loss, "loss_task": task, "loss_distill": distill}

    def measure(self, val: Pairs) -> Score:
        """See `pair_score`."""
        return pair_score(self.forward, val, self.tau)

    @torch.no_grad()
    def settle(self) -> None:
        """CLIP's own bound of the temperature."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(max=-math.log(TAU_RANGE[0]))


@torch.no_grad()
def pair_score(query: Callable[[Tensor], Tensor], pairs: Pairs, tau: float) -> Score:
    """How good queries are on images to choose by: the mean probability of the right pair, by the symmetric CLIP loss.

    R@1 is what is judged, but of a few dozen images it is nearly 1 whatever is chosen; the loss tells more.

    Args:
        query: unit images -> unit queries.

    Returns:
        exp(-loss), and minus the loss.
    """
    likelihood = 0.0
    for batch in pairs.batches(LOSS_BATCH):
        loss = symmetric_clip_loss(query(batch.images), batch.captions, batch.owner, 1 / tau)
        likelihood -= float(loss) * len(batch.images) / len(pairs)
    return (math.exp(likelihood), likelihood) if math.isfinite(likelihood) else WORST


@torch.no_grad()
def calibrate_pair_tau(pairs: Pairs, *, seed: int) -> float:
    """The temperature in TAU_RANGE at which the raw cosines of some training images have the least CLIP loss."""
    rows = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:TAU_IMAGES]
    batch = pairs.batch(rows)
    low, high = (math.log(bound) for bound in TAU_RANGE)
    taus = [math.exp(low + (high - low) * i / 40) for i in range(41)]
    losses = [float(symmetric_clip_loss(batch.images, batch.captions, batch.owner, 1 / tau)) for tau in taus]
    return round(taus[losses.index(min(losses))], 6)


def fit_captions(
    task: CaptionTask, settings: TrainParams, *, seed: int, start: CaptionAAPE | None = None
) -> CaptionAAPE:
    """Learn the aggregator and h on images with captions; the same seed gives the same h.

    Args:
        start: h of elsewhere to go on from; None starts anew.

    Raises:
        UserError: every learning rate diverges.
    """
    return fit_captions_twice(task, settings, seed=seed, start=start)[1]


def fit_captions_twice(
    task: CaptionTask, settings: TrainParams, *, seed: int, start: CaptionAAPE | None = None
) -> tuple[CaptionAAPE, CaptionAAPE]:
    """The h that the settings were chosen with, which has not seen the images to choose by, and that of `fit_captions`.

    The two are the same where no training image had to be held out.
    """
    began = time.perf_counter()
    selection = select_pairs(task, seed=seed)
    width, device = task.train.images.width, task.device
    tau = settings.tau if isinstance(settings.tau, float) else calibrate_pair_tau(task.train, seed=seed)
    notes: Info = {}
    made: list[tuple[Pairs, Tensor]] = []

    def targets(pairs: Pairs) -> CaptionTargets | Tensor | None:
        if settings.lambda_ == 0:
            return None
        found = CaptionTargets(settings, width=width, device=device, rng=torch.Generator().manual_seed(seed + 1))
        if not settings.detach:
            return found
        if not made or made[0][0] is not pairs:  # constant: once for all candidates
            rewards = found.fit(pairs)
            if rewards:
                notes.update(reward_start=rewards[0], reward_end=rewards[-1])
            made[:] = [(pairs, found.constant(pairs))]
        return made[0][1]

    def learner(pairs: Pairs) -> CaptionLearner:
        rng = torch.Generator().manual_seed(seed)
        h = build_generator(width=width, hidden=settings.captions.hidden, steps=settings.chain, rng=rng).to(device)
        if start is not None:
            h.load_state_dict(start.h.state_dict())
        return CaptionLearner(h, tau, targets(pairs), settings)

    grid = settings.captions.lr_grid if settings.lr == "auto" else [settings.lr]
    candidates = [Candidate(caption_schedule(settings, len(task.train), lr=lr), learner) for lr in grid]
    chosen = choose(candidates, selection, seed=seed + 2)

    def fitted(trained: Trained) -> CaptionAAPE:
        own = trained.learner
        assert isinstance(own, CaptionLearner)
        val = {} if trained.val is None else {"val_likelihood": trained.val[0], "val_loss": -trained.val[1]}
        info: Info = {
            **trained.info, **notes, **val, "tau": own.tau, "selection": selection.note,
            "n_parameters": sum(each.numel() for each in own.h.parameters()),
            "fit_seconds": time.perf_counter() - began,
        }  # fmt: skip
        return CaptionAAPE(own.h.requires_grad_(False).eval(), width, own.tau, settings, trained.history, info)

    before = fitted(chosen)
    return before, fitted(refit(chosen, task.train, selection, seed=seed + 2)) if selection.held_out else before


def caption_schedule(settings: TrainParams, images: int, *, lr: float) -> Schedule:
    """The schedule on so many images: a warm-up epoch, then half a cosine."""
    asked = settings.captions
    batch = min(asked.batch, images)
    most = max(1 + min(settings.warmup_epochs, 1), asked.max_steps // -(-images // batch))
    return Schedule(
        asked.optimizer,
        lr,
        min(most, asked.epochs),
        batch,
        weight_decay=asked.weight_decay,
        momentum=settings.momentum,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        cosine="step",
    )
