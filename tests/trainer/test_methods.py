"""Every method behind one interface, and one clear line for a task that cannot be learned."""

import functools
from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference

from stages.errors import UserError
from stages.params import Params
from stages.training import TrainParams
from tests.trainer.baselines import shorten
from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.data import Images, Task
from trainer.methods import FITS_ALONE, GROUPS, METHODS, Method, Predictor, methods
from trainer.methods.linear import LogisticRegression, fit_logistic, search_strength
from trainer.training import judge

SETTINGS = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 5}
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def method(name: str) -> Method:
    return methods([name], settings=SETTINGS)[0]


@functools.cache
def fitted(name: str) -> Predictor:
    """The method on the small task, seed 1; several tests look at the same fit."""
    return method(name).fit(small_task(), seed=1)


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_gives_finite_scores_and_its_records(name: str) -> None:
    task, held = small_task(), small_images(draw=30)
    predictor = fitted(name)
    logits = predictor.logits(held.embeddings.half(), task.text)
    assert logits.shape == (len(held), 6)
    assert torch.isfinite(logits).all()
    assert float((logits.argmax(1) == held.labels).float().mean()) > 1 / 6
    assert {"n_parameters", "fit_seconds"} <= predictor.info.keys()


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_new_classes_are_served_or_refused_in_one_line(name: str) -> None:
    chosen, new = method(name), small_text(4, seed=50)
    predictor = fitted(name)
    if chosen.serves_new_classes:
        assert predictor.logits(unit(3, WIDTH), new).shape == (3, 4)
    else:
        with pytest.raises(UserError, match="fitted on 6 classes and cannot serve 4 others"):
            predictor.logits(unit(3, WIDTH), new)


@pytest.mark.parametrize("name", [name for name in FITS_ALONE if not method(name).uses_prompts])
def test_a_method_that_says_it_uses_no_prompts_works_without_them(name: str) -> None:
    task = small_task()
    bare = replace(task, text=replace(task.text, prompts=None, mask=None))
    found = method(name).fit(bare, seed=1).logits(unit(3, WIDTH), bare.text)
    assert torch.equal(found, fitted(name).logits(unit(3, WIDTH), task.text))


def test_names_are_taken_in_order_once_and_a_group_stands_for_its_methods() -> None:
    assert [m.name for m in methods(["cupl", "aape", "cupl"], settings=SETTINGS)] == ["cupl", "aape"]
    assert [m.name for m in methods(["all"], settings=SETTINGS)] == list(GROUPS["all"])
    everything = [m.name for m in methods(["all", "family"], settings=SETTINGS)]
    assert sorted(everything) == sorted(METHODS)
    standard = [m.name for m in methods(["gda", "standard"], settings=SETTINGS)]
    assert standard == ["gda", *(name for name in GROUPS["standard"] if name != "gda")]
    assert Params().evaluation.methods == ["standard"]


@pytest.mark.parametrize(("name", "near"), [("zeroshot", "zero-shot"), ("standart", "standard"), ("al", "all")])
def test_an_unknown_name_lists_the_known_ones_and_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"unknown method '{name}'.*did you mean '{near}'") as caught:
        methods([name], settings=SETTINGS)
    assert caught.value.exit_code == 2


def test_zero_shot_and_cupl_are_plain_cosines() -> None:
    task, x = small_task(), unit(5, WIDTH, seed=4)
    zero_shot, cupl = (method(name).fit(task, seed=1).logits(x, task.text) for name in ("zero-shot", "cupl"))
    assert torch.equal(zero_shot.argmax(1), (x @ task.text.template.T).argmax(1))
    means = torch.stack([p[m].mean(0) for p, m in zip(task.text.prompts, task.text.mask, strict=True)])  # type: ignore[arg-type]
    assert torch.equal(cupl.argmax(1), (x @ (means / means.norm(dim=-1, keepdim=True)).T).argmax(1))


