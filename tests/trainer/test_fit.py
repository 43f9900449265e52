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
from trainer.aape import fit as fit_module
from trainer.aape import fused
from trainer.aape.aggregator import PromptTargets
from trainer.aape.classifier import Classifier
from trainer.aape.fit import fit, learning_rate
from trainer.aape.fused import FusedSteps, can_fuse
from trainer.aape.losses import clip_reward, distillation_loss
from trainer.aape.steps import AutogradSteps, Steps
from trainer.data import Task
from trainer.methods import aape as aape_module
from trainer.methods.aape import AAPE, STUDIES, VARIANTS
from trainer.selection import split_for_selection
from trainer.text import class_weights

QUICK = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 6, "lr": 0.1}
)


def changed(**fields: object) -> TrainParams:
    return QUICK.model_copy(update=fields)


def plain_loop(task: Task, settings: TrainParams, seed: int, tau: float, source: str) -> dict[str, Tensor]:
    """The paper's training step by step: full-width class weights, p^a made anew for every batch, SGD by hand."""
    made = Classifier(
        width=WIDTH,
        hidden=settings.hidden,
        head=settings.head,
        image=settings.image,
        generator=torch.Generator().manual_seed(seed),
    )
    assert made.h is not None
    assert made.b is not None
    prompts, mask = task.text.require_prompts()
    targets = PromptTargets(settings, prompts=prompts, mask=mask, generator=torch.Generator().manual_seed(seed + 1))
    targets.fit(task.train)
    w = class_weights(task.text, source)
    speed = [torch.zeros_like(p) for p in made.parameters()]
    order = torch.Generator().manual_seed(seed + 2)
    epochs = settings.epochs_for(1, math.ceil(len(task.train) / settings.batch))
    for epoch in range(1, epochs + 1):
        rate = learning_rate(epoch, epochs, peak=float(settings.lr), settings=settings)
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
        generator=torch.Generator().manual_seed(7),  # type: ignore[arg-type]
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
    task, held = small_task(classes=10, shots=16), small_images(classes=10, shots=20, draw=30)
    vague = normalize(task.text.template + 2 * unit(10, WIDTH, seed=77), dim=-1)
    task = replace(task, text=replace(task.text, template=vague))
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
    steep = changed(epochs="auto", lr=0.3, lambda_=5.0)
    with pytest.raises(UserError, match="training diverged"):
        fit(task, steep.model_copy(update={"generator_lr": 1.0}), seed=1)
    assert "val_accuracy" in fit(task, steep, seed=1).info


def test_detached_targets_take_no_gradient_and_joined_ones_do() -> None:
    task = small_task()
    detached, joined = (fit(task, changed(detach=value), seed=1) for value in (True, False))
    assert detached.history[-1]["loss_distill"] != joined.history[-1]["loss_distill"]
    assert "reward_end" in detached.info
    assert "reward_end" not in joined.info


def test_the_rate_and_the_epoch_come_from_validation_images() -> None:
    task = small_task()
    fitted = fit(task, changed(lr="auto", lr_grid=[1e-6, 0.1]), seed=1)
    assert fitted.info["lr"] == 0.1
    assert fitted.info["selection"] == "validation split, at most 4 images a class"
    assert 1 <= int(fitted.info["epoch"]) <= 6


def test_without_a_validation_split_shots_are_held_out_and_then_learned_too() -> None:
    task = small_task(val=False)
    task = replace(task, val=task.val.take(torch.arange(0)))
    split = split_for_selection(task, seed=3)
    assert split.val is not None
    assert split.held_out
    assert torch.bincount(split.val.labels).tolist() == [2] * 6
    assert torch.bincount(split.train.labels).tolist() == [6] * 6
    fitted = fit(task, changed(lr="auto"), seed=3)
    assert "held out" in str(fitted.info["selection"])
    assert len(fitted.history) == fitted.info["epoch"]


def test_a_single_shot_without_validation_takes_the_defaults_and_says_so() -> None:
    task = replace(small_task(), train=small_images(shots=1), val=small_task().val.take(torch.arange(0)))
    fitted = fit(task, changed(lr="auto", lr_grid=[0.03, 0.1]), seed=3)
    assert fitted.info["lr"] == 0.03
    assert "defaults" in str(fitted.info["selection"])


def test_a_rate_that_diverges_loses_and_if_all_do_one_line_says_so() -> None:
    task = small_task()
    fitted = fit(task, changed(lr="auto", lr_grid=[0.05, 1e30]), seed=1)
    assert fitted.info["lr"] == 0.05
    with pytest.raises(UserError, match=r"diverged at every learning rate \(1e\+30\): set a lower train.lr"):
        fit(task, changed(lr=1e30), seed=1)


def test_the_schedule_is_coops() -> None:
    settings = TrainParams()
    rates = [learning_rate(epoch, 50, peak=0.002, settings=settings) for epoch in range(1, 51)]
    assert rates[0] == 1e-5
    assert rates[1] == pytest.approx(0.002, rel=2e-3)
    assert all(later < earlier for earlier, later in pairwise(rates[1:]))
    assert [settings.epochs_for(shots, 1) for shots in (1, 2, 4, 8, 16)] == [50, 100, 100, 200, 200]
    assert settings.epochs_for(16, 50) == 10, "500 batches at most"


