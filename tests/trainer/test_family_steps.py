"""ProGrad and the chain of thought: the rule of a step and the generators against naive forms, and their use."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div

from stages.training import TrainParams
from tests.trainer.small_captions import SMALL, some_pairs
from tests.trainer.small_tasks import WIDTH, small_images, small_task, unit
from trainer.aape.captions import CaptionAAPE
from trainer.aape.generator import Chain, Generator, build_generator
from trainer.alignment import General, aligned
from trainer.data import Images
from trainer.data.pairs import CaptionTask
from trainer.methods.aape import AAPEPredictor
from trainer.methods.family.chain import aape_chain
from trainer.methods.family.embeddings import Embeddings
from trainer.methods.family.prograd import Aligned, aape_prograd
from trainer.packing import pack, unpack
from trainer.retrieval import CAPTION_METHODS
from trainer.training import Candidate, Schedule, descend

QUICK = TrainParams.model_validate({"epochs": 8, "aggregator_steps": 5, "lr_grid": [0.02]})


def naive(task: Tensor, general: Tensor, share: float) -> Tensor:
    """The rule entry by entry: nothing where the two agree, else less the shadow of one on the other."""
    length = sum(float(g) ** 2 for g in general.flatten()) ** 0.5
    if length == 0:
        return task
    shadow = sum(float(t) * float(g) / length for t, g in zip(task.flatten(), general.flatten(), strict=True))
    return task if shadow >= 0 else task - share * shadow * general / length


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_the_rule_is_that_of_the_release(share: float, shape: tuple[int, ...]) -> None:
    for draw in range(4):
        task, general = unit(*shape, seed=draw), 3 * unit(*shape, seed=draw + 10)
        for sign in (1, -1):
            torch.testing.assert_close(aligned(task, sign * general, share), naive(task, sign * general, share))
    assert torch.equal(aligned(task, torch.zeros_like(task), share), task)
    assert bool(torch.isfinite(aligned(task, 1e-30 * general, share)).all())


class Two(nn.Module):
    """A weight and a bias, whose rule is their own each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(unit(4, WIDTH)), nn.Parameter(torch.zeros(4))


