"""AAPE+ with images without labels: the closed form, when they help, and that they cannot do much harm."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.trainer.small_tasks import WIDTH, small_task, small_text, unit
from trainer.aape_plus.scores import linear
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Images, Task, Unlabelled
from trainer.export.heads import head_of
from trainer.methods.aape_plus import AAPEPlus, AAPEPlusPredictor
from trainer.methods.family.unlabelled import (
    FOLDS,
    AAPEPlusUnlabelled,
    WaitingPlus,
    class_sums,
    fit_spread,
    folds,
    mixture,
    parts,
)
from trainer.methods.family.waiting import SAW

PLUS, METHOD = AAPEPlus(), AAPEPlusUnlabelled()


def accuracy(logits: Tensor, images: Images) -> float:
    return float((logits.argmax(1) == images.labels).double().mean())


def with_unlabelled(task: Task, images: Tensor) -> Task:
    return replace(task, unlabelled=Unlabelled(images))


def gaussians(each: int, *, seed: int, draw: int, classes: int = 6) -> Images:
    """Classes around directions of their own that vary alike, most along a few ways that tell nothing of the class."""
    rng = torch.Generator().manual_seed(1000 * seed + draw)
    ways = unit(5, WIDTH, seed=seed + 77)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = 0.2 * torch.randn(len(labels), WIDTH, generator=rng)
    noise += 0.6 * torch.randn(len(labels), 5, generator=rng) @ ways
    return Images(normalize(unit(classes, WIDTH, seed=seed)[labels] + noise, dim=-1), labels)


def planted(*, shots: int, seed: int) -> tuple[Task, Images, Images]:
    """A task whose text says little, images to go without their labels, and test images."""
    text = replace(small_text(seed=seed), template=unit(6, WIDTH, seed=seed + 50), prompts=None, mask=None)
    task = Task(text, gaussians(shots, seed=seed, draw=1), gaussians(min(shots, 4), seed=seed, draw=2))
    return task, gaussians(60, seed=seed, draw=3), gaussians(60, seed=seed, draw=4)


def gain(task: Task, shown: Tensor, test: Images) -> float:
    """Accuracy with the unlabelled images less that without."""
    plain, found = PLUS.fit(task, seed=1), METHOD.fit(with_unlabelled(task, shown), seed=1)
    one, other = (accuracy(each.logits(test.embeddings, task.text), test) for each in (plain, found))
    return other - one


@pytest.mark.parametrize("strength", [0.3, 30.0])
@pytest.mark.parametrize("count", [9, 60])
def test_the_voice_equals_the_naive_mixture(count: int, strength: float) -> None:
    images, rows = unit(count, WIDTH, seed=1), unit(7, WIDTH, seed=2)
    shares = torch.randn(count, 3, generator=torch.Generator().manual_seed(3)).softmax(1).double()
    x = images.double()
    centred = x - x.mean(0)
    covariance = centred.T @ centred / count
    rank = min(count - 1, WIDTH)
    ridge = strength * float(covariance.trace()) / rank
    inverse = torch.linalg.inv(covariance / ridge + torch.eye(WIDTH, dtype=torch.float64))
    naive = torch.zeros(7, 3, dtype=torch.float64)
    for c in range(3):
        mean = sum(shares[i, c] * x[i] for i in range(count)) / shares[:, c].sum() - x.mean(0)
        for j, row in enumerate(rows.double()):
            naive[j, c] = (row - x.mean(0)) @ inverse @ mean - mean @ inverse @ mean / 2
    found = mixture(fit_spread(images), shares.T @ x, shares.sum(0), strength).of(rows)
    torch.testing.assert_close(found.double(), naive, atol=1e-5, rtol=1e-4)


def test_class_means_count_labels_as_they_are_and_other_images_as_they_are_likely() -> None:
    task, seen, _ = planted(shots=2, seed=1)
    settled = PLUS.settle(task, seed=1)
    (part,) = parts(settled, task.text, seed=1)
    heard, voice = 0.1 * unit(len(seen), 6, seed=3), linear(unit(6, WIDTH), torch.zeros(6))
    sums, counts = class_sums(part, seen.embeddings, heard, 0.7, voice)
    naive = torch.zeros(6, WIDTH, dtype=torch.float64)
    for x, label in zip(task.train.embeddings.double(), task.train.labels, strict=True):
        naive[label] += x
    for x, said in zip(seen.embeddings, heard, strict=True):
        shares = (0.7 * (said + part.shots.of(x[None])[0]) + x @ voice.weight.T).softmax(0)
        naive += shares.double()[:, None] * x.double()
    torch.testing.assert_close(sums, naive, atol=1e-4, rtol=1e-4)
    assert float(counts.sum()) == pytest.approx(len(task.train) + len(seen), rel=1e-5)


def test_every_shot_but_the_only_one_of_a_class_is_left_out_once_and_its_class_stays() -> None:
    labels = torch.tensor([0] * 5 + [1] + [2] * 2 + [3] * 9)
    found = folds(labels, 4, seed=3)
    assert (found == -1).nonzero()[:, 0].tolist() == [5]
    for fold in range(FOLDS):
        assert set(labels[found != fold].tolist()) == {0, 1, 2, 3}
        assert 2 <= int((found == fold).sum()) <= 6


@pytest.mark.parametrize("shots", [2, 4])
def test_images_without_labels_help_where_classes_are_gaussian(shots: int) -> None:
    gains = []
    for seed in range(3):
        task, seen, test = planted(shots=shots, seed=seed)
        gains.append(gain(task, seen.embeddings, test))
    assert sum(gains) / len(gains) > 0.05
    assert min(gains) > 0.0


@pytest.mark.parametrize("what", ["noise", "one class"])
def test_images_of_nothing_or_of_one_class_cost_little(what: str) -> None:
    gains = []
    for seed in range(3):
        task, seen, test = planted(shots=4, seed=seed)
        shown = unit(360, WIDTH, seed=seed + 9) if what == "noise" else seen.embeddings[seen.labels == 0]
        gains.append(gain(task, shown, test))
    assert sum(gains) / len(gains) > -0.01
    assert min(gains) > -0.03


def same(one: AAPEPlusPredictor, other: AAPEPlusPredictor) -> bool:
    pairs = [(getattr(one.shots, name), getattr(other.shots, name)) for name in ("weight", "bias", "keys", "values")]
    numbers = [(each.text_weight, each.unseen, each.text_head, each.shots.sharpness) for each in (one, other)]
    return all(torch.equal(a, b) for a, b in pairs) and numbers[0] == numbers[1]


def test_without_unlabelled_images_or_where_they_tell_nothing_it_is_aape_plus_to_the_bit() -> None:
    task = small_task(shots=4)
    plain = PLUS.fit(task, seed=1)
    assert isinstance(plain, AAPEPlusPredictor)
    alike = unit(1, WIDTH).expand(20, -1)
    for given in (task, with_unlabelled(task, unit(0, WIDTH)), with_unlabelled(task, alike)):
        found = METHOD.fit(given, seed=1)
        assert isinstance(found, AAPEPlusPredictor)
        assert same(plain, found)
        assert found.info.get("unlabelled_weight", 0) == 0


def test_nothing_is_chosen_where_no_labelled_image_is_unseen() -> None:
    task, seen, _ = planted(shots=1, seed=1)
    task = replace(task, val=task.val.take(torch.arange(0)))
    plain, found = PLUS.fit(task, seed=1), METHOD.fit(with_unlabelled(task, seen.embeddings), seed=1)
    assert isinstance(plain, AAPEPlusPredictor)
    assert isinstance(found, AAPEPlusPredictor)
    assert same(plain, found)


def test_where_the_images_come_when_they_are_judged_it_is_aape_plus_until_then() -> None:
    task, _, test = planted(shots=1, seed=0)
    plain = PLUS.fit(task, seed=1)
    found = METHOD.fit(replace(task, transductive=True), seed=1)
    assert isinstance(found, WaitingPlus)
    assert found.info["saw"] == SAW
    assert torch.equal(found.logits(test.embeddings, task.text), plain.logits(test.embeddings, task.text))
    together = found.split_logits(Unlabelled.of(test), task.text)
    beforehand = METHOD.fit(with_unlabelled(task, test.embeddings), seed=1)
    assert torch.equal(together, beforehand.logits(test.embeddings, task.text))
    assert accuracy(together, test) > accuracy(plain.logits(test.embeddings, task.text), test)


def test_it_is_a_head_like_another_saved_read_and_exported(tmp_path: Path) -> None:
    task, seen, test = planted(shots=4, seed=0)
    found = METHOD.fit(with_unlabelled(task, seen.embeddings), seed=1)
    assert found.info["unlabelled_weight"] > 0
    logits = found.logits(test.embeddings, task.text)
    about = {"encoder": "e", "encoder_fingerprint": "f", "width": WIDTH}
    for name, each in (("now", found), ("waiting", METHOD.fit(replace(task, transductive=True), seed=1))):
        save_checkpoint(tmp_path / name, each, task.text, provenance=about)
    read = load_checkpoint(tmp_path / "now")
    torch.testing.assert_close(read.logits(test.embeddings), logits)
    torch.testing.assert_close(head_of(read)(test.embeddings), logits, atol=1e-4, rtol=1e-4)
    waiting = load_checkpoint(tmp_path / "waiting")
    assert isinstance(waiting.predictor, WaitingPlus)
    expected = METHOD.fit(with_unlabelled(task, test.embeddings), seed=1).logits(test.embeddings, task.text)
    torch.testing.assert_close(waiting.predictor.split_logits(Unlabelled.of(test), waiting.text), expected)


def test_without_any_label_the_images_lift_the_text_and_the_formula_is_the_naive_one() -> None:
    gains = []
    for seed in range(3):
        task, seen, test = planted(shots=1, seed=seed)
        text = replace(
            task.text, template=normalize(unit(6, WIDTH, seed=seed) + unit(6, WIDTH, seed=seed + 50), dim=-1)
        )
        none = task.train.take(torch.arange(0))
        task = replace(with_unlabelled(task, seen.embeddings), text=text, train=none, val=none)
        found = METHOD.fit(task, seed=1)
        assert isinstance(found, AAPEPlusPredictor)
        said = found.text_head.logits(seen.embeddings, text)
        shares = said.softmax(1)
        voice = mixture(
            fit_spread(seen.embeddings), (shares.T @ seen.embeddings).double(), shares.sum(0).double(), 100.0
        )
        naive = voice.of(seen.embeddings)
        naive = naive - naive.mean(1, keepdim=True)
        naive = naive * 60 / 70 * said.std(1).mean() / naive.std(1).mean()
        torch.testing.assert_close(found.logits(seen.embeddings, text), said + naive, atol=1e-3, rtol=1e-3)
        alone = accuracy(found.text_head.logits(test.embeddings, text), test)
        gains.append(accuracy(found.logits(test.embeddings, text), test) - alone)
        waiting = METHOD.fit(replace(task, unlabelled=None, transductive=True), seed=1)
        assert isinstance(waiting, WaitingPlus)
        assert accuracy(waiting.logits(test.embeddings, text), test) == alone
        assert accuracy(waiting.split_logits(Unlabelled.of(test), text), test) > alone
    assert min(gains) > 0
    assert sum(gains) / len(gains) > 0.02
