"""ProKeR, APE, TIMO, CLAP and the shuffled control against naive forms; the search of alpha against the whole grid."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from tests.trainer.baselines import shorten
from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.data import Images
from trainer.methods.ape import APE, APEPredictor, APETrainedPredictor, _Adapted, divergence, informative, likeness
from trainer.methods.blend import best_blend, right_at
from trainer.methods.clap import CLAP, LENGTH, _Held, multipliers
from trainer.methods.common import class_totals, one_hot
from trainer.methods.gda import class_means, precision
from trainer.methods.proker import BETAS, STRENGTHS, ProKeR
from trainer.methods.text import ShuffledCuPL, TextMethod, another, shuffled_weights
from trainer.methods.timo import TIMO, guided_images, guided_text, matching
from trainer.training import WORST, judge


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 30), classes=st.integers(2, 7), seed=st.integers(0, 999), flat=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
)  # fmt: skip
def test_the_search_of_alpha_chooses_as_the_whole_grid(
    images: int, classes: int, seed: int, flat: bool, scale: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    zero_shot, *added = (scale * torch.randn(images, classes, generator=rng) for _ in range(4))
    if flat:
        added[1] = torch.zeros_like(zero_shot)
    labels = torch.randint(classes, (images,), generator=rng)
    alphas = [10 ** (step / 4) for step in range(-8, 17)]
    best = (0, 0.0, WORST)
    for i, alpha in product(range(3), alphas):
        score = judge(zero_shot + alpha * added[i], labels)
        right = int(((zero_shot + alpha * added[i]).argmax(1) == labels).sum())
        assert int(right_at(zero_shot, added[i], labels, torch.tensor([alpha]))[0]) >= right
        if score > best[2]:
            best = (i, alpha, score)
    assert best_blend(zero_shot, added.__getitem__, range(3), alphas, labels) == best


def test_class_totals_are_a_product_with_the_labels() -> None:
    rows, labels = unit(11, 4, seed=1), torch.tensor([2, 0, 2, 1, 0, 2, 2, 1, 0, 0, 4])
    torch.testing.assert_close(class_totals(rows, labels, 6), one_hot(labels, 6).T @ rows)


def test_proker_is_kernel_ridge_on_what_zero_shot_leaves() -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    found = ProKeR().fit(task, seed=1)
    text, shots = (each.double().numpy() for each in (normalize(task.text.template, dim=-1), task.train.embeddings))
    beta, strength = float(found.info["beta"]), float(found.info["lambda"])
    gram = np.array([[math.exp(-beta * (1 - a @ b)) for b in shots] for a in shots])
    residual = np.eye(6)[task.train.labels.numpy()] - shots @ text.T
    weights = np.linalg.solve(gram / strength + np.eye(len(shots)), residual)
    for row, scores in zip(x.double().numpy(), found.logits(x, task.text), strict=True):
        near = np.array([math.exp(-beta * (1 - row @ s)) for s in shots])
        np.testing.assert_allclose(scores.numpy() * found.tau, text @ row + near @ weights, atol=2e-4)


def test_proker_searches_no_worse_than_along_either_axis() -> None:
    task = small_task(shots=3)
    found = ProKeR().fit(task, seed=1)
    assert found.info["beta"] in BETAS
    assert found.info["lambda"] in STRENGTHS
    zero_shot = TextMethod("template-ensemble", "ensemble").fit(task, seed=1)
    assert float(found.info["val_accuracy"]) >= float(zero_shot.info["val_accuracy"])


@pytest.mark.parametrize("method", [ProKeR(), APE("ape", trains=False), APE("ape-t", trains=True)])
def test_a_class_without_shots_keeps_its_zero_shot_score_in_any_order(method: ProKeR | APE) -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    predictor = method.fit(task, seed=1)
    new = small_text(4, seed=50)
    both = type(new)(("new a", "class 2", "new b", "class 0"), new.template)
    scores = predictor.logits(x, both) * predictor.tau
    zero_shot = x @ normalize(new.template, dim=-1).T
    torch.testing.assert_close(scores[:, [0, 2]], zero_shot[:, [0, 2]])
    assert not torch.allclose(scores[:, [1, 3]], zero_shot[:, [1, 3]])
    turned = predictor.logits(x, task.text.select([5, 4, 3, 2, 1, 0])).flip(1)
    torch.testing.assert_close(turned, predictor.logits(x, task.text), atol=1e-4, rtol=1e-4)


def test_apes_entries_are_those_of_little_likeness_and_much_variance() -> None:
    text = unit(3, 5, seed=3)
    images = Images(unit(7, 5, seed=5), torch.tensor([0, 0, 0, 1, 1, 2, 2]))
    each = [[text[c], *images.embeddings[images.labels == c]] for c in range(3)]
    products = [a * b for i, j in product(range(3), range(3)) if i != j for a in each[i] for b in each[j]]
    torch.testing.assert_close(likeness(text, images), torch.stack(products).mean(0))
    alone = [text[i] * text[j] for i, j in product(range(3), range(3)) if i != j]
    torch.testing.assert_close(likeness(text, None), torch.stack(alone).mean(0))
    criterion = 0.3 * text.var(0) - 0.7 * torch.stack(products).mean(0)
    chosen = informative(text, images, share=0.6, weights=(0.7, 0.3)).tolist()
    assert chosen == sorted(criterion.argsort(descending=True)[:3].tolist())


def test_ape_scores_are_a_weighted_cache_on_the_chosen_entries() -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    found = APE("ape", trains=False).fit(task, seed=1)
    assert isinstance(found, APEPredictor)
    chosen = found.mask.nonzero()[:, 0]
    text = normalize(task.text.template, dim=-1)
    shots, part, part_text = (
        normalize(each[:, chosen], dim=-1) for each in (task.train.embeddings, x, text)
    )  # fmt: skip
    expected = x @ text.T / found.tau
    labels = task.train.labels.tolist()
    surprise = [
        -math.log2(float((part_text @ key).softmax(0)[label])) for key, label in zip(shots, labels, strict=True)
    ]
    for key, label, own in zip(shots, labels, surprise, strict=True):
        near = torch.exp(-found.beta * (1 - part @ key))
        more = own - sum(surprise) / len(surprise)
        expected[:, label] += found.alpha * near * math.exp(float(found.info["gamma"]) * more)
    torch.testing.assert_close(found.logits(x, task.text), expected, atol=1e-3, rtol=1e-3)


def test_the_divergence_of_a_shot_is_kl_in_bits() -> None:
    keys, text, labels = unit(4, 6, seed=1), unit(3, 6, seed=2), torch.tensor([0, 2, 1, 0])
    shares = (keys @ text.T).softmax(1).double()
    truth = torch.eye(3, dtype=torch.float64)[labels]
    kl = (truth * torch.log2((truth + 1e-6) / (shares + 1e-6))).sum(1)
    torch.testing.assert_close(divergence(keys, text, labels).double(), kl, atol=1e-4, rtol=1e-4)


def test_ape_t_moves_text_and_keys_of_a_class_by_one_residual() -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    weights, chosen = normalize(task.text.template, dim=-1), torch.tensor([1, 4, 7])
    learner = _Adapted(weights, chosen, 0.05, 2.0, 3.0, task.train)
    with torch.no_grad():
        learner.moved.copy_(0.1 * unit(6, 3, seed=8))
        learner.shares.copy_(torch.linspace(0.5, 1.5, len(task.train)))
    moved = torch.zeros(6, WIDTH)
    moved[:, chosen] = learner.moved.detach()
    near = torch.exp(-3.0 * (1 - x @ (task.train.embeddings + moved[task.train.labels]).T))
    added = (near * learner.shares.detach()) @ one_hot(task.train.labels, 6)
    torch.testing.assert_close(learner(x).detach(), x @ (weights + moved).T / 0.05 + 2.0 * added)
    found = APE("ape-t", trains=True).fit(task, seed=1)
    assert isinstance(found, APETrainedPredictor)
    assert int((found.residual.abs().sum(0) > 0).sum()) == round(0.9 * WIDTH)


def test_timo_weighs_prompts_by_the_images_of_their_class() -> None:
    task = small_task()
    prompts, mask = task.text.require_prompts()
    match = matching(prompts, mask, task.train)
    text = guided_text(prompts, mask, match, gamma=20.0)
    for c in range(6):
        mean = normalize(task.train.embeddings[task.train.labels == c].mean(0), dim=-1)
        own = prompts[c][mask[c]]
        scores = own @ mean
        torch.testing.assert_close(match[c][mask[c]], scores)
        weights = (20.0 * scores / scores.norm()).softmax(0)
        torch.testing.assert_close(text[c], normalize(weights @ own, dim=-1))
    even = guided_text(prompts, mask, match, gamma=0.0)
    torch.testing.assert_close(even, task.text.prompt_mean())


@pytest.mark.parametrize("count", [1, 3, 5, 10])
def test_timos_best_prompts_stand_beside_the_images_and_come_round_once(count: int) -> None:
    task = small_task()  # five prompts a class, two of the last one
    prompts, mask = task.text.require_prompts()
    match = matching(prompts, mask, task.train)
    beside = guided_images(prompts, mask, match, count=count)
    for c in range(6):
        own, scores = prompts[c][mask[c]], match[c][mask[c]]
        order = scores.argsort(descending=True).tolist()
        expected = [own[i] * scores[i] for i in [*order, *order][:count]]
        torch.testing.assert_close(beside.embeddings[beside.labels == c], torch.stack(expected))


def test_timo_is_gaussian_analysis_of_both_beside_its_text() -> None:
    task, x = small_task(), unit(3, WIDTH, seed=4)
    found = TIMO().fit(task, seed=1)
    prompts, mask = task.text.require_prompts()
    match = matching(prompts, mask, task.train)
    text = guided_text(prompts, mask, match, gamma=float(found.info["gamma"]))
    together = Images.join(task.train, guided_images(prompts, mask, match, count=int(found.info["prompts"])))
    means = class_means(together, 6)
    spread = precision(together.embeddings - means[together.labels])
    away = x[:, None] - means
    density = -torch.einsum("bcd,de,bce->bc", away, spread, away) / 2
    alpha = float(found.info["alpha"])
    expected = x @ text.T / float(found.info["tau"]) + alpha * density
    scores = found.logits(x, task.text)
    torch.testing.assert_close(scores - scores[:, :1], expected - expected[:, :1], atol=1e-2, rtol=1e-2)


def test_clap_pulls_a_class_by_what_zero_shot_knows_of_it() -> None:
    task = small_task()
    logits = task.train.embeddings @ task.text.template.T / 0.05
    pull = multipliers(logits, task.train.labels)
    expected = [logits[task.train.labels == c].softmax(1)[:, c].mean() for c in range(6)]
    torch.testing.assert_close(pull, torch.stack(expected))
    weights = normalize(task.text.template, dim=-1)
    learner = _Held(weights, 0.05, task.train)
    with torch.no_grad():
        losses = learner.losses(torch.arange(48), task.train, torch.Generator())
        assert float(losses["loss"]) == float(losses["loss_task"])  # at the start nothing is away
        learner.own.mul_(1.5)  # longer: the same cosines
        losses = learner.losses(torch.arange(48), task.train, torch.Generator())
    away = float(losses["loss"] - losses["loss_task"])
    assert away == pytest.approx(float((learner.pull * (0.5 * LENGTH) ** 2).mean()), rel=1e-4)


def test_clap_stays_nearer_to_the_text_than_a_probe_without_the_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    task = small_task()
    weights = normalize(task.text.template, dim=-1)
    held = CLAP().fit(task, seed=1)
    monkeypatch.setattr("trainer.methods.clap.multipliers", lambda logits, labels: torch.zeros(6))
    free = CLAP().fit(task, seed=1)
    near, far = (float((normalize(each.weight, dim=-1) * weights).sum(1).mean()) for each in (held, free))
    assert near >= far


def test_the_shuffled_control_gives_every_class_anothers_description() -> None:
    for classes in (2, 3, 50):
        others = another(classes, seed=3)
        assert sorted(others) == list(range(classes))
        assert all(other != own for own, other in enumerate(others))
    text = small_text()
    others, told, own = another(6, seed=1), text.prompt_mean(), normalize(text.template, dim=-1)
    for c, weight in enumerate(shuffled_weights(text, seed=1)):
        torch.testing.assert_close(weight, normalize(own[c] + told[others[c]] - own[others[c]], dim=-1))


def test_descriptions_of_another_class_are_worse_than_ones_own() -> None:
    held = small_images(shots=40, draw=30)
    task = small_task()
    right = {}
    for method in (TextMethod("cupl", "prompts"), ShuffledCuPL()):
        right[method.name] = judge(method.fit(task, seed=1).logits(held.embeddings, task.text), held.labels)[0]
    assert right["cupl"] > right["cupl-shuffled"]


def test_a_choice_at_the_end_of_its_range_is_in_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    monkeypatch.setattr("trainer.methods.proker.STRENGTHS", (0.0005, 0.0015, 0.005))
    assert "lambda = 0.005" in str(ProKeR().fit(task, seed=1).info["at_end"])