def test_a_batch_in_parts_is_aligned_as_it_is_at_once_and_tensor_by_tensor() -> None:
    images, wanted = small_images(4, 6), torch.tensor([3, 2, 1, 0]).repeat_interleave(6)

    def gradients(parts: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        learner = Two()
        direction = General(learner, 1.0)
        plain = [torch.zeros_like(p) for p in learner.parameters()]
        for rows in torch.arange(24).split(24 // parts):
            logits = images.embeddings[rows] @ learner.weight.T + learner.bias
            direction.add(cross_entropy(logits, wanted[rows]) / parts)
            (cross_entropy(logits, images.labels[rows]) / parts).backward()
        plain = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
        general = [g for g in direction.sums if g is not None]
        direction.align()
        return [p.grad for p in learner.parameters() if p.grad is not None], plain, general

    whole, plain, general = gradients(1)
    assert len(whole) == 2
    for found, task, way in zip(whole, plain, general, strict=True):
        torch.testing.assert_close(found, aligned(task, way, 1.0))
    assert not torch.equal(whole[0], plain[0]), "labels that are all wrong go against the direction"
    for found, again in zip(whole, gradients(4)[0], strict=True):
        torch.testing.assert_close(found, again)


def test_the_general_direction_is_the_gradient_of_the_divergence_from_zero_shot() -> None:
    task = small_task()
    learner = Aligned(task.text.template, 0.05, 1.0, task.train)
    with torch.no_grad():
        learner.own.add_(0.3 * unit(6, WIDTH, seed=40))
    loss = learner.losses(torch.arange(48), task.train, torch.Generator())["loss_general"]
    (found,) = torch.autograd.grad(loss, [learner.own])
    zero_shot = task.train.embeddings @ task.text.template.T / 0.05
    divergence = kl_div(learner(task.train.embeddings).log_softmax(1), zero_shot.softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, torch.autograd.grad(divergence, [learner.own])[0])


def test_wrong_labels_lead_prograd_less_far_from_zero_shot_than_plain_descent() -> None:
    task = small_task(shots=16)
    wrong = Images(task.train.embeddings, (task.train.labels + 1) % 6)

    def away(share: float) -> float:
        schedule = Schedule("sgd", 1e-4, 12, 16)
        made = Candidate(schedule, lambda images: Aligned(task.text.template, 0.05, share, images))
        learner = descend(made, wrong, None, seed=1).learner
        assert isinstance(learner, Embeddings)
        zero_shot = (wrong.embeddings @ task.text.template.T / 0.05).softmax(1)
        with torch.no_grad():
            return float(kl_div(learner(wrong.embeddings).log_softmax(1), zero_shot, reduction="batchmean"))

    assert away(1.0) < 0.5 * away(0.0)


def test_h_and_g_of_aape_are_aligned_too_and_stay_nearer_to_zero_shot_under_wrong_labels() -> None:
    task = small_task(shots=16, val=False)
    task = replace(task, train=Images(task.train.embeddings, (task.train.labels + 1) % 6))
    images, text = task.train.embeddings, task.text

    def away(align: float) -> float:
        method = aape_prograd(QUICK)
        method = replace(method, settings=method.settings.model_copy(update={"align": align}))
        found = method.fit(replace(task, val=task.train), seed=1)
        zero_shot = found.class_weights(text)[0]
        own = (images @ zero_shot.T / found.tau).softmax(1)
        return float(kl_div(found.logits(images, text).log_softmax(1), own, reduction="batchmean"))

    assert aape_prograd(QUICK).settings.align == 1
    assert away(1.0) < 0.5 * away(0.0)


def chain(steps: int = 3) -> Chain:
    made = build_generator(width=WIDTH, hidden=5, steps=steps, rng=torch.Generator().manual_seed(3))
    assert isinstance(made, Chain)
    with torch.no_grad():
        made.gate.copy_(2 * unit(steps - 1, WIDTH, seed=8))
        made.bias.copy_(torch.linspace(-1, 1, steps - 1))
    return made


def test_a_chain_is_its_steps_one_after_the_other() -> None:
    made, images = chain(), unit(9, WIDTH, seed=2)
    found = made(images)
    for x, own in zip(images, found, strict=True):
        h = torch.zeros(WIDTH)
        for step in range(3):
            read = x if step == 0 else x + h
            generated = made.up[step] @ torch.clamp(made.down[step] @ read, min=0)
            share = 1.0 if step == 0 else 1 / (1 + torch.exp(-(made.gate[step - 1] @ x + made.bias[step - 1])))
            h = (1 - share) * h + share * generated
        torch.testing.assert_close(own, h)


def test_a_chain_whose_later_steps_no_image_takes_is_h_alone_and_one_step_is_the_generator_itself() -> None:
    made, images = chain(), unit(9, WIDTH, seed=2)
    assert isinstance(build_generator(width=WIDTH, hidden=5, steps=1, rng=torch.Generator()), Generator)
    with torch.no_grad():
        made.gate.zero_()
        made.bias.fill_(-60)
    torch.testing.assert_close(made(images), torch.relu(images @ made.down[0].T) @ made.up[0].T)


def test_the_steps_weights_are_learned_and_differ_from_image_to_image() -> None:
    found = aape_chain(QUICK).fit(small_task(shots=1, val=False), seed=1)  # nothing to choose by: the last epoch
    assert isinstance(found, AAPEPredictor)
    h = found.classifier.h
    assert isinstance(h, Chain)
    assert h.gate.shape == (2, WIDTH)
    shares = torch.sigmoid(small_images(draw=30).embeddings @ h.gate.T + h.bias)
    assert float(shares.std(0).min()) > 0
    assert not torch.allclose(shares, torch.tensor(0.5))


@pytest.mark.parametrize("changed", [{"chain": 3}, {"align": 1.0}])
def test_what_they_learn_is_still_better_than_zero_shot_and_serves_new_classes(changed: dict[str, Any]) -> None:
    method = aape_chain(QUICK) if "chain" in changed else aape_prograd(QUICK)
    task, held = small_task(shots=16), small_images(draw=30)
    found = method.fit(task, seed=1)
    weights = found.class_weights(task.text)[0]
    right = (found.logits(held.embeddings, task.text).argmax(1) == held.labels).double().mean()
    assert right >= ((held.embeddings @ weights.T).argmax(1) == held.labels).double().mean()
    renamed = replace(task.text, names=tuple(f"new {i}" for i in range(6)))
    cosines = found.logits(held.embeddings, renamed) * found.tau
    assert float(cosines.abs().max()) <= 1.0001
    assert cosine_similarity(weights, found.class_weights(renamed)[0]).min() > 0.999


def test_in_retrieval_the_chain_is_the_query_and_comes_back_from_a_file() -> None:
    settings = TrainParams.model_validate({"captions": SMALL, "aggregator_steps": 3})
    found = CAPTION_METHODS["aape-chain"](settings).fit(CaptionTask(some_pairs([2] * 24), some_pairs([2] * 6)), seed=1)
    assert isinstance(found, CaptionAAPE)
    assert isinstance(found.h, Chain)
    assert found.h.down.shape == (3, SMALL["hidden"], 16)
    images = unit(4, 16, seed=3)
    torch.testing.assert_close(found.embed(images).norm(dim=1), torch.ones(4))
    assert torch.equal(unpack(*pack(found)).embed(images), found.embed(images))
