"""The classes' own residuals: the closed form, what new classes keep, and when there are none."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.aape.classifier import Classifier
from trainer.aape.classwise import Residuals
from trainer.data import Images, Task
from trainer.methods.aape import AAPE, AAPEPredictor

QUICK = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 6, "tau": 0.05}
)


def vague_task(*, shots: int = 16) -> Task:
    """Its text says little, so that each class has much of its own to learn."""
    task = small_task(classes=10, shots=shots)
    vague = normalize(task.text.template + 2 * unit(10, WIDTH, seed=77), dim=-1)
    return replace(task, text=replace(task.text, template=vague, prompts=None, mask=None))


def fit(name: str, task: Task, **fields: object) -> AAPEPredictor:
    settings = QUICK.model_copy(update={"lambda_": 0.0, **fields})
    return AAPE.variant(name, settings).fit(task, seed=1)


def learned(*, image: bool = True) -> Classifier:
    """In the midst of learning."""
    made = Classifier(width=WIDTH, hidden=8, head="residual", image=image, rng=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.v += 0.3 * unit(WIDTH, 8, seed=3)
    return made.requires_grad_(False)


def plain(made: Classifier, x: Tensor, w: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """x . w_c(x) and ||w_c(x)||^2 in full width."""
    inner = w @ made.a.T
    if made.h is not None and made.b is not None:
        inner = inner[None] + (made.h(x) @ made.b.T)[:, None]
    full = w + own + torch.relu(inner) @ made.v.T
    full = full.expand(len(x), *w.shape)
    return (x[:, None] * full).sum(-1), full.square().sum(-1)


@pytest.mark.parametrize("image", [True, False])
def test_a_class_weight_is_text_and_own_residual_and_what_g_adds(image: bool) -> None:
    made, x, w, own = (
        learned(image=image),
        unit(300, WIDTH, seed=5),
        unit(9, WIDTH, seed=6),
        0.4 * unit(9, WIDTH, seed=7),
    )
    dot, square = plain(made, x, w, own)
    found = made.parts(x, w, w + own)
    torch.testing.assert_close(found[0], dot, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], square, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made(x, w, w + own), dot / square.sqrt(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shots", [2, 9])
def test_the_closed_form_is_the_ridge_regression_of_what_g_leaves_over(shots: int) -> None:
    """Fewer images than entries of an embedding, and more."""
    images, w, made = small_images(shots=shots), unit(6, WIDTH, seed=6), learned()
    x = images.embeddings.double()
    left = torch.eye(6)[images.labels] - (made(images.embeddings, w) / 0.1).softmax(1)
    expected = 3 * (1 + 0.7) * 0.1 * x.T @ torch.linalg.solve(x @ x.T + 0.7 * torch.eye(len(x)), left.double())
    torch.testing.assert_close(Residuals(images, made, w, 0.1)(0.7, 3.0), expected.T.float(), atol=1e-5, rtol=1e-4)


def test_a_class_of_its_own_is_learned_better_and_new_classes_keep_the_residual_of_g_alone() -> None:
    task, held = vague_task(), small_images(classes=10, shots=20, draw=30)
    without, with_own = fit("aape", task), fit("aape-classwise", task)
    right = [
        float((each.logits(held.embeddings, task.text).argmax(1) == held.labels).double().mean())
        for each in (without, with_own)
    ]
    assert right[1] > right[0] + 0.02
    assert float(with_own.info["val_loss"]) < float(without.info["val_loss"])
    assert float(with_own.info["multiple"]) > 0
    new = replace(small_text(5, seed=9), names=tuple(f"new {i}" for i in range(5)))
    assert torch.equal(with_own.logits(held.embeddings, new), without.logits(held.embeddings, new))


def test_a_fitted_class_has_its_residual_wherever_it_stands_among_others() -> None:
    task, x = vague_task(), unit(7, WIDTH, seed=8)
    fitted = fit("aape-classwise", task)
    whole = fitted.logits(x, task.text)
    some = task.text.select([7, 2])
    torch.testing.assert_close(fitted.logits(x, some), whole[:, [7, 2]], atol=1e-5, rtol=1e-5)


def test_shots_that_are_labelled_wrongly_give_no_residual() -> None:
    task = small_task()
    wrong = replace(task, train=replace(task.train, labels=(task.train.labels + 1) % 6))
    fitted = fit("aape-classwise", wrong, class_text="template")
    assert (fitted.info["epoch"], fitted.info["multiple"]) == (0, 0)
    x = task.val.embeddings
    torch.testing.assert_close(fitted.logits(x, task.text), x @ task.text.template.T / 0.05)


def test_without_an_image_to_choose_by_the_usual_residual_is_taken_and_of_held_out_shots_all_are_used() -> None:
    none = small_images(shots=1).take(torch.arange(0))
    one = fit("aape-classwise", replace(small_task(), train=small_images(shots=1), val=none))
    assert (one.info["strength"], one.info["multiple"]) == (1.0, 4.0)
    assert "val_loss" not in one.info
    task = replace(vague_task(shots=8), val=none)
    held = fit("aape-classwise", task)
    again = Residuals(task.train, held.classifier, held.class_weights(task.text)[0], held.tau)
    assert held.own is not None
    torch.testing.assert_close(held.own, again(float(held.info["strength"]), float(held.info["multiple"])))


def test_views_and_classes_of_one_image_stop_nothing() -> None:
    task = small_task(shots=3)
    keep = (task.train.labels != 1) | (torch.arange(len(task.train)) == 3)
    views = normalize(task.train.embeddings[:, None] + 0.3 * unit(len(task.train), 2, WIDTH, seed=8), dim=-1)
    train = Images(task.train.embeddings, task.train.labels, views).take(keep.nonzero()[:, 0])
    fitted = fit("aape-classwise", replace(task, train=train))
    assert torch.isfinite(fitted.logits(task.val.embeddings, task.text)).all()
