"""Classes with unequal numbers of images: all of them, or up to a number of shots, counted and said."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Command
from sklearn.linear_model import LogisticRegression as Reference
from small_stores import make_stores
from torch.nn.functional import cross_entropy, normalize

from aape import open_features
from stages.params import Params
from tests.trainer.small_tasks import WIDTH, small_images, small_task, unit
from trainer.aape.losses import clip_reward
from trainer.data import Images, Task
from trainer.data.draws import few_shot, mean_shots, select, usual_shots
from trainer.data.features import load_features
from trainer.methods.aape_plus import AAPEPlus
from trainer.methods.gda import GDA
from trainer.methods.linear import LogisticRegression, NearestCentroid, fit_logistic
from trainer.methods.lp_plus_plus import LPPlusPlus, start_values
from trainer.methods.tip_adapter import TipAdapter

COUNTS = [1, 2, 3, 5, 8, 13]


def cut(images: Images, counts: list[int]) -> Images:
    """The first images of each class."""
    rows = [(images.labels == label).nonzero()[:count, 0] for label, count in enumerate(counts)]
    return images.take(torch.cat(rows))


def unequal_task(counts: list[int], *, val: bool = True) -> Task:
    task = small_task(shots=max(counts))
    return Task(task.text, cut(task.train, counts), task.val if val else task.val.take(torch.arange(0)))


def test_methods_count_images_and_not_classes_where_classes_are_unequal() -> None:
    task, x = unequal_task(COUNTS), unit(7, WIDTH, seed=4)
    shots, labels = task.train.embeddings, task.train.labels

    centroid = NearestCentroid().fit(task, seed=1)
    means = torch.stack([normalize(shots[labels == c].mean(0), dim=-1) for c in range(6)])
    torch.testing.assert_close(centroid.weight * centroid.info["tau"], means)

    cache = TipAdapter("tip-adapter", trains_keys=False).fit(task, seed=1)
    expected = x @ normalize(task.text.template, dim=-1).T / cache.tau
    for b in range(len(x)):
        for key, label in zip(shots, labels.tolist(), strict=True):
            expected[b, label] += cache.alpha * math.exp(-cache.beta * (1 - float(x[b] @ key)))
    torch.testing.assert_close(cache.logits(x, task.text), expected)

    gda = GDA().fit(task, seed=1)
    of_class = torch.stack([shots[labels == c].mean(0) for c in range(6)])
    centred = shots - of_class[labels]
    spread = centred.T @ centred + centred.square().sum() / (len(shots) - 1) * torch.eye(WIDTH)
    torch.testing.assert_close(gda.precision, WIDTH * torch.linalg.inv(spread), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gda.means, of_class)

    cosines = shots @ task.text.template.T
    weight, alpha = start_values(task.train, cosines, tau=0.01)
    torch.testing.assert_close(weight, torch.stack([shots[labels == c].sum(0) for c in range(6)]))
    own = torch.stack([cosines[labels == c, c].mean() for c in range(6)])
    torch.testing.assert_close(alpha, torch.full((6,), 250 * float(own.mean())))

    weight, _ = fit_logistic(task.train, 6, strength=10.0)
    reference = Reference(C=10.0, tol=1e-10, max_iter=5000).fit(shots.double(), labels)
    torch.testing.assert_close(weight, torch.from_numpy(reference.coef_).float(), atol=2e-3, rtol=1e-2)


def test_a_step_of_lp_plus_plus_is_the_gradient_of_the_mean_over_images() -> None:
    from trainer.methods.lp_plus_plus import _Probe

    task = unequal_task(COUNTS)
    probe = _Probe(task.text.template, 0.05, task.train)
    loss = probe.losses(torch.arange(len(task.train)), task.train, torch.Generator())["loss"]
    loss.backward()
    logits = probe(task.train.embeddings)
    share = (logits.softmax(1) - torch.eye(6)[task.train.labels]) / len(task.train)
    torch.testing.assert_close(probe.own.grad, share.T @ task.train.embeddings)
    torch.testing.assert_close(loss, cross_entropy(logits, task.train.labels))


def test_the_aggregator_is_rewarded_for_every_image_once() -> None:
    from stages.training import TrainParams
    from trainer.aape.learner import start_targets

    task = unequal_task(COUNTS)
    settings = TrainParams.model_validate({"aggregator_steps": 1})
    targets = start_targets(task.text, settings, 1)
    before = targets.of_classes()[task.train.labels].detach()
    (reward,) = targets.fit(task.train)
    each = [clip_reward(image[None], target[None], settings.reward_scale) for image, target in
            zip(task.train.embeddings, before, strict=True)]  # fmt: skip
    assert reward == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


def test_aape_plus_leaves_out_every_shot_but_those_that_stand_alone() -> None:
    twelve = small_task(classes=12, shots=4)
    task = Task(twelve.text, cut(twelve.train, [1] + [4] * 11), twelve.val)
    found = AAPEPlus().fit(replace(task, val=task.val.take(torch.arange(0))), seed=1)
    assert found.info["selection"] == "each shot left out"
    assert usual_shots(task.train.labels, 12) == 4
    assert mean_shots(task.train.labels) == 4
    many = Task(twelve.text, cut(twelve.train, [1] * 6 + [4] * 6), twelve.val.take(torch.arange(0)))
    assert "defaults taken" in str(AAPEPlus().fit(many, seed=1).info["selection"])


def test_choices_are_made_on_images_of_all_classes_or_of_nearly_all() -> None:
    found = select(unequal_task(COUNTS), seed=1)
    assert found.val is not None
    assert torch.bincount(found.val.labels).tolist() == [4] * 6, "a small class has validation images like another"
    none = select(unequal_task(COUNTS, val=False), seed=1)
    assert none.val is None, "one class of six would have no say"
    assert none.note == "none: one shot and no validation image of every class for 1 of them, defaults taken"
    without = small_task(classes=12, shots=12, val=False)
    task = Task(without.text, cut(without.train, [1, 2, *[12] * 10]), without.val.take(torch.arange(0)))
    held = select(task, seed=1)
    assert held.val is not None
    assert torch.bincount(held.val.labels, minlength=12).tolist() == [0, 1, *[3] * 10]
    assert torch.bincount(held.train.labels).tolist() == [1, 1, *[9] * 10]
    assert held.note == (
        "1 to 3 of the training images of every class held out by seed, then fitted again on all; "
        "1 with one shot have no say"
    )


def test_a_class_of_one_image_without_a_validation_image_has_no_say_where_the_others_have_some() -> None:
    twelve = small_task(classes=12, shots=4)
    rest = (twelve.val.labels > 0).nonzero()[:, 0]
    task = Task(twelve.text, cut(twelve.train, [1] + [4] * 11), twelve.val.take(rest))
    found = select(task, seed=1)
    assert not found.held_out
    assert found.val is not None
    assert torch.equal(found.val.labels.unique(), torch.arange(1, 12))
    assert found.note.endswith("; 1 with one shot and no validation image have no say")


@pytest.mark.parametrize("method", [LogisticRegression(), LPPlusPlus(), TipAdapter("tip-adapter", trains_keys=False)])
def test_held_out_shots_of_unequal_classes_are_learned_from_in_the_end(method: LogisticRegression) -> None:
    without = small_task(classes=12, shots=12, val=False)
    task = Task(without.text, cut(without.train, [1, 2, *[12] * 10]), without.val.take(torch.arange(0)))
    found = method.fit(task, seed=1)
    assert "held out" in str(found.info["selection"])
    right = (found.logits(task.train.embeddings, task.text).argmax(1) == task.train.labels).double().mean()
    assert right > 0.9


UNEQUAL = {0: 2, 2: 5}


def test_shots_are_those_that_there_are_where_up_to_a_number_or_all_are_asked_for(tmp_path: Path) -> None:
    make_stores(tmp_path, train=UNEQUAL)
    features = load_features(tmp_path, "w", "lite")

    def drawn(shots: int | str, **more: bool) -> list[int]:
        train, val = few_shot(features, shots, seed=1, **more)  # type: ignore[arg-type]
        assert torch.bincount(val.labels).tolist() == [min(3, 3 if shots == "all" else int(shots))] * 4
        return torch.bincount(train.labels).tolist()

    assert drawn(2) == [2] * 4
    assert drawn(6, up_to=True) == [2, 6, 5, 6]
    assert drawn("all") == [2, 8, 5, 8]
    six, all_, (eight, _) = (few_shot(features, 6, seed=1, up_to=True)[0], few_shot(features, "all", seed=1)[0],
                        few_shot(features, 8, seed=1, up_to=True))  # fmt: skip
    assert torch.equal(all_.embeddings, eight.embeddings)
    assert {tuple(row) for row in six.embeddings.tolist()} < {tuple(row) for row in all_.embeddings.tolist()}
    bunch = open_features(tmp_path, dataset="w")
    assert len(bunch.few_shot("all")["y"]) == 23
    assert len(bunch.few_shot(6, up_to=True)["y"]) == 19


def test_without_a_validation_split_only_images_that_are_no_shots_are_spare(tmp_path: Path) -> None:
    make_stores(tmp_path, train=UNEQUAL, per_split={"train": 8, "test": 12})
    features = load_features(tmp_path, "w", "lite")
    _, val = few_shot(features, 4, seed=1, up_to=True)
    assert torch.bincount(val.labels, minlength=4).tolist() == [0, 4, 1, 4]
    assert len(few_shot(features, "all", seed=1)[1]) == 0


def test_all_and_up_to_go_from_the_command_line_to_tables_record_and_checkpoints(
    tmp_path: Path, typed: Command
) -> None:
    make_stores(tmp_path / "cache", train=UNEQUAL, sources=("llm",))
    (tmp_path / "params.yaml").write_text(
        "datasets: [w]\nprompts: {llm: llm}\ntrain: {epochs: 3, aggregator_steps: 2}\n"
        "evaluation: {seeds: [1], methods: [aape, zero-shot], shots: 6,"
        " protocols: [few-shot, base-to-new, label-noise]}\n"
    )
    refused = typed("trainer", "run", "--no-report", cwd=tmp_path, code=1).stderr
    assert "6 shots asked, but 2 of 4 classes have fewer training images: plain, weave 2, <b>hole</b> 5; " in refused
    assert "lower --shots to 2, go on with what there is (--up-to, or --shots all), or add images" in refused
    assert not (tmp_path / "results" / "runs" / "w").exists()

    shown = typed("trainer", "run", "--shots", "2,6,all", "--up-to", cwd=tmp_path).stdout
    for title in ("few-shot, up to 2 shots", "few-shot, up to 6 shots", "few-shot, all shots"):
        assert f"w: {title}" in shown
    assert "label-noise, all shots, 25 % of the labels wrong" in shown
    assert "up to 6 shots: 2 of 4 classes have fewer training images: plain, weave 2, <b>hole</b> 5" in shown
    assert (
        "all shots: 2 to 8 images a class, 2 of 4 classes have fewer training images: plain, weave 2, <b>hole</b> 5"
        in shown
    )
    assert "25 % of up to 2 shots is less than one image a class: no label is wrong" in shown
    assert "25 % of all shots is less than one image in 1 of 4 classes: no label of theirs is wrong" in shown

    run = tmp_path / "results" / "runs" / "w"
    record = json.loads((run / "run.json").read_text())
    assert record["protocols"]["few-shot-all"]["shots"] == "all"
    assert record["protocols"]["few-shot-6"]["up_to"] is True
    kept = json.loads((run / "checkpoints" / "aape" / "checkpoint.json").read_text())["provenance"]
    assert (kept["shots"], kept["protocol"]) == ("all", "few-shot-all"), "the checkpoint is that of the most shots"
    assert list((tmp_path / "results" / "figures").glob("shots-w.png"))
    compared = typed("trainer", "compare", "results", "--methods", "aape,zero-shot", "--json", cwd=tmp_path).stdout
    assert "few-shot-all" in {row["protocol"] for row in json.loads(compared)}

    typed(
        "trainer", "sweep", "--over", "evaluation.shots=2,all", "--set", "evaluation.up_to=true",
        "--set", "evaluation.protocols=[few-shot]", cwd=tmp_path,
    )  # fmt: skip
    with (tmp_path / "results" / "sweeps" / "evaluation.shots" / "table.csv").open() as file:
        assert {row["evaluation.shots"] for row in csv.DictReader(file)} == {"2", "all"}
    told = typed("trainer", "cost", "--shots", "all", "--methods", "zero-shot", cwd=tmp_path).stdout
    assert "all shots, seed 1" in told


def test_settings_take_all_and_up_to_and_nothing_like_them() -> None:
    asked = Params.model_validate({"evaluation": {"shots": [1, "all"], "up_to": True}}).evaluation
    assert asked.shot_numbers == [1, "all"]
    for wrong in ({"shots": "every"}, {"shots": ["all", "all"]}, {"up_to": "yes"}, {"shots": []}):
        with pytest.raises(ValueError, match="evaluation"):
            Params.model_validate({"evaluation": wrong})


def test_equal_classes_are_drawn_as_ever_with_up_to() -> None:
    images = small_images(shots=5)
    assert (usual_shots(images.labels, 6), mean_shots(images.labels)) == (5, 5)


def test_one_class_with_spare_images_changes_no_choice_of_logistic_regression() -> None:
    """Learned from 16 shots of one class and 12 of the others, a strong ridge says the one class of every image."""
    task = small_task(classes=10, shots=16)
    spare = task.val.take((task.val.labels == 0).nonzero()[:, 0])
    none, some = (
        LogisticRegression().fit(replace(task, val=val), seed=1) for val in (spare.take(torch.arange(0)), spare)
    )
    assert float(some.info["C"]) < 100 * float(none.info["C"])
    assert abs(float(some.info["val_accuracy"]) - float(none.info["val_accuracy"])) < 0.06
    selection = select(replace(task, val=spare), seed=1)
    assert selection.val is not None
    weak, bias = fit_logistic(selection.train, 10, strength=1e-3)
    right = ((selection.val.embeddings @ weak.T + bias).argmax(1) == selection.val.labels).double().mean()
    assert right > 0.5, "a strong ridge is as good as any on equal classes"