def test_logistic_regression_is_scikit_learns() -> None:
    images, x = small_images(shots=12), unit(50, WIDTH, seed=4)
    weight, bias = fit_logistic(images, 6, strength=10.0)
    reference = Reference(C=10.0, max_iter=2000, tol=1e-8).fit(images.embeddings.numpy(), images.labels.numpy())
    found = (x @ weight.T + bias).softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(reference.predict_proba(x.numpy())).float(), atol=2e-3, rtol=0)


def test_logistic_regression_in_the_span_of_few_images_is_scikit_learns() -> None:
    images, x = small_images(shots=3), unit(50, WIDTH, seed=4)
    assert len(images) < WIDTH
    weight, bias = fit_logistic(images, 6, strength=1.0)
    reference = Reference(C=1.0, max_iter=2000, tol=1e-8).fit(images.embeddings.numpy(), images.labels.numpy())
    found = (x @ weight.T + bias).softmax(1)
    torch.testing.assert_close(found, torch.from_numpy(reference.predict_proba(x.numpy())).float(), atol=2e-3, rtol=0)


def test_logistic_regression_searches_clips_grid_on_validation_images() -> None:
    task = small_task()
    strength, score, (weight, bias) = search_strength(task.train, task.val, 6)
    step = 8 * torch.tensor(strength).log10()
    assert abs(float(step - step.round())) < 1e-4
    assert score == judge(task.val.embeddings @ weight.T + bias, task.val.labels)
    for coarse in (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6):
        weight, bias = fit_logistic(task.train, 6, strength=coarse)
        assert score[0] >= judge(task.val.embeddings @ weight.T + bias, task.val.labels)[0]
    flipped = replace(task, val=Images(task.val.embeddings, (task.val.labels + 1) % 6))
    assert float(LogisticRegression().fit(flipped, seed=1).info["C"]) < 1e-3 < strength


def _broken(what: str) -> Task:
    task = small_task()
    text, train = task.text, task.train
    assert text.prompts is not None
    assert text.mask is not None
    if what == "nan":
        bad = train.embeddings.clone()
        bad[[3, 7], 0] = torch.nan
        return replace(task, train=Images(bad, train.labels))
    if what == "width":
        return replace(task, train=Images(train.embeddings[:, :-1], train.labels))
    if what == "prompt width":
        return replace(task, text=replace(text, prompts=text.prompts[..., :-1]))
    if what == "one class":
        return Task(text.select([0]), train.take((train.labels == 0).nonzero()[:, 0]), task.val.take(torch.arange(0)))
    if what == "empty class":
        return replace(task, train=train.take((train.labels != 2).nonzero()[:, 0]))
    if what == "label":
        return replace(task, val=Images(task.val.embeddings, task.val.labels + 1))
    if what == "count":
        return replace(task, train=Images(train.embeddings, train.labels[:-1]))
    if what == "no prompts of a class":
        mask = text.mask.clone()
        mask[2] = False
        return replace(task, text=replace(text, mask=mask))
    return replace(task, text=replace(text, prompts=None, mask=None))


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("nan", r"2 of 48 rows of the train image embeddings hold NaN or infinity \(first: row 3\): embed them again"),
        ("width", r"the train images are 23 wide and the text embeddings 24: embed both with the same encoder"),
        ("prompt width", r"template embeddings are 24 wide and the prompt embeddings 23"),
        ("one class", r"at least 2 classes, found 1: class 0"),
        ("empty class", r"no training image of class 'class 2' \(1 of 6 classes have none\)"),
        ("label", r"label 6 of the val images is out of range: labels run from 0 to 5"),
        ("count", r"48 embeddings and 47 labels"),
        ("no prompts of a class", r"1 of 6 classes have no reference prompt \('class 2'\): generate or import"),
        ("no prompts", r"needs reference prompts and the task has none: run `pipeline generate-prompts`"),
    ],
)
def test_a_task_that_cannot_be_learned_is_refused_in_one_line(what: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        method("aape").fit(_broken(what), seed=1)
    assert "\n" not in str(caught.value)


def test_images_of_another_width_are_refused_when_predicting() -> None:
    task = small_task()
    predictor = method("aape").fit(task, seed=1)
    with pytest.raises(UserError, match="the images are 7 wide and the class text 24"):
        predictor.logits(unit(2, 7), task.text)
