"""Sizes of the benchmark and its rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.command import table

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sizes:
    """What is measured on.

    Attributes:
        classes, shots, prompts: of the training run; images a class, prompts a class.
        widths: D, one training run each.
        steps: length of a run, in steps of 32 images.
        measured: least number of steps that are really taken, in whole epochs; times are extrapolated from them.
        images, evaluated: images and classes of the evaluation, at the first width.
        rows: embeddings in the store that is loaded, at the first width.
        pairs: images with five captions each of the epoch of AAPE from captions.
        retrieved: images of the retrieval, with five captions each.
        streamed: captions of the gallery that is read in tiles.
        runs: repetitions; the median counts.
        methods: that are fitted beside logistic regression.
        llm: the language model that writes captions.
        written: how many it writes.
    """

    classes: int = 100
    shots: int = 16
    prompts: int = 50
    widths: tuple[int, ...] = (512, 1280)
    steps: int = 5000
    measured: int = 60
    images: int = 50_000
    evaluated: int = 1_000
    rows: int = 500_000
    pairs: int = 10_000
    retrieved: int = 1_000
    streamed: int = 100_000
    runs: int = 3
    methods: tuple[str, ...] = ("lp++", "aape-plus", "aape", "tip-adapter")
    llm: str = "smollm2"
    written: int = 64


@dataclass(frozen=True)
class Ratio:
    """One line of the table.

    Attributes:
        ratio: how many times better ours is than the reference, whether more or less is better.
        unit: of `ours` and `reference`.
    """

    name: str
    ours: float
    reference: float
    ratio: float
    unit: str

    @classmethod
    def of(cls, name: str, ours: float, reference: float, unit: str, *, less_is_better: bool = False) -> Ratio:
        """The ratio of two figures."""
        ratio = reference / ours if less_is_better else ours / reference
        return cls(name, round(ours, 4), round(reference, 4), round(ratio, 3), unit)


PARTS = ("evaluation", "training", "captions", "retrieval", "loading")
"""What is measured, in this order: memory first, while nothing else has asked for any."""
METHODS, SPEAKING, TEST_TIME = "methods", "speaking", "test-time"
"""Parts that are measured where they are asked for by name."""


def as_text(rows: Sequence[Ratio]) -> str:
    """The rows as a table."""
    headers = ("name", "ours", "reference", "ratio", "unit")
    return table(headers, [(r.name, f"{r.ours:.4g}", f"{r.reference:.4g}", f"{r.ratio:.3g}", r.unit) for r in rows])


def in_turn(ours: Callable[[], None], reference: Callable[[], None], *, runs: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn after one run of each that does not count."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs + 1):
        for work, seconds in zip((ours, reference), found, strict=True):
            start = time.perf_counter()
            work()
            if turn:
                seconds.append(time.perf_counter() - start)
    return statistics.median(found[0]), statistics.median(found[1])


def wait(device: torch.device) -> None:
    """Let a GPU finish, so that a clock may be read."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
