"""One rule draws shots, validation images and held-out images, on any device the same."""

from dataclasses import replace

import torch

from tests.trainer.small_tasks import small_images, small_task
from trainer.data.draws import select, shuffled, split_off


def test_images_are_split_off_class_by_class_by_seed_in_their_old_order() -> None:
    images = small_images(shots=5)
    drawn, rest = split_off(images, 2, seed=1)
    assert torch.bincount(drawn.labels).tolist() == [2] * 6
    assert torch.bincount(rest.labels).tolist() == [3] * 6
    assert drawn.labels.tolist() == sorted(drawn.labels.tolist())
    assert torch.equal(drawn.embeddings, split_off(images, 2, seed=1)[0].embeddings)
    assert not torch.equal(drawn.embeddings, split_off(images, 2, seed=2)[0].embeddings)
    both = torch.cat([drawn.embeddings, rest.embeddings])
    assert {tuple(row) for row in both.tolist()} == {tuple(row) for row in images.embeddings.tolist()}


def test_the_images_of_a_class_are_drawn_whatever_other_classes_hold() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 2, 0])
    one, other = shuffled(labels, 4, seed=1), shuffled(labels[labels == 2], 4, seed=1)
    assert [sorted(rows.tolist()) for rows in one] == [[1, 4, 6], [], [0, 2, 3, 5], []]
    assert [[0, 2, 3, 5].index(row) for row in one[2].tolist()] == other[2].tolist()


def test_validation_images_are_never_more_than_the_shots_nor_than_four_a_class() -> None:
    for shots, count in ((1, 1), (2, 2), (8, 4)):
        task = replace(small_task(shots=shots), val=small_images(shots=9, draw=20))
        found = select(task, seed=1)
        assert found.val is not None
        assert torch.bincount(found.val.labels).tolist() == [count] * 6
        assert found.train is task.train
        assert not found.held_out


def test_without_validation_images_a_quarter_of_the_shots_is_held_out() -> None:
    for shots, count in ((2, 1), (8, 2), (40, 4)):
        task = small_task(shots=shots)
        found = select(replace(task, val=task.val.take(torch.arange(0))), seed=3)
        assert found.val is not None
        assert found.held_out
        assert torch.bincount(found.val.labels).tolist() == [count] * 6
        assert torch.bincount(found.train.labels).tolist() == [shots - count] * 6


def test_one_shot_without_validation_images_leaves_nothing_to_choose_by() -> None:
    task = small_task(shots=1)
    found = select(replace(task, val=task.val.take(torch.arange(0))), seed=3)
    assert found.val is None
    assert "defaults" in found.note


def test_a_class_without_validation_images_gives_some_of_its_shots_so_that_no_choice_is_made_on_others_alone() -> None:
    task = small_task(shots=8)
    some = task.val.take((task.val.labels == 2).nonzero()[:, 0])
    found = select(replace(task, val=some), seed=3)
    assert found.val is not None
    assert found.held_out
    counts = torch.bincount(found.val.labels, minlength=6).tolist()
    assert counts[2] == min(4, len(some))
    assert counts[:2] + counts[3:] == [2] * 5
    assert torch.bincount(found.train.labels).tolist() == [6] * 6, "a class with more would be favoured by the choice"
    held = {tuple(row) for row in found.val.embeddings.tolist()}
    assert not held & {tuple(row) for row in found.train.embeddings.tolist()}
    assert found.note == (
        "2 of the training images of 5 of 6 classes held out by seed, as many of the others set aside, "
        "then fitted again on all"
    )
    one = select(replace(small_task(shots=1), val=some), seed=3)
    assert one.val is None
    assert "no validation image of 5 of 6 classes" in one.note
