"""All baselines under one rule: what they start from, choose by, and do on awkward tasks."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from stages.training import TrainParams
from tests.trainer.baselines import BASELINES, TRAINED, shorten
from tests.trainer.small_tasks import WIDTH, small_images, small_task, unit
from trainer.data import Images, Task
from trainer.methods import Predictor, methods
from trainer.methods.clip_adapter import Adapter
from trainer.methods.common import all_views, mean_view
from trainer.training import judge


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def fit(name: str, task: Task, seed: int = 1) -> Predictor:
    return methods([name], settings=TrainParams())[0].fit(task, seed=seed)


def right(predictor: Predictor, task: Task, images: Images) -> float:
    return judge(predictor.logits(images.embeddings, task.text), images.labels)[0]


@pytest.mark.parametrize("name", BASELINES)
def test_the_recorded_validation_accuracy_is_the_predictors_own(name: str) -> None:
    task = small_task()
    predictor = fit(name, task)
    assert predictor.info["val_accuracy"] == pytest.approx(right(predictor, task, task.val))
    assert {"selection", "n_parameters"} <= predictor.info.keys()
    assert "tau" in predictor.info or name.startswith("aape-plus")  # whose weights are found for the scores as they are


@pytest.mark.parametrize("name", BASELINES)
def test_one_shot_without_validation_images_takes_the_published_defaults(name: str) -> None:
    task = small_task(shots=1, val=False)
    task = replace(task, val=task.train.take(torch.arange(0)))
    predictor = fit(name, task)
    assert "defaults taken" in str(predictor.info["selection"])
    assert "val_accuracy" not in predictor.info
    assert right(predictor, task, small_images(draw=30)) > 1 / 6


@pytest.mark.parametrize("name", BASELINES)
def test_two_classes_one_of_them_without_validation_images(name: str) -> None:
    task = small_task(2, 4)
    predictor = fit(name, replace(task, val=task.val.take((task.val.labels == 1).nonzero()[:, 0])))
    assert right(predictor, task, small_images(2, draw=30)) >= 0.5


@pytest.mark.parametrize("name", BASELINES)
def test_the_same_seed_gives_the_same_scores_to_the_last_bit(name: str) -> None:
    task, x = small_task(), unit(5, WIDTH, seed=4)
    assert torch.equal(fit(name, task).logits(x, task.text), fit(name, task).logits(x, task.text))


@pytest.mark.parametrize("name", TRAINED)
def test_trained_baselines_learn_beyond_zero_shot_and_keep_their_curve(name: str) -> None:
    task = small_task()
    weak = task.text.template + 1.2 * unit(6, WIDTH, seed=77)
    task = replace(task, text=replace(task.text, template=normalize(weak, dim=-1)))
    held = small_images(shots=40, draw=30)
    predictor = fit(name, task)
    assert right(predictor, task, held) > right(fit("zero-shot", task), task, held) + 0.05
    losses = [record["loss"] for record in predictor.history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", TRAINED)
def test_shots_that_were_held_out_are_learned_from_in_the_end(name: str) -> None:
    task = replace(small_task(), val=small_images(shots=1).take(torch.arange(0)))
    predictor = fit(name, task)
    assert "fitted again on all" in str(predictor.info["selection"])
    assert len(predictor.history) == predictor.info["epoch"]
    assert "val_accuracy" not in predictor.history[-1]


def with_views(images: Images, views: int = 3) -> Images:
    """The same images with augmentations that scatter around them."""
    around = images.embeddings[:, None] + 0.3 * unit(len(images), views, WIDTH, seed=8)
    return Images(images.embeddings, images.labels, normalize(around, dim=-1))


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "clip-adapter", "taskres", "cross-modal", "gda"])
def test_augmented_views_are_learned_from_where_there_are_any(name: str) -> None:
    task, x = small_task(), small_images(draw=30)
    seen = fit(name, replace(task, train=with_views(task.train)))
    assert right(seen, task, x) > 0.5
    assert not torch.equal(seen.logits(x.embeddings, task.text), fit(name, task).logits(x.embeddings, task.text))


def test_all_views_keep_their_labels_and_one_view_is_drawn_by_seed() -> None:
    images = with_views(small_images(shots=2))
    assert images.views is not None
    flat = all_views(images)
    assert len(flat) == 4 * len(images)
    assert torch.equal(flat.embeddings[len(images) + 4], images.views[1, 1])
    assert flat.labels[len(images) + 4] == images.labels[1]
    drawn = images.draw(torch.arange(len(images)), torch.Generator().manual_seed(1))
    assert torch.equal(drawn.labels, images.labels)
    among = torch.cat([images.embeddings[:, None], images.views], dim=1)
    assert bool((among == drawn.embeddings[:, None]).all(-1).any(1).all())
    torch.testing.assert_close(mean_view(images), normalize(among.mean(1), dim=-1))


def test_an_ensemble_of_templates_is_their_normalised_mean_and_zero_shot_is_the_first() -> None:
    task, x = small_task(), unit(5, WIDTH, seed=4)
    each = torch.stack([task.text.template, unit(6, WIDTH, seed=21)], dim=1)
    task = replace(task, text=replace(task.text, templates=each))
    zero_shot, ensemble = fit("zero-shot", task), fit("template-ensemble", task)
    torch.testing.assert_close(zero_shot.logits(x, task.text) * float(zero_shot.info["tau"]), x @ each[:, 0].T)
    mean = normalize(each.mean(1), dim=-1)
    torch.testing.assert_close(ensemble.logits(x, task.text) * float(ensemble.info["tau"]), x @ mean.T)


def test_clip_adapter_with_ratio_0_leaves_the_images_alone() -> None:
    x = unit(5, WIDTH)
    adapter = Adapter(width=WIDTH, hidden=6, ratio=0.0, rng=torch.Generator().manual_seed(1))
    torch.testing.assert_close(adapter(x), normalize(x, dim=-1))
