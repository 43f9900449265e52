"""A run of AAPE against the plain loop: seconds, and the accuracy that both reach on unseen images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from stages.training import TrainParams
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.steps import build_steps
from trainer.bench.generated import made_task
from trainer.bench.plain import plain_training
from trainer.bench.rows import Row, Sizes, in_turn, wait
from trainer.data import Images, Task
from trainer.text import class_weights

TAU, RATE, HEADS = 0.05, 0.1, 4
TRIAL = 5
"""Steps by which the reference finds out whether one thread or all of them serve it better."""


class _Contest:
    """Both forms on one task, from the same start values."""

    def __init__(self, task: Task, settings: TrainParams, measured: int) -> None:
        self.task, self.settings, self.measured = task, settings, measured
        self.weights = class_weights(task.text, "template")
        self.threads = torch.get_num_threads()
        self.fast, self.plain = self.classifier(), self.classifier()

    def classifier(self) -> Classifier:
        """h and g at their start values."""
        generator = torch.Generator().manual_seed(1)
        made = Classifier(
            width=self.weights.shape[1], hidden=self.settings.hidden, head="residual", image=True, generator=generator
        )
        return made.to(self.weights.device)

    def aggregated(self) -> Float[Tensor, "M D"]:
        """p^a of each image."""
        prompts, mask = self.task.text.require_prompts()
        targets = PromptTargets(self.settings, prompts=prompts, mask=mask, generator=torch.Generator().manual_seed(2))
        targets.fit(self.task.train)
        return targets.constant(self.task.train)

    def timed_aggregation(self) -> float:
        """Seconds of `aggregated`."""
        start = time.perf_counter()
        wait(self.aggregated().device)
        return time.perf_counter() - start

    def run_fast(self, constant: Float[Tensor, "M D"]) -> None:
        """As `trainer run` trains on a CPU: one thread, so that fits can stand side by side."""
        torch.set_num_threads(1)
        train, order = self.task.train, torch.Generator().manual_seed(0)
        self.fast = self.classifier()
        steps = build_steps(self.fast, train, constant, self.weights, TAU, self.settings)
        left = self.measured * self.settings.batch
        while left > 0:
            rows = torch.randperm(len(train), generator=order)[:left].to(self.weights.device)
            steps.epoch(rows, RATE)
            left -= len(rows)
        wait(self.weights.device)

    def run_plain(self) -> None:
        """The plain loop, with as many threads as serve it best."""
        torch.set_num_threads(self.threads)
        self.plain = self.classifier()
        for _ in islice(plain_training(self.task, self.plain, self.weights, TAU, self.settings), self.measured):
            pass
        wait(self.weights.device)

    def choose_threads(self) -> None:
        """One thread or all of them, whichever makes the plain loop faster here."""
        found = {}
        for threads in {1, self.threads}:
            torch.set_num_threads(threads)
            steps = plain_training(self.task, self.classifier(), self.weights, TAU, self.settings)
            next(steps)
            start = time.perf_counter()
            for _ in islice(steps, TRIAL):
                pass
            found[threads] = time.perf_counter() - start
        self.threads = min(found, key=lambda threads: found[threads])

    def accuracy(self, classifier: Classifier, images: Images) -> float:
        """Share of right answers."""
        with torch.no_grad():
            right = classifier(images.embeddings, self.weights).argmax(1) == images.labels
        return float(right.float().mean())


def training_rows(sizes: Sizes, width: int, device: torch.device) -> Iterator[Row]:
    """Seconds of a run, milliseconds of a step, and the accuracy after the steps that were measured."""
    task, unseen = made_task(
        classes=sizes.classes, shots=sizes.shots, prompts=sizes.prompts, width=width, device=device
    )
    settings = TrainParams.model_validate({"lr": RATE, "tau": TAU, "heads": HEADS, "head_width": width // HEADS})
    contest, threads = _Contest(task, settings, sizes.measured), torch.get_num_threads()
    try:
        contest.choose_threads()
        torch.set_num_threads(1)
        constant = contest.aggregated()  # the first one also loads what torch's optimisers need
        aggregating = statistics.median(contest.timed_aggregation() for _ in range(sizes.runs))
        fast, plain = in_turn(lambda: contest.run_fast(constant), contest.run_plain, runs=sizes.runs)
    finally:
        torch.set_num_threads(threads)
    fast, plain = fast / sizes.measured, plain / sizes.measured
    whole = aggregating + sizes.steps * fast
    yield Row.of(f"training, {sizes.steps} steps, D={width}", whole, sizes.steps * plain, "s", less_is_better=True)
    yield Row.of(f"training step, D={width}", 1e3 * fast, 1e3 * plain, "ms", less_is_better=True)
    ours, reference = contest.accuracy(contest.fast, unseen), contest.accuracy(contest.plain, unseen)
    yield Row.of(f"accuracy after {sizes.measured} steps, D={width}", ours, reference, "fraction")
