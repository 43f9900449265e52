"""The systems of the family that learn the class embeddings themselves: their formulas, and what each is for."""

from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy, normalize

from tests.trainer.small_tasks import small_images, small_task, unit
from trainer.methods.family.cones import ConES, Searched
from trainer.methods.linear import LinearPredictor


def test_what_cones_descends_on_is_the_cross_entropy_of_cosines_over_tau() -> None:
    images, start = small_images(3, 4), unit(3, 24, seed=9)
    learner = Searched(start, 3, 0.05, images)
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
