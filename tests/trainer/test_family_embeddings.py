"""The systems of the family that learn the class embeddings themselves: their formulas, and what each is for."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from tests.trainer.small_tasks import small_images, small_task, small_text, unit
from trainer.data import Images
from trainer.methods.family.cones import ConES
from trainer.methods.family.dapt import Dispersed, between, within
from trainer.methods.family.embeddings import Embeddings
from trainer.methods.family.shared import Shared, SharedShift
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Schedule, descend


def test_what_cones_descends_on_is_the_cross_entropy_of_cosines_over_tau() -> None:
    images, start = small_images(3, 4), unit(3, 24, seed=9)
    learner = Embeddings(start, 3, 0.05, images)
    loss = learner.losses(torch.arange(12), images, torch.Generator())["loss"]
    naive = -sum(
        torch.log_softmax(torch.stack([torch.dot(x, w) / torch.linalg.vector_norm(w) / 0.05 for w in start]), dim=0)[
            label
        ]
        for x, label in zip(images.embeddings, images.labels, strict=True)
    ) / len(images)
    torch.testing.assert_close(loss, naive)


def test_cones_finds_classes_that_no_text_encoder_ever_named() -> None:
    task, held = small_task(), small_images(draw=30)
    task = replace(task, text=replace(task.text, template=unit(6, 24, seed=70), is_text=False, prompts=None, mask=None))
    found = ConES().fit(task, seed=1)
    assert isinstance(found, LinearPredictor)
    assert found.info["start"] == "images"
    right = (found.logits(held.embeddings, task.text).argmax(1) == held.labels).double().mean()
    assert float(right) > 0.6


def test_cones_leaves_a_text_that_misleads_behind() -> None:
    task, held = small_task(), small_images(draw=30)
    wrong = replace(task.text, template=task.text.template.roll(1, 0))
    found = ConES().fit(replace(task, text=wrong), seed=1)
    right = (found.logits(held.embeddings, wrong).argmax(1) == held.labels).double().mean()
    assert float(right) > 0.6
    assert cross_entropy(held.embeddings @ normalize(wrong.template, dim=-1).T / 0.05, held.labels) > 3


def test_both_dispersions_are_those_of_pairs_and_of_entries() -> None:
    unit_rows = unit(5, 24, seed=3)
    pairs = [(unit_rows[c] - unit_rows[k]).square().sum() for c in range(5) for k in range(c)]
    torch.testing.assert_close(between(unit_rows), torch.stack([torch.exp(-2 * d) for d in pairs]).mean())
    images, prototypes = unit(7, 24, seed=4), unit(7, 24, seed=5)
    naive = sum(float((images[i, j] - prototypes[i, j]) ** 2) for i in range(7) for j in range(24)) / (7 * 24)
    assert float(within(images, prototypes)) == pytest.approx(naive, rel=1e-5)
    assert float(between(unit_rows[:1])) == 0


def test_dapt_starts_as_zero_shot_and_its_loss_is_the_sum_of_its_terms() -> None:
    task = small_task()
    made = Dispersed(task.text.template, 0.05, 10.0, 100.0, task.train)
    zero_shot = task.train.embeddings @ task.text.template.T / 0.05
    torch.testing.assert_close(made(task.train.embeddings), zero_shot)
    with torch.no_grad():
        made.shift.copy_(0.2 * unit(24, seed=6))
    loss = made.losses(torch.arange(48), task.train, torch.Generator())["loss"]
    moved = normalize(task.train.embeddings + made.shift, dim=-1)
    centres = torch.stack([normalize(task.train.embeddings[task.train.labels == c].mean(0), dim=0) for c in range(6)])
    wanted = cross_entropy(moved @ task.text.template.T / 0.05, task.train.labels) + 10 * between(task.text.template)
    torch.testing.assert_close(loss, wanted + 100 * (moved - centres[task.train.labels]).square().mean())


def test_dapt_spreads_the_classes_and_gathers_the_images_where_plain_descent_does_not() -> None:
    task = small_task()

    def spreads(text_weight: float, image_weight: float) -> tuple[float, float]:
        schedule = Schedule("adam", 1e-2, 30, 48)
        made = Candidate(schedule, partial(Dispersed, task.text.template, 0.05, text_weight, image_weight))
        learner = descend(made, task.train, None, seed=1).learner
        assert isinstance(learner, Dispersed)
        with torch.no_grad():
            shifted = learner.shifted(task.train.embeddings)
            return float(between(learner.unit())), float(within(shifted, learner.prototypes[task.train.labels]))

    plain, both = spreads(0, 0), spreads(10, 100)
    assert both[0] < plain[0]
    assert both[1] < plain[1]


def test_a_shared_shift_moves_all_classes_alike_and_new_ones_too() -> None:
    task = small_task()
    found = SharedShift().fit(task, seed=1)
    x, text = small_images(draw=30).embeddings[:5], small_text(4, seed=50)
    for i in range(5):
        for c in range(4):
            moved = text.template[c] + found.shift
            cosine = float(x[i] @ moved / torch.linalg.vector_norm(moved))
            assert float(found.logits(x, text)[i, c]) == pytest.approx(cosine / found.tau, abs=1e-4)
    assert found.info["n_parameters"] == 24


def test_wrong_labels_pull_less_at_one_shift_than_at_an_embedding_a_class() -> None:
    images, text = small_images(6, 16), small_task().text.template
    wrong = Images(images.embeddings, (images.labels + 1) % 6)
    made = (partial(Shared, text, 0.05), partial(Embeddings, text, 6, 0.05))
    right = []
    for learner in made:
        found = descend(Candidate(Schedule("adam", 1e-2, 30, 96), learner), wrong, None, seed=1).learner
        with torch.no_grad():
            right.append(float((found(images.embeddings).argmax(1) == images.labels).double().mean()))
    assert right[0] > right[1] + 0.2
