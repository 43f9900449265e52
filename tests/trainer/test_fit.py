"""The training loop: equal to a plain one, the same bytes for the same seed, and every choice without a test image."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stages.errors import UserError
from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_images, small_task, unit
from trainer.aape import AAPELearner, Classifier, Learners, PromptTargets, rates, schedule
from trainer.aape import learner as learner_module
from trainer.aape.losses import clip_reward, distillation_loss
from trainer.data import Task
from trainer.methods import aape as aape_module
from trainer.methods.aape import AAPE, VARIANTS, AAPEPredictor
from trainer.text import class_weights
from trainer.training import judge

QUICK = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 6, "lr": 0.1}
)


def changed(**fields: object) -> TrainParams:
    return QUICK.model_copy(update=fields)


def fit(task: Task, settings: TrainParams, *, seed: int) -> AAPEPredictor:
    return AAPE("aape", settings).fit(task, seed=seed)


def plain_loop(task: Task, settings: TrainParams, seed: int, tau: float, source: str) -> dict[str, Tensor]:
    """The paper's training step by step: full-width class weights, p^a made anew for every batch, SGD by hand."""
    made = Classifier(
        width=WIDTH,
        hidden=settings.hidden,
        head=settings.head,
        image=settings.image,
        rng=torch.Generator().manual_seed(seed),
    )
    assert made.h is not None
    assert made.b is not None
    prompts, mask = task.text.require_prompts()
    targets = PromptTargets(settings, prompts=prompts, mask=mask, rng=torch.Generator().manual_seed(seed + 1))
    targets.fit(task.train)
    w = class_weights(task.text, source)
    speed = [torch.zeros_like(p) for p in made.parameters()]
    order = torch.Generator().manual_seed(seed + 2)
    epochs = schedule(settings, task.train, lr=0.1).epochs
    for epoch in range(epochs):
        rate = settings.warmup_lr if epoch == 0 else float(settings.lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for rows in torch.randperm(len(task.train), generator=order).split(settings.batch):
            x, y = task.train.embeddings[rows], task.train.labels[rows]
            h = torch.relu(x @ made.h.down.T) @ made.h.up.T
            full = torch.relu((w @ made.a.T)[None] + (h @ made.b.T)[:, None]) @ made.v.T
            full = full + w if settings.head == "residual" else full
            cosines = torch.einsum("bd,bcd->bc", x, normalize(full, dim=-1))
            p = targets.aggregator(targets.mean[y], prompts[y], mask[y]).detach()
            loss = cross_entropy(cosines / tau, y) + settings.lambda_ * ((h - p) ** 2).sum(-1).mean()
            gradients = torch.autograd.grad(loss, list(made.parameters()))
            with torch.no_grad():
                for (name, parameter), gradient, v in zip(made.named_parameters(), gradients, speed, strict=True):
                    v.mul_(settings.momentum).add_(gradient + settings.weight_decay * parameter)
                    parameter -= rate * (settings.generator_lr if name.startswith("h.") else 1) * v
    return made.state_dict()


@pytest.mark.parametrize("head", ["residual", "literal"])
def test_the_fast_loop_equals_the_plain_one(head: str) -> None:
    # one image a class cannot be held out, so the last epoch of the whole set is what comes back
    whole = small_task()
    task = Task(whole.text, small_images(shots=1), whole.val.take(torch.arange(0)))
    settings = changed(head=head, batch=4, tau=0.05, epochs=20, class_text="template")
    fitted = fit(task, settings, seed=7)
    expected = plain_loop(task, settings, 7, fitted.tau, fitted.class_text)
    for name, value in fitted.classifier.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    start = Classifier(
        width=WIDTH,
        hidden=8,
        head=head,
        image=True,
        rng=torch.Generator().manual_seed(7),  # type: ignore[arg-type]
    )
    assert not torch.allclose(start.v, fitted.classifier.v, atol=1e-2), "nothing was learned, so nothing was compared"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head": "literal"},
        {"head": "none"},
        {"head": "full"},
        {"image": False},
        {"lambda_": 0.0},
        {"detach": False},
        {"query": "image"},
        {"query": "mean+image"},
        {"aggregator": "mlp"},
        {"aggregator": "random"},
        {"distill": "cosine"},
        {"distill_by": "class"},
        {"distill_prompts": "another"},
        {"distill_prompts": "random"},
        {"tau": "learnt"},
        {"dropout": 0.3},
        {"batch": 0},
        {"optimizer": "adamw", "lr": 0.01},
    ],
)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(fields: dict[str, object]) -> None:
    task, settings = small_task(), changed(**fields)
    first, again, other = (fit(task, settings, seed=seed).classifier.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_it_learns_more_than_zero_shot_knows() -> None:
    task, held = vague_task(), small_images(classes=10, shots=20, draw=30)
    fitted = fit(task, changed(epochs="auto", class_text="template"), seed=1)
    weights = class_weights(task.text, fitted.class_text)
    before = float(((held.embeddings @ weights.T).argmax(1) == held.labels).float().mean())
    after = float((fitted.classifier(held.embeddings, weights).argmax(1) == held.labels).float().mean())
    assert after > before + 0.05
    assert fitted.history[-1]["loss_task"] < fitted.history[0]["loss_task"]


def test_without_distillation_the_prompts_change_nothing() -> None:
    task = small_task()
    bare = replace(task, text=replace(task.text, prompts=None, mask=None))
    settings = changed(lambda_=0.0, class_text="template")
    first, second = (fit(each, settings, seed=1).classifier.state_dict() for each in (task, bare))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_distillation_draws_h_towards_the_prompts() -> None:
    task = small_task()
    far, near = (
        fit(task, changed(lambda_=value, generator_lr=1.0), seed=1).history[-1]["loss_distill"] for value in (1e-6, 5.0)
    )
    assert near < 0.7 * far


def test_the_lower_rate_of_the_generator_bears_a_large_weight_of_distillation() -> None:
    task = small_task(classes=10, shots=16)
    steep = changed(epochs="auto", lr=0.3, lambda_=12.0)  # from 7 on one of the two diverges, from 30 on both
    with pytest.raises(UserError, match="training diverged"):
        fit(task, steep.model_copy(update={"generator_lr": 1.0}), seed=1)
    assert "val_accuracy" in fit(task, steep, seed=1).info


def test_detached_targets_take_no_gradient_and_joined_ones_do() -> None:
    task = small_task()
    detached, joined = (fit(task, changed(detach=value), seed=1) for value in (True, False))
    assert detached.history[-1]["loss_distill"] != joined.history[-1]["loss_distill"]
    assert "reward_end" in detached.info
    assert "reward_end" not in joined.info


def vague_task() -> Task:
    """Its template says little, so there is much to learn from images."""
    task = small_task(classes=10, shots=16)
    vague = normalize(task.text.template + 2 * unit(10, WIDTH, seed=77), dim=-1)
    return replace(task, text=replace(task.text, template=vague))


def test_the_rate_and_the_epoch_come_from_validation_images() -> None:
    settings = changed(lr="auto", lr_grid=[1e-6, 0.1], class_text="template", epochs=20)
    fitted = fit(vague_task(), settings, seed=1)
    assert fitted.info["lr"] == pytest.approx(0.1 * (fitted.tau / 0.05) ** 2)
    assert fitted.info["selection"] == "validation images, at most 4 a class"
    assert 1 <= int(fitted.info["epoch"]) <= 20


@pytest.mark.parametrize("name", ["aape", "aape-no-distill", "aape-no-image"])
def test_what_every_epoch_makes_worse_ends_at_zero_shot(name: str) -> None:
    """The shots are labelled wrongly, so whatever is learned of them is wrong of the images to choose by."""
    task = small_task()
    wrong = replace(task, train=replace(task.train, labels=(task.train.labels + 1) % 6))
    fitted = AAPE.variant(name, changed(class_text="template", tau=0.05)).fit(wrong, seed=1)
    assert fitted.info["epoch"] == 0
    assert float(fitted.info["val_accuracy"]) == judge(task.val.embeddings @ task.text.template.T, task.val.labels)[0]
    torch.testing.assert_close(
        fitted.logits(task.val.embeddings, task.text), task.val.embeddings @ task.text.template.T / 0.05
    )


@pytest.mark.parametrize("grid", [[1e-3, 0.1], [0.1, 1e-3]])
def test_rates_that_are_right_of_equally_many_images_are_told_apart_by_likelihood(grid: list[float]) -> None:
    task = vague_task()
    one = replace(task, val=task.val.take(torch.arange(0, len(task.val), 4)))
    settings = changed(lr="auto", epochs=20, class_text="template", tau=0.05)
    fitted = fit(one, settings.model_copy(update={"lr_grid": grid}), seed=1)
    alone = [fit(one, settings.model_copy(update={"lr_grid": [lr]}), seed=1).info for lr in grid]
    best = min(alone, key=lambda info: float(info["val_loss"]))
    assert (fitted.info["lr"], fitted.info["epoch"]) == (best["lr"], best["epoch"])


@pytest.mark.parametrize("tau", [0.01, 0.05])
def test_h_is_drawn_to_the_prompts_as_fast_in_a_space_of_another_temperature(tau: float) -> None:
    settings = TrainParams.model_validate({"lr_grid": [0.1]})
    (lr,) = rates(settings, tau=tau)
    shares = [group["share"] for group in learner_of(small_task(), settings, tau=tau).groups() if "share" in group]
    assert [share * lr for share in shares] == pytest.approx([0.1 * 0.1])
    assert rates(settings.model_copy(update={"head": "none"}), tau=tau) == [0.1]
    fixed = settings.model_copy(update={"lr": 0.1})
    assert [group.get("share", 1.0) for group in learner_of(small_task(), fixed, tau=tau).groups()] == [1.0, 0.1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_rate_of_the_grid_moves_the_logits_alike_whatever_the_temperature(optimizer: str) -> None:
    settings = TrainParams.model_validate({"optimizer": optimizer, "lr_grid": [1e-3]})
    task, moved = small_task(), []
    for tau in (0.02, 0.04):
        learner = learner_of(task, settings.model_copy(update={"lambda_": 0.0}), tau=tau)
        before = learner(task.val.embeddings)
        (step,) = torch.autograd.grad(before.sum(), [learner.classifier.v])
        (lr,) = rates(settings, tau=tau)
        with torch.no_grad():
            learner.classifier.v -= 1e-2 * lr * (step.sign() if optimizer == "adamw" else step)
            moved.append(float((learner(task.val.embeddings) - before).abs().mean()))
    assert moved[0] == pytest.approx(moved[1], rel=0.05)


def test_shots_that_were_held_out_are_learned_too() -> None:
    task = small_task(val=False)
    task = replace(task, val=task.val.take(torch.arange(0)))
    fitted = fit(task, changed(lr="auto"), seed=3)
    assert "held out" in str(fitted.info["selection"])
    assert len(fitted.history) == fitted.info["epoch"]


def test_a_single_shot_without_validation_takes_the_defaults_and_says_so() -> None:
    task = replace(small_task(), train=small_images(shots=1), val=small_task().val.take(torch.arange(0)))
    fitted = fit(task, changed(lr="auto", lr_grid=[0.03, 0.1], tau=0.05), seed=3)
    assert fitted.info["lr"] == 0.03
    assert "defaults" in str(fitted.info["selection"])


def test_a_rate_that_diverges_loses_and_if_all_do_one_line_says_so() -> None:
    task = small_task()
    fitted = fit(task, changed(lr="auto", lr_grid=[0.05, 1e30], tau=0.05), seed=1)
    assert fitted.info["lr"] == 0.05
    with pytest.raises(UserError, match=r"diverged at every learning rate \(1e\+30\): set a lower train.lr"):
        fit(task, changed(lr=1e30), seed=1)


def test_the_schedule_is_coops() -> None:
    settings, few = TrainParams(max_steps=10**6), small_images(shots=1)
    made = schedule(settings, few, lr=0.002)
    rates = [made.rate(step, per_epoch=1) for step in range(50)]
    assert rates[0] == 1e-5
    assert rates[1] == pytest.approx(0.002, rel=2e-3)
    assert all(later < earlier for earlier, later in pairwise(rates[1:]))
    epochs = [schedule(settings, small_images(shots=shots), lr=1.0).epochs for shots in (1, 2, 4, 8, 16)]
    assert epochs == [50, 100, 100, 200, 200]


@pytest.mark.parametrize("warmup", [0, 1, 10**5])
def test_the_most_steps_bind_whatever_the_warm_up(warmup: int) -> None:
    images = small_images(shots=16)  # 96 images: 3 batches
    made = schedule(TrainParams(warmup_epochs=warmup), images, lr=0.1)
    assert made.epochs == math.ceil(500 / 3)
    assert made.rate(3 * made.epochs - 1, per_epoch=3) != made.warmup_lr, "nothing but a warm-up"
    assert schedule(TrainParams(warmup_epochs=warmup, max_steps=1), images, lr=0.1).epochs == (2 if warmup else 1)


def test_losses_are_what_the_paper_writes() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert float(distillation_loss(a, b, "squared")) == pytest.approx((4 + 4) / 2)
    assert float(distillation_loss(a, b, "cosine")) == pytest.approx((0 + 2) / 2)
    assert float(clip_reward(normalize(a, dim=-1), b, 2.5)) == pytest.approx(2.5 * (1 + 0) / 2)


def learner_of(task: Task, settings: TrainParams, *, tau: float = 0.05) -> AAPELearner:
    """In the midst of learning; p^a is the mean of the prompts."""
    learner = Learners(task.text, class_weights(task.text, "template"), tau, settings, 0)(task.train)
    with torch.no_grad():
        learner.classifier.v += 0.3 * unit(*learner.classifier.v.shape, seed=3)
    return learner


def test_a_batch_that_is_added_up_from_parts_gives_the_same_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    task, settings = small_task(), changed(batch=20)
    whole = fit(task, settings, seed=1)
    monkeypatch.setattr(learner_module, "STEP_ENTRIES", 3 * 6 * 8)  # 20 images are added up from parts of 3
    parts = fit(task, settings, seed=1)
    for name, value in parts.classifier.state_dict().items():
        torch.testing.assert_close(value, whole.classifier.state_dict()[name], atol=2e-5, rtol=1e-4)
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)


def test_a_class_weight_that_vanishes_stops_no_step() -> None:
    """Every hidden entry is dead, so the literal head makes zeros: their norm is a constant, not a division by zero."""
    task = small_task()
    learner = learner_of(task, changed(head="literal", lambda_=0.0))
    with torch.no_grad():
        learner.classifier.a.zero_()
        learner.classifier.h.down.zero_()  # type: ignore[union-attr]
    loss = learner.losses(torch.arange(len(task.train)), task.train, torch.Generator())["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(float(loss.detach()))
    found = [p.grad for p in learner.classifier.parameters() if p.grad is not None]
    assert found
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found)


def test_a_learnt_temperature_moves_and_stays_above_clips_own_bound() -> None:
    task = small_task()
    fixed, learnt = (fit(task, changed(tau=tau, epochs=20), seed=1) for tau in ("auto", "learnt"))
    assert learnt.tau != fixed.tau
    assert learnt.tau >= 0.01
    assert learnt.info["tau"] == learnt.tau
    one_hot = replace(task, train=replace(task.train, embeddings=task.text.template[task.train.labels]))
    assert fit(one_hot, changed(tau="learnt", epochs=40, lr=0.2), seed=1).tau >= 0.01 * (1 - 1e-6)


def test_a_batch_of_zero_takes_the_whole_set_in_each_step() -> None:
    task = small_task()
    whole, large = (fit(task, changed(batch=batch), seed=1).classifier.state_dict() for batch in (0, 10_000))
    assert all(torch.equal(whole[name], large[name]) for name in whole)


def test_distillation_by_class_draws_the_mean_of_a_class_and_not_each_image() -> None:
    task = small_task(shots=2)
    learner = learner_of(task, changed(distill_by="class", batch=0, aggregator="mean"))
    found = learner.losses(torch.arange(len(task.train)), task.train, torch.Generator())["loss_distill"]
    h = learner.classifier.generate(task.train.embeddings)
    assert h is not None
    means = h.reshape(6, 2, WIDTH).mean(1)
    expected = (means - task.text.prompt_mean()).square().sum(-1).mean()
    torch.testing.assert_close(found, expected)


def test_a_target_that_is_the_image_itself_is_noted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    task = small_task()
    settings = changed(query="image", aggregator_steps=30, aggregator_lr=1e-2)
    learner_module.say_once.cache_clear()
    for seed in (1, 1):
        info = fit(task, settings, seed=seed).info
        assert float(info["cos_x_pa"]) > 0.9
        assert "the image itself" in str(info["note"])
    assert capsys.readouterr().err.count("\n") == 1
    assert "note" not in fit(task, QUICK, seed=1).info


def test_a_joint_aggregator_is_recorded_too() -> None:
    info = fit(small_task(), changed(detach=False), seed=1).info
    assert -1 <= float(info["cos_x_pa"]) <= 1


def test_running_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(aape_module, "choose", none_left)
    with pytest.raises(
        UserError, match=r"out of memory on cpu: lower train.batch \(now 32\) or train.hidden \(now 8\)"
    ):
        AAPE.variant("aape", QUICK).fit(small_task(), seed=1)


def test_an_error_that_is_none_of_memory_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(aape_module, "choose", broken)
    with pytest.raises(RuntimeError, match="something else"):
        AAPE.variant("aape", QUICK).fit(small_task(), seed=1)


STUDIED: list[dict[str, object]] = [
    {"head": "full", "lr_grid": [0.02, 0.005]}, {"aggregator": "mean"}, {"aggregator": "mlp"},
    {"aggregator": "random"}, {"query": "image"}, {"query": "mean+image"}, {"detach": False}, {"tau": "learnt"},
    {"distill_prompts": "another"}, {"distill_prompts": "random"}, {"distill_by": "class", "batch": 0},
    {"optimizer": "adamw", "lr_grid": [3e-3, 1e-3, 3e-4]},
]  # fmt: skip
"""Settings of the recipes in `studies/`, on top of which plain AAPE is fitted."""


@pytest.mark.parametrize(("name", "fields"), [*((name, {}) for name in VARIANTS), *(("aape", f) for f in STUDIED)])
def test_every_variant_learns_something_and_serves_classes_it_never_saw(name: str, fields: dict[str, object]) -> None:
    task = small_task()
    fitted = AAPE.variant(name, changed(lr="auto", epochs=5, **fields)).fit(task, seed=1)
    assert fitted.history
    others = small_task(classes=9, seed=50).text
    logits = fitted.logits(unit(4, WIDTH, seed=9), others)
    assert logits.shape == (4, 9)
    assert torch.isfinite(logits).all()


def test_a_head_that_does_not_start_at_zero_shot_gets_the_steps_it_needs() -> None:
    plain, full = (AAPE.variant("aape", changed(head=head)).settings.max_steps for head in ("residual", "full"))
    assert (plain, full) == (500, 2000)
