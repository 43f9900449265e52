"""Learning over several data sets: one h and g for all, and a start that is meta-learnt for one held out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_captions import make_caption_stores
from small_stores import fast, make_stores
from small_tasks import WIDTH, small_task, unit
from torch import Tensor
from torch.nn.functional import normalize

from stages import UserError
from stages.training import TrainParams
from trainer.aape import Start
from trainer.checkpoint import load_checkpoint
from trainer.data import ClassText, Images, Task
from trainer.data.features import Features
from trainer.methods.aape import AAPE
from trainer.protocols.multitask import Meta, Multitask
from trainer.runs.fits import FinishedFits
from trainer.runs.inputs import load_inputs
from trainer.runs.run import run
from trainer.several import SeveralTask
from trainer.several.joint import JointLearner, Mixture, Starts, learn_jointly
from trainer.several.meta import gate, gate_gradient, learn_start
from trainer.several.methods import META, MULTITASK, FromOthers

QUICK = TrainParams.model_validate({"epochs": 6, "aggregator_steps": 2, "lr_grid": [0.1]})
LONGER = QUICK.model_copy(update={"epochs": 40})


def tasks() -> dict[str, Task]:
    return {"a": small_task(), "b": small_task(classes=4, shots=3, seed=5)}


def test_every_step_takes_equally_many_images_of_each_set() -> None:
    mixture = Mixture(tuple(task.train for task in tasks().values()))
    assert len(mixture) == 2 * 48
    batch = mixture.draw(torch.arange(len(mixture)), torch.Generator())
    (first, rows, _), (second, again, images) = batch.parts
    assert (first, second) == (0, 1)
    assert rows.tolist() == list(range(48))
    assert again.bincount().tolist() == [4] * 12, "the twelve images of the smaller set come four times"
    assert torch.equal(images.labels, tasks()["b"].train.labels[again])


def test_the_joint_loss_is_the_mean_of_the_sets_own_losses_with_one_h_and_g() -> None:
    starts = Starts.of(tasks(), QUICK, seed=1)
    joint = starts.learner(starts.selection.train)
    rows = torch.arange(2 * 40)
    batch = starts.selection.train.draw(rows, torch.Generator())
    found = joint.losses(rows, batch, torch.Generator())["loss"]
    naive = []
    for (_, own, images), learner in zip(batch.parts, joint.learners, strict=True):
        assert learner.classifier is joint.classifier
        logits = torch.stack([learner(x[None])[0] for x in images.embeddings])
        task = torch.nn.functional.cross_entropy(logits, images.labels)
        assert isinstance(learner.targets, Tensor)
        generated = joint.classifier.generate(images.embeddings)
        assert generated is not None
        distill = ((generated - learner.targets[own]) ** 2).sum(1).mean()
        naive.append(task + QUICK.lambda_ * distill)
    torch.testing.assert_close(found, (naive[0] + naive[1]) / 2)


def test_one_data_set_alone_learns_as_aape_does() -> None:
    task = small_task()
    starts = Starts.of({"a": task}, QUICK, seed=3)
    learner = learn_jointly(starts, seed=3).learner
    assert isinstance(learner, JointLearner)
    alone = AAPE.variant("aape", QUICK).fit(task, seed=3)
    for name, value in learner.classifier.named_parameters():
        torch.testing.assert_close(value, alone.classifier.get_parameter(name))


def test_the_gates_gradient_is_that_of_the_loss_after_the_step() -> None:
    theta, phi = unit(7, seed=1).double(), unit(7, seed=2).double().requires_grad_()
    weight, target = unit(7, 7, seed=3).double(), unit(7, seed=4).double()

    def loss(at: Tensor) -> Tensor:
        return (weight @ at - target).square().sum()

    start = theta.clone().requires_grad_()
    inner = torch.autograd.grad(loss(start), start)[0]
    after = theta - 0.3 * gate(phi) * inner
    loss(after).backward()
    at = after.detach().requires_grad_()
    outer = torch.autograd.grad(loss(at), at)[0]
    torch.testing.assert_close(gate_gradient(phi.detach(), inner, outer, 0.3), phi.grad)


def misled(seed: int, *, classes: int = 6, shots: int = 8) -> tuple[Task, Images]:
    """A task whose text and images share a direction that says nothing of the class, the same in every data set."""
    rng = torch.Generator().manual_seed(seed)
    away = unit(1, WIDTH, seed=99)
    centres = unit(classes, WIDTH, seed=seed)
    centres = normalize(centres - centres @ away.T * away, dim=-1)

    def drawn(rows: Tensor, spread: float) -> Tensor:
        noise = 0.5 * normalize(torch.randn(rows.shape, generator=rng), dim=-1)
        return normalize(rows + noise + spread * torch.randn(len(rows), 1, generator=rng) * away, dim=-1)

    def images(count: int) -> Images:
        labels = torch.arange(classes).repeat_interleave(count)
        return Images(drawn(centres[labels], 1.5), labels)

    template = drawn(centres, 1.5)
    prompts = torch.stack([drawn(centres, 0.1) for _ in range(3)], 1)
    text = ClassText(
        tuple(f"{seed}-{i}" for i in range(classes)), template, prompts, torch.ones(classes, 3, dtype=torch.bool)
    )
    return Task(text, images(shots), images(4)), images(30)


def test_open_gates_change_nothing_and_closed_ones_hold_the_start() -> None:
    task, _ = misled(4)
    method = AAPE.variant("aape", QUICK.model_copy(update={"class_text": "template"}))
    start = learn_start(Starts.of(tasks(), QUICK, seed=1), seed=1, regulated=False, rounds=5).start.classifier
    shapes = {name: torch.ones_like(value) for name, value in start.named_parameters()}
    plain = method.fit_from(Start(start), task, seed=1)
    opened = method.fit_from(Start(start, shapes), task, seed=1)
    closed = method.fit_from(Start(start, {name: value * 0 for name, value in shapes.items()}), task, seed=1)
    moved = 0.0
    for name, value in plain.classifier.named_parameters():
        torch.testing.assert_close(opened.classifier.get_parameter(name), value, rtol=1e-4, atol=1e-6)
        assert torch.equal(closed.classifier.get_parameter(name), start.get_parameter(name))
        moved += float((value - start.get_parameter(name)).abs().sum())
    assert moved > 0


@pytest.mark.parametrize("kind", ["joint", "meta"])
def test_from_a_start_learnt_on_other_data_sets_a_few_steps_go_further(kind: str) -> None:
    settings = LONGER.model_copy(update={"class_text": "template"})
    sets = {f"s{k}": misled(k, classes=20, shots=4)[0] for k in (1, 2, 3)}
    own, test = misled(9, classes=20, shots=2)
    start, about = FromOthers("x", settings, kind)._start(SeveralTask({"own": own, **sets}, "own"), 1)
    assert about["learnt_on"] == "s1, s2, s3"
    quick = AAPE.variant("aape", settings.model_copy(update={"epochs": 3}))
    right = []
    for begin in (None, start):
        scores = quick.fit_from(begin, own, seed=1).logits(test.embeddings, own.text)
        right.append(float((scores.argmax(1) == test.labels).double().mean()))
    assert right[1] > right[0] + 0.05


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("several")
    make_stores(cache, dataset="w", sources=("llm",))
    make_stores(cache, dataset="v", sources=("people",), per_split={"train": 5, "val": 2, "test": 8}, noise=0.6)
    return cache


SETTINGS = fast(protocols=["multitask", "meta"], together=["v"], methods=["all"], checkpoints="all")


def test_each_data_set_is_judged_and_no_test_image_is_read_before_all_is_fitted(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    reads = Features.test

    def spied(self: Features, *, views: bool = False) -> object:
        read.append(self.dataset)
        return reads(self, views=views)

    monkeypatch.setattr(Features, "test", spied)

    class Spy:
        """Fits only while no test split was read."""

        def __init__(self, inner: object) -> None:
            self.inner = inner
            for name in ("name", "needs", "uses_prompts", "serves_new_classes"):
                setattr(self, name, getattr(inner, name))

        def fit(self, task: SeveralTask, *, seed: int) -> object:
            assert not read
            return self.inner.fit(task, seed=seed)  # type: ignore[attr-defined]

    for registry in (MULTITASK, META):
        for name, make in list(registry.methods.items()):
            monkeypatch.setitem(registry.methods, name, lambda settings, make=make: Spy(make(settings)))  # type: ignore[index]
    settings = SETTINGS.model_copy(update={"train": QUICK})
    record = run(settings, load_inputs(settings, "w", cache=stores, device="cpu"), jobs=1)
    found = {(fit.protocol, fit.method): fit.metrics for fit in record.fits}
    assert set(found["multitask", "multitask"]) == {"w", "v", "average"}
    assert set(found["meta", "meta-start"]) == {"accuracy", "macro_accuracy"}
    assert {method for _, method in found} == {*MULTITASK.methods, *META.methods}
    assert sorted(read) == ["v", "w"]
    assert "v has no prompts of llm: people stands in" in record.notes


def test_a_kept_checkpoint_serves_the_runs_own_classes(stores: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"train": QUICK})
    asked = settings.evaluation.model_copy(update={"methods": ["multitask-shared", "zero-shot"]})
    settings = settings.model_copy(update={"evaluation": asked})
    run(settings, load_inputs(settings, "w", cache=stores, device="cpu"), results=tmp_path, jobs=1)
    folder = tmp_path / "runs" / "w" / "all-checkpoints" / "multitask" / "seed-1" / "multitask-shared"
    found = load_checkpoint(folder)
    assert found.text.names == load_inputs(settings, "w", cache=stores, device="cpu").known.class_names
    assert found.logits(normalize(torch.ones(2, 16), dim=-1)).shape == (2, 4)


def test_where_the_other_data_sets_come_from_is_said_and_the_built_in_list_is_not_taken(stores: Path) -> None:
    plain = fast(protocols=["multitask", "meta", "cross-dataset"], methods=["zero-shot"])
    assert not load_inputs(plain, "w", cache=stores, device="cpu").others
    listed = plain.model_copy(update={"datasets": ["w", "v"]})
    record = run(listed, load_inputs(listed, "w", cache=stores, device="cpu"))
    line = "learnt with the 1 other data set that the settings list: v (--together names others)"
    assert {f"multitask: {line}", f"meta: {line}"} <= set(record.notes)
    asked = listed.evaluation.model_copy(update={"together": ["v"], "protocols": ["multitask"]})
    named = listed.model_copy(update={"evaluation": asked})
    assert line not in "".join(run(named, load_inputs(named, "w", cache=stores, device="cpu")).notes)


@pytest.mark.parametrize(("protocol", "option"), [("meta", "together"), ("cross-dataset", "targets")])
def test_of_the_listed_data_sets_those_that_fit_are_taken_and_the_others_are_counted(
    protocol: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stores(tmp_path, sources=("llm",))
    make_stores(tmp_path, dataset="v", sources=("llm",))
    make_caption_stores(tmp_path)
    plain = fast(protocols=[protocol], methods=["zero-shot"])
    some = plain.model_copy(update={"datasets": ["w", "v", "photos", "absent"]})
    assert [each.dataset for each in load_inputs(some, "w", cache=tmp_path, device="cpu").others[protocol]] == ["v"]
    assert (
        f"{protocol}: of 3 other data sets that the settings list 1 taken: v; 2 passed over: photos (captions, and no "
        f"classes), absent (not in {tmp_path}) (--{option} names others)"
    ) in capsys.readouterr().err
    none = plain.model_copy(update={"datasets": ["w", "absent"]})
    inputs = load_inputs(none, "w", cache=tmp_path, device="cpu")
    with pytest.raises(UserError, match=rf"name some with --{option} \(there are: v\)"):
        run(none, inputs)


def test_one_data_set_other_encoders_and_sets_without_text_are_refused(stores: Path) -> None:
    alone = fast(protocols=["multitask"], methods=["all"]).model_copy(update={"datasets": ["w"]})
    inputs = load_inputs(alone, "w", cache=stores, device="cpu")
    with pytest.raises(
        UserError,
        match=r"multitask cannot be run: it learns over several data sets: name some with --together \(there are: v\)",
    ):
        run(alone, inputs)
    features, other = (load_inputs(SETTINGS, name, cache=stores, device="cpu").features for name in "wv")
    assert features is not None
    assert other is not None
    for protocol in (Multitask, Meta):
        with pytest.raises(UserError, match=r"'w' is embedded by lite \(16 wide\) and 'v' by clip \(8 wide\)"):
            protocol(4, "x", (replace(other, encoder="clip", width=8),)).unfit(features)
    bare = replace(other, text={"none": replace(other.text["none"], is_text=False)}, sources=())
    assert Multitask(4, "x", (bare,)).unfit(features) == "no class text is embedded of v"


def test_a_finished_fit_is_told_from_one_with_other_shots_of_another_set(tmp_path: Path) -> None:
    finished, method = FinishedFits(tmp_path), MULTITASK.methods["zero-shot"](QUICK)
    task = SeveralTask(tasks(), "a")
    fewer = SeveralTask({"a": task.tasks["a"], "b": small_task(classes=4, shots=2, seed=5)}, "a")
    files = {finished.file(method, each, 1) for each in (task, fewer, SeveralTask(task.tasks, "b"))}
    assert len(files) == 3
    assert finished.file(method, SeveralTask(tasks(), "a"), 1) in files
