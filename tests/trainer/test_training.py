"""The one loop of descent: published schedules, every choice on validation images, and one line where all diverge."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.errors import UserError
from tests.trainer.small_tasks import WIDTH, small_images, small_task
from trainer.data import Images
from trainer.data.draws import Selection, select
from trainer.training import EVALUATIONS, Candidate, Learner, Schedule, choose, descend, judge, refit

TASK = small_task()
SELECTION = Selection(TASK.train, TASK.val, False, "")


class Line(Learner):
    """A linear classifier from a random start."""

    def __init__(self, images: Images, power: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1)))
        self.power = power

    def forward(self, images: Tensor) -> Tensor:
        return (images @ self.weight.T) ** self.power


def candidate(lr: float = 0.05, epochs: int = 25, *, power: int = 1) -> Candidate:
    return Candidate(Schedule("adam", lr, epochs, 16), lambda images: Line(images, power), {"power": power})


def test_a_schedule_by_step_warms_up_for_an_epoch_and_then_falls_as_half_a_cosine() -> None:
    made = Schedule("sgd", 0.2, epochs=10, batch=32, warmup_epochs=1)
    assert made.rate(4, per_epoch=5) == 1e-5
    assert made.rate(25, per_epoch=5) == pytest.approx(0.1)
    assert made.rate(49, per_epoch=5) < 0.001


def test_a_schedule_by_epoch_keeps_its_rate_within_an_epoch() -> None:
    made = Schedule("sgd", 0.2, epochs=10, batch=32, cosine="epoch")
    assert len({made.rate(step, per_epoch=5) for step in range(50)}) == 10
    assert made.rate(5 * 5, per_epoch=5) == pytest.approx(0.1)


def test_the_epoch_that_is_kept_is_the_best_that_was_measured() -> None:
    found = descend(candidate(), TASK.train, TASK.val, seed=1)
    measured = [record for record in found.history if "val_accuracy" in record]
    assert len(measured) <= EVALUATIONS
    best = max(measured, key=lambda record: (record["val_accuracy"], -record["val_loss"]))
    assert (found.epoch, found.score) == (best["epoch"], (best["val_accuracy"], -best["val_loss"]))
    with torch.no_grad():
        assert judge(found.learner(TASK.val.embeddings), TASK.val.labels) == pytest.approx(found.score)


def test_a_start_that_is_best_on_validation_images_is_kept_and_is_no_divergence() -> None:
    found = choose([candidate(0.0), candidate(1e30, power=3)], SELECTION, seed=1)
    assert (found.epoch, found.diverged) == (0, False)
    assert torch.equal(found.learner.weight, Line(TASK.train).weight)  # type: ignore[arg-type]
    again = refit(found, TASK.train, replace(SELECTION, held_out=True), seed=1)
    assert (again.epoch, again.history) == (0, [])
    assert torch.equal(again.learner.weight, found.learner.weight)  # type: ignore[arg-type]


def test_of_two_scores_the_more_accurate_wins_or_the_likelier_where_the_learner_says_so() -> None:
    right, sure = (0.9, -2.0), (0.8, -1.0)
    learner = Line(TASK.train)
    assert max([right, sure], key=learner.rank) == right
    learner.by_likelihood = True  # type: ignore[misc]
    assert max([right, sure], key=learner.rank) == sure
    assert max([(0.7, -1.0), sure], key=learner.rank) == sure


def test_many_validation_images_are_judged_in_parts_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = descend(candidate(), TASK.train, TASK.val, seed=1).score
    monkeypatch.setattr("trainer.training.CHUNK", 7)
    assert descend(candidate(), TASK.train, TASK.val, seed=1).score == pytest.approx(whole)


def test_the_candidate_with_the_best_validation_score_is_chosen() -> None:
    found = choose([candidate(1e-7), candidate(0.05)], SELECTION, seed=1)
    assert found.info["lr"] == 0.05


def test_without_validation_images_the_first_that_does_not_diverge_is_taken_to_its_last_epoch() -> None:
    blind = replace(SELECTION, val=None)
    found = choose([candidate(1e30, power=3), candidate(1e-7), candidate(0.05)], blind, seed=1)
    assert found.info == {"power": 1, "lr": 1e-7, "epoch": 25}
    assert found.val is None


def test_what_was_chosen_on_held_out_shots_is_trained_again_on_all_of_them() -> None:
    task = replace(TASK, val=TASK.val.take(torch.arange(0)))
    selection = select(task, seed=3)
    chosen = choose([candidate()], selection, seed=1)
    again = refit(chosen, task.train, selection, seed=1)
    assert (again.epoch, again.score) == (chosen.epoch, chosen.score)
    assert len(again.history) == chosen.epoch
    assert not torch.equal(again.learner.weight, chosen.learner.weight)  # type: ignore[arg-type]
    assert refit(chosen, task.train, SELECTION, seed=1) is chosen


def test_a_rate_that_diverges_is_not_chosen_and_all_that_diverge_are_one_line() -> None:
    wild, calm = candidate(1e30, 5, power=3), candidate(0.01, 5, power=3)
    assert choose([wild, calm], SELECTION, seed=1).info["lr"] == 0.01
    with pytest.raises(UserError, match=r"training diverged at every learning rate \(1e\+30\): ") as caught:
        choose([wild], SELECTION, seed=1)
    assert "\n" not in str(caught.value)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = (descend(candidate(), TASK.train, None, seed=seed).learner.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_a_group_moves_at_its_share_of_the_rate_and_only_at_every_nth_step() -> None:
    class Two(Line):
        def __init__(self, images: Images) -> None:
            super().__init__(images)
            self.bias = nn.Parameter(torch.zeros(6))
            self.met: list[float] = []

        def groups(self) -> list[dict[str, object]]:
            return [{"params": [self.weight], "share": 0.5}, {"params": [self.bias], "every": 3, "momentum": 0.0}]

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + self.bias

        def settle(self) -> None:
            self.met.append(float(self.bias.detach().abs().sum()))

    images = small_images(shots=1)
    made = Candidate(Schedule("sgd", 1.0, 7, len(images), cosine="off"), Two)
    found = descend(made, images, None, seed=1)
    assert found.history[0]["lr"] == 0.5
    met = found.learner.met
    assert met[0] == met[1] == 0  # type: ignore[index]
    assert len(set(met)) == 3  # type: ignore[arg-type]
