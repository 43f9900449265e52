"""GDA, Tip-Adapter and LP++'s constants against naive numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.data import Images
from trainer.methods.gda import (
    GDA,
    NEIGHBOURS,
    TEXT_COPIES,
    class_means,
    nearest_images,
    precision,
    synthesised_means,
    through_synthesised_precision,
)
from trainer.methods.lp_plus_plus import LPPlusPlus, _Probe, start_values, step_sizes
from trainer.methods.text import TextMethod
from trainer.methods.tip_adapter import TipAdapter
from trainer.training import Learner


def naive_precision(rows: np.ndarray) -> np.ndarray:
    count, width = rows.shape
    covariance = np.cov(rows.T)
    return width * np.linalg.inv((count - 1) * covariance + np.trace(covariance) * np.eye(width))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), width=st.integers(2, 30), seed=st.integers(0, 99))
def test_the_precision_is_the_published_estimator_with_more_or_fewer_images_than_entries(
    count: int, width: int, seed: int
) -> None:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    np.testing.assert_allclose(precision(rows).numpy(), naive_precision(rows.numpy()), rtol=1e-6, atol=1e-8)


def test_one_image_a_class_gives_a_finite_precision() -> None:
    assert torch.equal(precision(torch.zeros(6, 4)), 4 * torch.eye(4))


def test_gda_scores_are_gaussian_log_densities_beside_zero_shot() -> None:
    task, x = small_task(), unit(7, WIDTH, seed=4)
    predictor = GDA().fit(task, seed=1)
    means = np.stack([task.train.embeddings[task.train.labels == c].double().mean(0).numpy() for c in range(6)])
    spread = naive_precision((task.train.embeddings.double() - torch.from_numpy(means)[task.train.labels]).numpy())
    away = x.double().numpy()[:, None] - means
    density = -np.einsum("bcd,de,bce->bc", away, spread, away) / 2
    added = predictor.logits(x, task.text) - x @ normalize(task.text.template, dim=-1).T / predictor.tau
    differences = added - added[:, :1]  # a term of x alone is common to all classes
    expected = predictor.alpha * (density - density[:, :1])
    np.testing.assert_allclose(differences.numpy(), expected, rtol=1e-3, atol=1e-4 * predictor.alpha)


def test_new_classes_of_gda_are_synthesised_from_the_images_nearest_to_their_text() -> None:
    images, text = small_images(shots=20).embeddings.double(), unit(5, WIDTH, seed=9).double()
    spreads, means = [], []
    for w in text:
        near = images[(images @ w).argsort(descending=True)[:NEIGHBOURS]]
        means.append(torch.cat([near, w.repeat(TEXT_COPIES, 1)]).mean(0))
        covariance = (near - w).T @ (near - w) / (NEIGHBOURS - 1)
        ridge = covariance.trace() * torch.eye(WIDTH)
        spreads.append(WIDTH * torch.linalg.inv((NEIGHBOURS - 1) * covariance + ridge))
    expected = torch.stack(means)
    found = synthesised_means(images, text)
    torch.testing.assert_close(found, expected)
    through = through_synthesised_precision(found, nearest_images(images, text), text)
    torch.testing.assert_close(through, expected @ torch.stack(spreads).mean(0))


def test_gda_serves_base_new_and_both_at_once() -> None:
    task, x = small_task(), unit(7, WIDTH, seed=4)
    predictor = GDA().fit(task, seed=1)
    new = small_text(4, seed=50)
    names = tuple(f"other {i}" for i in range(4))
    new = type(new)(names, new.template)
    both = type(new)(task.text.names + names, torch.cat([task.text.template, new.template]))
    scores = predictor.logits(x, both)
    assert scores.shape == (7, 10)
    old = predictor.logits(x, task.text)
    # the same scores for the fitted classes, but for log(1 / C)
    shift = predictor.alpha * (math.log(10) - math.log(6))
    torch.testing.assert_close(scores[:, :6], old - shift, atol=1e-3, rtol=1e-4)
    assert predictor.logits(x, new).shape == (7, 4)


def test_class_means_are_not_normalised() -> None:
    images = Images(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    assert class_means(images, 2).tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_the_cache_adds_its_similar_shots_to_zero_shot() -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    found = TipAdapter("tip-adapter", trains_keys=False).fit(task, seed=1)
    expected = x @ normalize(task.text.template, dim=-1).T / found.tau
    for b in range(3):
        for key, label in zip(task.train.embeddings, task.train.labels.tolist(), strict=True):
            expected[b, label] += found.alpha * math.exp(-found.beta * (1 - float(x[b] @ key)))
    torch.testing.assert_close(found.logits(x, task.text), expected)


@pytest.mark.parametrize("trains_keys", [False, True])
def test_a_class_that_the_cache_has_no_image_of_keeps_its_zero_shot_score(trains_keys: bool) -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    predictor = TipAdapter("tip-adapter", trains_keys=trains_keys).fit(task, seed=1)
    new = small_text(4, seed=50)
    new = type(new)(("class 2", "new a", "new b", "new c"), new.template)
    zero_shot = TextMethod("template-ensemble", "ensemble").fit(task, seed=1).logits(x, new)
    scores = predictor.logits(x, new)
    torch.testing.assert_close(scores[:, 1:], zero_shot[:, 1:])
    assert bool((scores[:, 0] > zero_shot[:, 0]).all())


def test_lp_plus_plus_starts_and_steps_as_published() -> None:
    images, text = small_images(shots=5), small_text().template
    x, cosines = images.embeddings, images.embeddings @ text.T
    w_step, alpha_step = step_sizes(x, cosines)
    assert w_step == pytest.approx(4 * len(x) / np.linalg.eigvalsh(x.T.numpy() @ x.numpy()).max(), rel=1e-4)
    assert alpha_step == pytest.approx(len(x) / (4 * float((cosines**2).sum(0).max())), rel=1e-5)
    weight, alpha = start_values(images, cosines, tau=0.01)
    torch.testing.assert_close(weight[2], x[images.labels == 2].sum(0))
    own = torch.stack([cosines[images.labels == c, c].mean() for c in range(6)])
    torch.testing.assert_close(alpha, torch.full((6,), 250 * float(own.mean())))


def test_held_out_shots_come_back_into_the_cache() -> None:
    task = small_task(val=False)
    task = type(task)(task.text, task.train, task.train.take(torch.arange(0)))
    predictor = TipAdapter("tip-adapter", trains_keys=False).fit(task, seed=1)
    assert torch.bincount(predictor.labels).tolist() == [8] * 6
    assert "held out" in str(predictor.info["selection"])


@pytest.mark.parametrize("noise", [0.5, 1.5, 3.0])
def test_lp_plus_plus_chooses_as_if_it_were_measured_after_every_step(noise: float) -> None:
    task = small_task(shots=4)
    away = unit(len(task.val), WIDTH, seed=31)
    task = replace(task, val=Images(normalize(task.val.embeddings + noise * away, dim=-1), task.val.labels))
    fast = LPPlusPlus().fit(task, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Probe, "may_beat", lambda self, val, best: True)
        patch.setattr(_Probe, "measure", Learner.measure)
        naive = LPPlusPlus().fit(task, seed=1)
    chosen = ("epoch", "val_accuracy", "val_loss")
    assert [fast.info[name] for name in chosen] == [naive.info[name] for name in chosen]
    assert torch.equal(fast.weight, naive.weight)
    assert torch.equal(fast.bias, naive.bias)
    known = {each["epoch"]: (each["val_accuracy"], each["val_loss"]) for each in naive.history}
    measured = [each for each in fast.history if "val_accuracy" in each]
    assert all((each["val_accuracy"], each["val_loss"]) == known[each["epoch"]] for each in measured)
    left_out = known.keys() - {each["epoch"] for each in measured}
    assert all(known[epoch][0] < fast.info["val_accuracy"] for epoch in left_out)
    assert len(naive.history) == len(known) == 300