def test_losses_are_what_the_paper_writes() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert float(distillation_loss(a, b, "squared")) == pytest.approx((4 + 4) / 2)
    assert float(distillation_loss(a, b, "cosine")) == pytest.approx((0 + 2) / 2)
    assert float(clip_reward(normalize(a, dim=-1), b, 2.5)) == pytest.approx(2.5 * (1 + 0) / 2)


def steps_of(task: Task, settings: TrainParams, made: type[FusedSteps] | type[AutogradSteps]) -> Steps:
    """Steps on all training images; p^a is the mean of the prompts, or nothing where lambda is 0."""
    classifier = Classifier(
        width=WIDTH,
        hidden=settings.hidden,
        head=settings.head,
        image=True,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        classifier.v += 0.3 * unit(*classifier.v.shape, seed=3)
    constant = task.text.prompt_mean()[task.train.labels] if settings.distills else None
    return made(classifier, task.train, constant, class_weights(task.text, "template"), 0.05, settings)


@pytest.mark.parametrize("head", ["residual", "literal"])
@pytest.mark.parametrize("lambda_", [0.0, 5.0])
@pytest.mark.parametrize(("batch", "entries"), [(7, 10**6), (0, 10**6), (20, 3 * 6 * 8)])
def test_the_written_out_step_equals_autograd_in_losses_and_every_parameter(
    monkeypatch: pytest.MonkeyPatch, head: str, lambda_: float, batch: int, entries: int
) -> None:
    monkeypatch.setattr(fused, "STEP_ENTRIES", entries)  # the last: 20 images are added up from parts of 3
    task, settings = small_task(), changed(head=head, lambda_=lambda_, batch=batch)
    fast, slow = (steps_of(task, settings, made) for made in (FusedSteps, AutogradSteps))
    for epoch in range(6):
        order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(epoch))
        assert fast.epoch(order, 0.05) == pytest.approx(slow.epoch(order, 0.05), rel=1e-4)
    for name, value in fast.classifier.state_dict().items():
        torch.testing.assert_close(value, slow.classifier.state_dict()[name], atol=2e-5, rtol=1e-4)


def test_a_class_weight_that_vanishes_stops_no_step() -> None:
    """Every hidden entry is dead, so the literal head makes zeros: their norm is a constant, not a division by zero."""
    task, settings = small_task(), changed(head="literal", lambda_=0.0)
    for made in (FusedSteps, AutogradSteps):
        steps = steps_of(task, settings, made)
        with torch.no_grad():
            steps.classifier.a.zero_()
            steps.classifier.h.down.zero_()  # type: ignore[union-attr]
        assert all(math.isfinite(loss) for loss in steps.epoch(torch.arange(len(task.train)), 0.05))
        assert all(bool(torch.isfinite(p).all()) for p in steps.classifier.parameters())


def test_only_what_the_written_out_step_computes_is_given_to_it() -> None:
    yes: list[dict[str, object]] = [{}, {"head": "literal"}, {"lambda_": 0.0}, {"lambda_": 0.0, "distill": "cosine"}]
    no: list[dict[str, object]] = [
        {"head": "none"}, {"head": "full"}, {"image": False}, {"optimizer": "adamw"}, {"tau": "learnt"},
        {"detach": False}, {"distill": "cosine"}, {"distill_by": "class"},
    ]  # fmt: skip
    assert all(can_fuse(changed(**fields)) for fields in yes)
    assert not any(can_fuse(changed(**fields)) for fields in no)


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
    task, settings = small_task(shots=2), changed(distill_by="class", batch=0)
    steps = steps_of(task, settings, AutogradSteps)
    assert isinstance(steps, AutogradSteps)
    _, found, _ = steps.losses(torch.arange(len(task.train)))
    h = steps.classifier.generate(task.train.embeddings)
    assert h is not None
    means = h.reshape(6, 2, WIDTH).mean(1)
    expected = (means - task.text.prompt_mean()).square().sum(-1).mean()
    torch.testing.assert_close(found, expected)


def test_a_target_that_is_the_image_itself_is_noted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    task = small_task()
    settings = changed(query="image", aggregator_steps=30, aggregator_lr=1e-2)
    fit_module._say_once.cache_clear()
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

    monkeypatch.setattr(aape_module, "fit", none_left)
    with pytest.raises(
        UserError, match=r"out of memory on cpu: lower train.batch \(now 32\) or train.hidden \(now 8\)"
    ):
        AAPE.variant("aape", QUICK).fit(small_task(), seed=1)


def test_an_error_that_is_none_of_memory_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(aape_module, "fit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        AAPE.variant("aape", QUICK).fit(small_task(), seed=1)


@pytest.mark.parametrize("name", [*VARIANTS, *STUDIES])
def test_every_variant_learns_something_and_serves_classes_it_never_saw(name: str) -> None:
    task = small_task()
    fitted = AAPE.variant(name, changed(lr="auto", epochs=5)).fit(task, seed=1)
    assert fitted.history
    others = small_task(classes=9, seed=50).text
    logits = fitted.logits(unit(4, WIDTH, seed=9), others)
    assert logits.shape == (4, 9)
    assert torch.isfinite(logits).all()
