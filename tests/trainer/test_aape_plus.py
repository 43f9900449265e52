"""AAPE+: exact closed forms, careful choices, and new classes that only text knows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from stages.errors import UserError
from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.aape_plus import (
    attended_cosines,
    calibrated,
    discriminant,
    discriminant_without,
    fit_gaussian,
    fit_ridge,
    leave_one_out,
    regression,
    weigh,
)
from trainer.aape_plus.stacking import PRIOR
from trainer.aape_plus.voices import USUAL_RIDGE, USUAL_STRENGTH, Setting, Voices
from trainer.data import ClassText, Images, Task
from trainer.methods.aape_plus import AAPEPlus, AAPEPlusPredictor, ShotsPredictor, TextHead

PLUS = AAPEPlus()


def accuracy(predictor: AAPEPlusPredictor, images: Images, text: ClassText) -> float:
    return float((predictor.logits(images.embeddings, text).argmax(1) == images.labels).double().mean())


def joined(first: ClassText, second: ClassText) -> ClassText:
    """The classes of two texts."""
    rows = [
        torch.cat([one, other])
        for one, other in (
            (first.template, second.template),
            (first.require_prompts()[0], second.require_prompts()[0]),
            (first.require_prompts()[1], second.require_prompts()[1]),
        )
    ]
    return ClassText((*first.names, *second.names), *rows)


def naive_ridge(x: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """W and b by the normal equations, the intercept free."""
    xc, yc = x - x.mean(0), targets - targets.mean(0)
    weight = torch.linalg.solve(xc.T @ xc + ridge * torch.eye(x.shape[1], dtype=x.dtype), xc.T @ yc).T
    return weight, targets.mean(0) - weight @ x.mean(0)


def naive_discriminant(x: Tensor, labels: Tensor, classes: int, ridge: float) -> tuple[Tensor, Tensor]:
    """W and b by the inverse of the within-class scatter."""
    means = torch.stack([x[labels == c].mean(0) for c in range(classes)])
    away = x - means[labels]
    weight = means @ torch.linalg.inv(away.T @ away + ridge * torch.eye(x.shape[1], dtype=x.dtype)) * ridge
    return weight, -(weight * means).sum(1) / 2


def each_left_out(images: Images) -> list[tuple[int, Tensor, Tensor]]:
    """Position, and the rows and labels without it."""
    every = torch.arange(len(images))
    x = images.embeddings.double()
    return [(i, x[every != i], images.labels[every != i]) for i in range(len(images))]


@pytest.mark.parametrize("strength", [0.03, 3.0])
@pytest.mark.parametrize(("classes", "shots"), [(2, 1), (5, 1), (3, 4), (3, 9)])
def test_ridge_and_leave_one_out_equal_the_naive_fits(classes: int, shots: int, strength: float) -> None:
    images = small_images(classes, shots)  # fewer and more images than entries of an embedding
    x, targets = images.embeddings.double(), unit(len(images), classes, seed=5).double()
    ridge = fit_ridge(images.embeddings)
    expected = naive_ridge(x, targets, strength * ridge.scale)
    scores = regression(ridge, targets, strength)
    torch.testing.assert_close((scores.weight, scores.bias), expected, atol=1e-9, rtol=1e-7)
    found = leave_one_out(ridge, targets, strength)
    for i, rest, _ in each_left_out(images):
        weight, bias = naive_ridge(rest, targets[torch.arange(len(x)) != i], strength * ridge.scale)
        torch.testing.assert_close(found[i], weight @ x[i] + bias, atol=1e-9, rtol=1e-7)


def naive_kernel_ridge(x: Tensor, targets: Tensor, ridge: float, rows: Tensor, sharpness: float) -> Tensor:
    """Scores by the linear system that has the intercept, which is free, as one unknown more."""
    count = len(x)
    system = torch.zeros(count + 1, count + 1, dtype=x.dtype)
    system[:count, :count] = torch.exp(sharpness * (x @ x.T - 1)) + ridge * torch.eye(count, dtype=x.dtype)
    system[:count, count] = system[count, :count] = 1
    solved = torch.linalg.solve(system, torch.cat([targets, torch.zeros_like(targets[:1])]))
    return torch.exp(sharpness * (rows @ x.T - 1)) @ solved[:count] + solved[count]


@pytest.mark.parametrize("sharpness", [1.0, 10.0])
def test_kernel_ridge_and_leave_one_out_equal_the_naive_fits(sharpness: float) -> None:
    images, rows = small_images(3, 5), unit(9, WIDTH, seed=3).double()
    x, targets = images.embeddings.double(), unit(15, 3, seed=5).double()
    ridge = fit_ridge(images.embeddings, sharpness=sharpness)
    strength = 0.3 * ridge.scale
    expected = naive_kernel_ridge(x, targets, strength, rows, sharpness)
    torch.testing.assert_close(regression(ridge, targets, 0.3).of(rows), expected, atol=1e-9, rtol=1e-7)
    found = leave_one_out(ridge, targets, 0.3)
    for i, rest, _ in each_left_out(images):
        others = targets[torch.arange(len(x)) != i]
        expected = naive_kernel_ridge(rest, others, strength, x[i : i + 1], sharpness)[0]
        torch.testing.assert_close(found[i], expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("strength", [0.03, 3.0])
@pytest.mark.parametrize(("classes", "shots"), [(2, 2), (3, 4), (3, 12)])
def test_gaussian_and_leave_one_out_equal_the_naive_fits(classes: int, shots: int, strength: float) -> None:
    images = small_images(classes, shots)
    gaussian = fit_gaussian(images, classes)
    x, ridge = images.embeddings.double(), strength * gaussian.scale
    expected = naive_discriminant(x, images.labels, classes, ridge)
    scores = discriminant(gaussian, strength)
    torch.testing.assert_close((scores.weight, scores.bias), expected, atol=1e-9, rtol=1e-7)
    found = discriminant_without(gaussian, strength)
    for i, rest, labels in each_left_out(images):
        weight, bias = naive_discriminant(rest, labels, classes, ridge)
        own = weight @ x[i] + bias
        torch.testing.assert_close(found[i] - found[i].mean(), own - own.mean(), atol=1e-9, rtol=1e-7)


def test_one_shot_a_class_gives_the_nearest_mean() -> None:
    images, x = small_images(4, 1), unit(9, WIDTH, seed=3).double()
    scores = discriminant(fit_gaussian(images, 4), 0.3)
    distances = torch.cdist(x, images.embeddings.double()).square()
    torch.testing.assert_close(scores.of(x).argmax(1), distances[:, images.labels.argsort()].argmin(1))


def test_the_text_is_template_and_attended_prompts_by_their_shares() -> None:
    text, x = small_text(5, prompts=6), unit(9, WIDTH, seed=3)
    prompts, template = TextHead(0.0, 7.0, 1.0).logits(x, text), TextHead(1.0, 0.0, 1.0).logits(x, text)
    torch.testing.assert_close(template, x @ normalize(text.template, dim=-1).T)
    torch.testing.assert_close(TextHead(0.25, 7.0, 0.1).logits(x, text), 10 * (0.25 * template + 0.75 * prompts))
    assert [TextHead(share, 7.0, 1.0).source for share in (0.0, 0.25, 1.0)] == ["prompts", "both", "template"]


@pytest.mark.parametrize("beta", [0.0, 7.0, 40.0])
def test_attention_over_prompts_equals_the_plain_form_and_ignores_padding(beta: float) -> None:
    text, x = small_text(5, prompts=6), unit(9, WIDTH, seed=3)
    assert text.prompts is not None
    assert text.mask is not None
    found = attended_cosines(x, text.prompts, text.mask, beta=beta)
    for c, (prompts, mask) in enumerate(zip(text.prompts, text.mask, strict=True)):
        own = prompts[mask]
        aggregated = (beta * x @ own.T).softmax(1) @ own
        torch.testing.assert_close(found[:, c], (x * normalize(aggregated, dim=-1)).sum(1), atol=1e-5, rtol=1e-4)


def test_attention_in_tiles_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text, x = small_text(), unit(11, WIDTH, seed=3)
    assert text.prompts is not None
    assert text.mask is not None
    whole = attended_cosines(x, text.prompts, text.mask, beta=10.0)
    monkeypatch.setattr("trainer.aape_plus.attention.ENTRIES", 1)
    torch.testing.assert_close(attended_cosines(x, text.prompts, text.mask, beta=10.0), whole)


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_the_weights_are_those_of_a_plain_descent_and_never_negative(scale: float) -> None:
    labels = torch.arange(6).repeat(20)
    good, same = (scale * (torch.nn.functional.one_hot(labels, 6) + unit(120, 6, seed=seed)) for seed in (3, 4))
    against = -torch.nn.functional.one_hot(labels, 6).float()
    loss, weights = weigh([good, same, against], labels)
    assert weights[2] == 0
    z = torch.stack([each - each.gather(1, labels[:, None]) for each in (good, same)]).double()
    sizes = z.square().mean((1, 2)).sqrt()
    a = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([a], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        return cross_entropy(torch.einsum("k,kbc->bc", a / sizes, z), labels) + PRIOR / 2 / 120 * a.square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert loss == pytest.approx(float(objective().detach()), abs=1e-5)
    assert weights[:2] == pytest.approx((a / sizes).tolist(), rel=1e-2)


def test_where_the_weights_begin_changes_nothing_but_the_number_of_steps() -> None:
    labels = torch.arange(6).repeat(20)
    scores = [torch.nn.functional.one_hot(labels, 6) + unit(120, 6, seed=seed) for seed in (3, 4)]
    loss, weights = weigh(scores, labels)
    again = weigh(scores, labels, start=[40.0, 0.0])
    assert again[0] == pytest.approx(loss, abs=1e-5)
    assert again[1] == pytest.approx(weights, rel=1e-2)


def test_few_images_that_are_all_right_are_not_believed_without_end() -> None:
    loss, (weight,) = weigh([torch.eye(3)], torch.arange(3))
    assert 0 < loss < 0.2
    assert weight < 20


def test_text_that_tells_nothing_is_no_voice_at_all() -> None:
    labels = torch.arange(6).repeat(20)
    assert calibrated(unit(120, 6, seed=3) - torch.nn.functional.one_hot(labels, 6), labels)[1] == 1.0


def test_many_images_are_judged_in_parts_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, scores = torch.arange(6).repeat(20), [unit(120, 6, seed=seed) for seed in (3, 4)]
    whole = weigh(scores, labels)
    monkeypatch.setattr("trainer.aape_plus.stacking.ENTRIES", 7 * 6)
    parts = weigh(scores, labels)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert parts[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("shots", [1, 2, 4, 8])
def test_it_is_at_least_as_good_as_zero_shot_where_images_tell_the_classes_apart(shots: int) -> None:
    task, held = small_task(shots=shots), small_images(draw=30, shots=40)
    zero_shot = float(((held.embeddings @ task.text.template.T).argmax(1) == held.labels).double().mean())
    assert accuracy(PLUS.fit(task, seed=1), held, task.text) >= zero_shot


def test_without_scores_of_the_images_it_is_the_text() -> None:
    task, x = small_task(), unit(20, WIDTH, seed=4)
    predictor = PLUS.fit(task, seed=1)
    predictor.text_weight = 1.0
    shots = predictor.shots
    nothing = [torch.zeros_like(each) for each in (shots.weight, shots.bias, shots.keys, shots.values)]
    bare = replace(predictor, shots=ShotsPredictor(shots.names, *nothing, shots.sharpness))
    torch.testing.assert_close(bare.logits(x, task.text), predictor.text_head.logits(x, task.text))


def test_new_classes_are_judged_by_their_text_alone_and_do_not_win_beside_fitted_ones() -> None:
    task, x = small_task(), unit(30, WIDTH, seed=4)
    new = replace(small_text(4, seed=50), names=("a", "b", "c", "d"))
    predictor, held = PLUS.fit(task, seed=1), small_images(draw=30)
    assert torch.equal(predictor.logits(x, new), predictor.text_head.logits(x, new))
    everything = joined(task.text, new)
    logits = predictor.logits(held.embeddings, everything)
    assert float((logits.argmax(1) == held.labels).double().mean()) > 0.8
    own = predictor.logits(held.embeddings, task.text)
    torch.testing.assert_close(logits[:, :6].log_softmax(1), own.log_softmax(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[:, 6:], predictor.text_head.logits(held.embeddings, new))
    towards_new = small_images(4, seed=50, draw=30)  # fitted classes take some of these where any score speaks for them
    to_new = predictor.logits(towards_new.embeddings, everything).argmax(1) >= 6
    predictor.unseen = -100.0
    assert int(to_new.sum()) > int((predictor.logits(towards_new.embeddings, everything).argmax(1) >= 6).sum())


def test_fitted_classes_are_known_by_name_in_any_order() -> None:
    task, x = small_task(), unit(9, WIDTH, seed=4)
    predictor = PLUS.fit(task, seed=1)
    order = [3, 0, 5]
    expected = predictor.logits(x, task.text)[:, order]
    torch.testing.assert_close(predictor.logits(x, task.text.select(order)), expected)


@pytest.mark.parametrize("val", [True, False])
@pytest.mark.parametrize(("classes", "shots"), [(6, 1), (2, 1), (2, 2), (6, 4), (3, 40)])
def test_every_number_of_shots_and_classes_is_fitted_and_says_what_decided(classes: int, shots: int, val: bool) -> None:
    task = small_task(classes, shots, val=val)
    predictor = PLUS.fit(task, seed=1)
    assert torch.isfinite(predictor.logits(unit(4, WIDTH).half(), task.text)).all()
    note = str(predictor.info["selection"])
    assert ("validation images" in note) == val
    assert ("each shot left out" in note) == (shots >= 4 or (shots > 1 and not val))
    if shots == 1 and not val:
        assert (predictor.info["labels_ridge"], predictor.info["labels_weight"]) == (USUAL_STRENGTH, USUAL_RIDGE)
        assert "val_accuracy" not in predictor.info


def test_without_prompts_the_template_speaks() -> None:
    task = small_task()
    bare: Task = replace(task, text=replace(task.text, prompts=None, mask=None))
    predictor = PLUS.fit(bare, seed=1)
    assert predictor.info["class_text"] == "template"
    assert accuracy(predictor, small_images(draw=30), bare.text) > 0.8


def test_prompts_that_say_nothing_give_way_to_the_template() -> None:
    task = small_task()
    assert task.text.prompts is not None
    noise = unit(*task.text.prompts.shape, seed=77)
    predictor = PLUS.fit(replace(task, text=replace(task.text, prompts=noise)), seed=1)
    assert predictor.text_head.share >= 0.75


def test_the_same_seed_gives_the_same_scores() -> None:
    task, x = small_task(), unit(9, WIDTH, seed=4)
    first, second = (PLUS.fit(task, seed=3).logits(x, task.text) for _ in range(2))
    assert torch.equal(first, second)


def test_another_width_or_missing_prompts_are_refused_in_one_line() -> None:
    task = small_task()
    predictor = PLUS.fit(task, seed=1)
    with pytest.raises(UserError, match="the images are 7 wide, the class text 24 and the fitted shots 24: embed all"):
        predictor.logits(unit(2, 7), task.text)
    assert predictor.info["class_text"] != "template"
    with pytest.raises(UserError, match="needs reference prompts and the task has none"):
        predictor.logits(unit(2, WIDTH), replace(task.text, prompts=None, mask=None))
    with pytest.raises(UserError, match="no training image of class 'class 2'"):
        PLUS.fit(replace(task, train=task.train.take((task.train.labels != 2).nonzero()[:, 0])), seed=1)


def test_identical_images_are_no_trouble() -> None:
    task = small_task(3, 2, val=False)
    same = Images(task.train.embeddings[:1].expand(len(task.train), -1).clone(), task.train.labels)
    predictor = PLUS.fit(replace(task, train=same), seed=1)
    assert torch.isfinite(predictor.logits(unit(4, WIDTH), task.text)).all()


LONG = [12, 8, 5, 3, 2, 1]


def long_tailed(seed: int) -> tuple[Task, Images]:
    """A task whose last class has a twelfth of the shots of the first, text that says little, and balanced images."""
    images = small_images(6, 12, seed=seed)
    place = torch.arange(12).repeat(6)
    few = images.take((place < torch.tensor(LONG)[images.labels]).nonzero()[:, 0])
    task = small_task(seed=seed)
    text = replace(task.text, template=unit(6, WIDTH, seed=seed + 60), prompts=None, mask=None)
    return Task(text, few, task.val), small_images(6, 50, seed=seed, draw=30)


@pytest.mark.parametrize("lift", [0.5, 1.0])
def test_a_lifted_ridge_and_its_leave_one_out_equal_the_naive_fits(lift: float) -> None:
    task, _ = long_tailed(0)
    x, labels = task.train.embeddings.double(), task.train.labels
    naive = torch.zeros(len(labels), 6, dtype=torch.float64)
    for i, label in enumerate(labels.tolist()):
        naive[i, label] = (sum(LONG) / 6 / LONG[label]) ** lift
    voices = Voices(task.train, None, None, classes=6, leave=True)
    setting = Setting("labels", 0.3, 0.0, lift)
    ridge = fit_ridge(task.train.embeddings)
    found = voices.fitted(setting)
    expected = naive_ridge(x, naive, 0.3 * ridge.scale)
    torch.testing.assert_close((found.weight, found.bias), expected, atol=1e-9, rtol=1e-7)
    said = voices.said(setting)
    several = [i for i, label in enumerate(labels.tolist()) if LONG[label] > 1]
    for row, i in zip(said, several, strict=True):
        others = torch.arange(len(x)) != i
        weight, bias = naive_ridge(x[others], naive[others], 0.3 * ridge.scale)
        torch.testing.assert_close(row.double(), weight @ x[i] + bias, atol=1e-5, rtol=1e-4)


def test_classes_with_few_shots_are_lifted_where_that_is_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    gains, tails = [], []
    for seed in range(4):
        task, test = long_tailed(seed)
        found = PLUS.fit(task, seed=1)
        with monkeypatch.context() as patch:
            patch.setattr("trainer.aape_plus.voices.LIFTS", (0.0,))
            plain = PLUS.fit(task, seed=1)
        tail = test.take((test.labels > 2).nonzero()[:, 0])
        for images, into in ((test, gains), (tail, tails)):
            one, other = (accuracy(each, images, task.text) for each in (plain, found))
            into.append(other - one)
    assert sum(tails) / len(tails) > 0.03
    assert sum(gains) / len(gains) > 0.0


def test_with_as_many_shots_of_every_class_nothing_is_lifted_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    found = PLUS.fit(task, seed=1)
    monkeypatch.setattr("trainer.aape_plus.voices.LIFTS", (0.0,))
    plain = PLUS.fit(task, seed=1)
    assert torch.equal(found.shots.weight, plain.shots.weight)
    assert torch.equal(found.shots.bias, plain.shots.bias)
    assert not [name for name in found.info if name.endswith("_lift")]
