"""How long and how fast AAPE is trained (section 4.1, "follows CoOp"): SGD, batches of 32, a warm-up epoch, cosine."""

from __future__ import annotations

from stages.training import TrainParams
from trainer.data import Images
from trainer.training import Schedule, epochs_within


def distills(settings: TrainParams) -> bool:
    """Whether L_distill, and with it the prompts, has a part in training."""
    return settings.image and settings.lambda_ > 0


def generator_share(settings: TrainParams, *, tau: float) -> float:
    """Learning rate of h in units of lr; h that is the query itself (`head: none`) is all there is to learn.

    What L_distill sends back knows no temperature. Where the rate follows it, h's does not: else h would stand still in
    a space whose tau is small.
    """
    if settings.head == "none":
        return 1.0
    return settings.generator_lr / (_scale(settings, tau) if settings.lr == "auto" else 1.0)


REFERENCE_TAU = 0.05
"""The temperature that `lr_grid` is written for: about that of the `lite` space."""


def rates(settings: TrainParams, *, tau: float) -> list[float]:
    """Peak learning rates to try: `lr` as it is, or those of `lr_grid` as this temperature needs them.

    Logits are cosines over tau, and so is their gradient: a step of plain descent moves them by lr / tau^2, one of
    AdamW, whose steps know no scale, by lr / tau. That move is what a rate of the grid fixes, in any encoder's space.
    Head `none` has h alone to learn, most of it from L_distill, which knows no temperature: its rates stay as they are.
    """
    if settings.lr != "auto":
        return [settings.lr]
    return [lr * _scale(settings, tau) for lr in settings.lr_grid]


def _scale(settings: TrainParams, tau: float) -> float:
    return 1.0 if settings.head == "none" else (tau / REFERENCE_TAU) ** (2 if settings.optimizer == "sgd" else 1)


def schedule(settings: TrainParams, images: Images, *, lr: float) -> Schedule:
    """The schedule on these images: CoOp's epochs, or as many as `max_steps` allows."""
    batch = min(settings.batch or len(images), len(images))
    wanted = None if settings.epochs == "auto" else settings.epochs
    return Schedule(
        settings.optimizer,
        lr,
        epochs_within(images, batch=batch, most_steps=settings.max_steps, wanted=wanted, warmup=settings.warmup_epochs),
        batch,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        warmup_epochs=settings.warmup_epochs,
        warmup_lr=settings.warmup_lr,
        cosine="epoch",
    )
