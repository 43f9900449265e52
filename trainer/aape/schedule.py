"""How long and how fast AAPE is trained (section 4.1, "follows CoOp"): SGD, batches of 32, a warm-up epoch, cosine."""

from __future__ import annotations

from stages.training import TrainParams
from trainer.data import Images
from trainer.training import Schedule, epochs_within


def distills(settings: TrainParams) -> bool:
    """Whether L_distill, and with it the prompts, has a part in training."""
    return settings.image and settings.lambda_ > 0


def generator_share(settings: TrainParams) -> float:
    """Learning rate of h in units of lr; h that is the query itself (`head: none`) is all there is to learn."""
    return 1.0 if settings.head == "none" else settings.generator_lr


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
