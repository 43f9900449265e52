"""A run of AAPE against the plain loop: seconds, and the accuracy that both reach on unseen images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from stages.training import TrainParams
from trainer.aape import AAPELearner, Classifier, Learners, schedule
from trainer.bench.generated import made_task
from trainer.bench.plain import plain_training
from trainer.bench.rows import Ratio, Sizes, in_turn, wait
from trainer.data import Images, Task
from trainer.text import class_weights
from trainer.training import Candidate, descend

TAU, RATE, HEADS = 0.05, 0.1, 4
TRIAL = 5
"""Steps by which the reference finds out whether one thread or all of them serve it better."""


class _Contest:
    """Both forms on one task, from the same start values."""

    def __init__(self, task: Task, settings: TrainParams, measured: int) -> None:
        self.task, self.settings = task, settings
        self.weights = class_weights(task.text, "template")
        self.learners = Learners(task.text, self.weights, TAU, settings, seed=1)
        self.schedule = schedule(settings, task.train, lr=RATE)
        per_epoch = -(-len(task.train) // self.schedule.batch)
        self.epochs = -(-measured // per_epoch)
        self.measured = self.epochs * per_epoch
        self.threads = torch.get_num_threads()
        self.fast, self.plain = self.classifier(), self.classifier()

    def classifier(self) -> Classifier:
        """h and g at their start values."""
        return self.learners(self.task.train).classifier

    def timed_aggregation(self) -> float:
        """Seconds that p^a takes."""
        start = time.perf_counter()
        Learners(self.task.text, self.weights, TAU, self.settings, seed=1)(self.task.train)
        wait(self.weights.device)
        return time.perf_counter() - start

    def run_fast(self) -> None:
        """As `trainer run` trains on a CPU: one thread, so that fits can stand side by side."""
        torch.set_num_threads(1)
        candidate = Candidate(replace(self.schedule, cosine="off", warmup_epochs=0), self.learners)
        learner = descend(candidate, self.task.train, None, seed=0, stop_after=self.epochs).learner
        assert isinstance(learner, AAPELearner)
        self.fast = learner.classifier
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


def training_rows(sizes: Sizes, width: int, device: torch.device) -> Iterator[Ratio]:
    """Seconds of a run, milliseconds of a step, and the accuracy after the steps that were measured."""
    task, unseen = made_task(
        classes=sizes.classes, shots=sizes.shots, prompts=sizes.prompts, width=width, device=device
    )
    settings = TrainParams.model_validate({"lr": RATE, "tau": TAU, "heads": HEADS, "head_width": width // HEADS})
    contest, threads = _Contest(task, settings, sizes.measured), torch.get_num_threads()
    try:
        contest.choose_threads()
        torch.set_num_threads(1)
        contest.timed_aggregation()  # the first one also loads what torch's optimisers need
        aggregating = statistics.median(contest.timed_aggregation() for _ in range(sizes.runs))
        fast, plain = in_turn(contest.run_fast, contest.run_plain, runs=sizes.runs)
    finally:
        torch.set_num_threads(threads)
    fast, plain = fast / contest.measured, plain / contest.measured
    whole = aggregating + sizes.steps * fast
    yield Ratio.of(f"training, {sizes.steps} steps, D={width}", whole, sizes.steps * plain, "s", less_is_better=True)
    yield Ratio.of(f"training step, D={width}", 1e3 * fast, 1e3 * plain, "ms", less_is_better=True)
    ours, reference = contest.accuracy(contest.fast, unseen), contest.accuracy(contest.plain, unseen)
    yield Ratio.of(f"accuracy after {contest.measured} steps, D={width}", ours, reference, "fraction")
