"""What every method costs (table 7 of the paper): parameters, operations, images a second, seconds of training.

The head alone is measured. The encoder that made the embeddings comes before it, is the same for every method, and
costs far more than any head here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stages.command import table
from stages.numbers import Shots
from stages.params import Params
from stages.stores.artifacts import NO_LLM
from trainer.aape import build_aggregator, distills
from trainer.data import ClassText, Task
from trainer.data.draws import few_shot
from trainer.data.features import Features
from trainer.methods import Method, Predictor
from trainer.methods.aape import AAPE
from trainer.runs.able import able_methods

BATCH = 256
"""Images of the measured batch."""
TURNS = 5
"""Timed calls; the median counts."""


@dataclass(frozen=True)
class Cost:
    """One line of the table.

    Attributes:
        parameters: learned numbers that inference needs, as the method counts them.
        training_parameters: learned numbers of the aggregator, which inference does without.
        flops_image: floating-point operations for one more image of a batch.
        flops_call: operations of a call whatever the number of images (the text side).
        images_per_second: of the head, on a batch of BATCH.
        train_seconds: one fit, choices on validation images included.
    """

    method: str
    parameters: int
    training_parameters: int
    flops_image: int
    flops_call: int
    images_per_second: float
    train_seconds: float


def costs(
    features: Features, params: Params, *, method_names: Sequence[str], shots: Shots, seed: int
) -> Iterator[Cost]:
    """The cost of each method, as it is fitted. Training images alone are read.

    Raises:
        UserError: an unknown name, or a class with fewer images than shots.
    """
    train, val = few_shot(features, shots, seed=seed, up_to=params.evaluation.up_to)
    images = features.train.images.embeddings
    batch = images[torch.arange(BATCH, device=images.device) % len(images)].float()
    for method in able_methods(features, method_names, settings=params.train)[0]:
        source = (features.sources or (NO_LLM,))[0] if method.uses_prompts else NO_LLM
        text = features.text[source]
        start = time.perf_counter()
        predictor = method.fit(Task(text, train, val), seed=seed)
        _wait(features.device)
        seconds = time.perf_counter() - start
        of_image, of_call = flops(predictor, batch, text)
        yield Cost(
            method=method.name,
            parameters=int(predictor.info.get("n_parameters", 0)),
            training_parameters=aggregator_parameters(method, features.width),
            flops_image=of_image,
            flops_call=of_call,
            images_per_second=round(speed(predictor, batch, text), 1),
            train_seconds=round(seconds, 3),
        )


def aggregator_parameters(method: Method, width: int) -> int:
    """Learned numbers of the aggregator that the method trains."""
    if not isinstance(method, AAPE) or not distills(method.settings):
        return 0
    aggregator = build_aggregator(method.settings, width=width, rng=torch.Generator())
    return sum(parameter.numel() for parameter in aggregator.parameters())


def flops(predictor: Predictor, batch: Tensor, text: ClassText) -> tuple[int, int]:
    """Operations of one more image, and of a call without images.

    `torch.utils.flop_counter` counts matrix products, two operations a multiply-add; sums, exponentials and comparisons
    are not counted. Two batches, one half of the other, tell the two apart.
    """
    half = len(batch) // 2
    whole, part = _counted(predictor, batch[: 2 * half], text), _counted(predictor, batch[:half], text)
    return (whole - part) // half, 2 * part - whole


def _counted(predictor: Predictor, batch: Tensor, text: ClassText) -> int:
    with FlopCounterMode(display=False) as counter:
        predictor.logits(batch, text)
    return int(counter.get_total_flops())


def speed(predictor: Predictor, batch: Tensor, text: ClassText) -> float:
    """Images a second, median of TURNS calls after one that does not count."""
    found = []
    for turn in range(TURNS + 1):
        start = time.perf_counter()
        predictor.logits(batch, text)
        _wait(batch.device)
        if turn:
            found.append(time.perf_counter() - start)
    return len(batch) / statistics.median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cost_table(rows: Sequence[Cost]) -> str:
    """The rows as a table."""
    headers = ("method", "parameters", "aggregator", "FLOPs/image", "FLOPs/call", "images/s", "training (s)")
    return table(
        headers,
        [
            (r.method, r.parameters, r.training_parameters, r.flops_image, r.flops_call, f"{r.images_per_second:.0f}",
             f"{r.train_seconds:.2f}")
            for r in rows
        ],
    )  # fmt: skip


def caption(features: Features, *, shots: str, seed: int) -> str:
    """What the table speaks of."""
    return (
        f"{features.dataset}: {len(features.class_names)} classes, width {features.width}, {shots}, seed {seed}, "
        f"batch {BATCH}, {features.device.type}, {torch.get_num_threads()} threads. Heads alone: the encoder "
        f"{features.encoder} comes before them and costs the same for all. FLOPs are those of matrix products; a call "
        "does the text side once. The aggregator is needed for training alone."
    )
