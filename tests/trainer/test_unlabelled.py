"""Images without labels: what a method gets of them and when, pseudo-labels, and the cache of the surest images."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import CLASSES, fast, make_stores
from torch.nn.functional import cross_entropy, normalize

from pipeline.features.second import import_second
from pipeline.ingest import ingest
from pipeline.ingest.decided import with_decisions
from pipeline.verify import verify
from stages import ImageStore, UserError
from stages.params import DataParams
from tests.trainer.small_tasks import WIDTH, small_images, small_task, small_text, unit
from trainer.data import Images, Task, Unlabelled
from trainer.data.features import Features, load_features
from trainer.methods.family.pseudo_labels import GRIP, IFPL, SelfTaught, round_size, surest
from trainer.methods.family.unsupervised_cache import EVEN, TFUP, EvenlyTaught, divergence, representative
from trainer.protocols import PROTOCOLS
from trainer.protocols.unlabelled import SemiSupervised, Transductive, Unsupervised
from trainer.report.page.blocks import Code
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections.provenance import section
from trainer.runs.inputs import Inputs, load_inputs
from trainer.runs.record import summarize
from trainer.runs.run import run


def unlabelled_task(*, shots: int = 0, seed: int = 0) -> tuple[Task, Images]:
    """A task whose unlabelled images are many, and test images; with shots or without a label."""
    task = small_task(shots=max(shots, 1), val=False, seed=seed)
    if not shots:
        task = replace(task, train=task.train.take(torch.arange(0)))
    blurred = normalize(task.text.template + 1.5 * unit(6, WIDTH, seed=seed + 50), dim=-1)
    task = replace(task, text=replace(task.text, template=blurred))
    seen = Unlabelled.of(small_images(shots=30, seed=seed, draw=40))
    return replace(task, unlabelled=seen), small_images(shots=30, seed=seed, draw=80)


def accuracy(logits: torch.Tensor, images: Images) -> float:
    return float((logits.argmax(1) == images.labels).double().mean())


def zero_shot(task: Task, images: Images) -> float:
    return accuracy(images.embeddings @ task.text.template.T, images)


@pytest.mark.parametrize("each", [1, 3, 40])
def test_pseudo_labels_are_those_of_going_through_all_shares_from_the_largest_down(each: int) -> None:
    shares = (9 * torch.randn(30, 5, generator=torch.Generator().manual_seed(each)) + torch.arange(5)).softmax(1)
    rows, labels = surest(shares, each)
    free, short = set(range(30)), dict.fromkeys(range(5), min(each, 30))
    naive = {}
    for share, row, label in sorted(((float(shares[r, c]), r, c) for r in range(30) for c in range(5)), reverse=True):
        if row in free and short[label]:
            free.remove(row)
            short[label] -= 1
            naive[row] = label
        assert share >= 0
    assert dict(zip(rows.tolist(), labels.tolist(), strict=True)) == naive


def test_pseudo_labels_are_balanced_where_zero_shot_hardly_names_a_class() -> None:
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([4.0, 0.0, 0.0])
    assert logits.argmax(1).bincount(minlength=3)[1:].max() < 5
    _, labels = surest(logits.softmax(1), 10)
    assert labels.bincount().tolist() == [10, 10, 10]


def test_the_last_round_of_grip_labels_every_image_and_no_round_of_ifpl_does() -> None:
    sizes = [round_size(turn, rounds=GRIP.rounds, each=GRIP.each, images=95, classes=3) for turn in range(1, 11)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 3
    assert 3 * sizes[-1] >= 95
    assert round_size(10, rounds=IFPL.rounds, each=IFPL.each, images=95, classes=3) == 16


def test_shots_and_pseudo_labels_weigh_the_same_however_many_there_are() -> None:
    images, start = small_images(3, 4), unit(3, 24, seed=9)
    learner = SelfTaught(start, 0.05, 3, images)
    loss = learner.losses(torch.arange(12), images, torch.Generator())["loss"]
    each = cross_entropy(images.embeddings @ start.T / 0.05, images.labels, reduction="none")
    torch.testing.assert_close(loss, (each[:3].mean() + each[3:].mean()) / 2)


def test_grip_labels_better_than_the_zero_shot_that_taught_it_without_a_single_label() -> None:
    task, test = unlabelled_task()
    found = GRIP.fit(task, seed=1)
    assert accuracy(found.logits(test.embeddings, task.text), test) > zero_shot(task, test) + 0.02


def test_a_transductive_method_is_zero_shot_until_it_is_shown_the_images_that_it_judges() -> None:
    task, test = unlabelled_task()
    waiting = replace(task, unlabelled=None, transductive=True)
    for method in (GRIP, TFUP):
        found = method.fit(waiting, seed=1)
        assert accuracy(found.logits(test.embeddings, task.text), test) == zero_shot(task, test)
        together = found.split_logits(Unlabelled.of(test), task.text)
        assert accuracy(together, test) > zero_shot(task, test) + 0.02


def test_what_a_method_gets_of_unlabelled_images_has_no_field_that_could_hold_a_label(tmp_path: Path) -> None:
    make_stores(tmp_path)
    features = load_features(tmp_path, "w", "lite")
    assert {field.name for field in fields(Unlabelled)} == {"embeddings", "views", "student"}
    some = SemiSupervised(2, "semi-supervised").task(features, "none", seed=1)
    assert some.unlabelled is not None
    assert len(some.unlabelled) == 6 * CLASSES
    assert len(some.train) == 2 * CLASSES
    drawn = {tuple(row) for row in some.train.embeddings.tolist()}
    assert not drawn & {tuple(row) for row in some.unlabelled.embeddings.tolist()}
    bare = Unsupervised("all", "unsupervised").task(features, "none", seed=1)
    assert bare.unlabelled is not None
    assert len(bare.unlabelled) == 8 * CLASSES
    assert not len(bare.train)
    assert not len(bare.val)


def test_no_protocol_reads_a_test_image_before_everything_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stores(tmp_path)
    names = ["few-shot", "semi-supervised", "unsupervised", "transductive"]
    settings = fast(protocols=names, methods=["zero-shot", "fpl", "tfup"], shots=2)
    fitted: list[str] = []
    read, fit = Features.test, type(TFUP).fit

    def watched(self: Features, *, views: bool = False) -> object:
        fitted.append("test")
        return read(self, views=views)

    def fitting(self: object, task: Task, *, seed: int) -> object:
        fitted.append("fit")
        assert task.unlabelled is None or not task.transductive
        return fit(self, task, seed=seed)  # type: ignore[arg-type]

    monkeypatch.setattr(Features, "test", watched)
    monkeypatch.setattr(type(TFUP), "fit", fitting)
    record = run(settings, Inputs(load_features(tmp_path, "w", "lite")), jobs=1)
    assert fitted.count("test") == 1
    assert fitted[-1] == "test"
    assert "fit" in fitted
    assert record.protocols["transductive"].title == "transductive, 2 shots, and images of the test split, no labels"
    found = summarize(record)
    assert set(found["few-shot"]) == {"zero-shot"}
    assert set(found["transductive"]) == {"zero-shot", "fpl", "tfup"}
    assert any("few-shot: left out are methods that learn from images without labels" in note for note in record.notes)


def test_transductive_learning_goes_without_a_shot_and_unsupervised_leaves_out_what_needs_labels(
    tmp_path: Path,
) -> None:
    make_stores(tmp_path)
    settings = fast(protocols=["transductive", "unsupervised"], methods=["zero-shot", "logistic", "grip"], shots=0)
    record = run(settings, Inputs(load_features(tmp_path, "w", "lite")))
    assert {fit.method for fit in record.fits} == {"zero-shot", "grip"}
    assert sum("no image is labelled: left out are methods that learn from labels: logistic" in n for n in record.notes)


def test_bad_input_semi_supervised_without_an_image_left_and_pseudo_labels_without_images_are_refused(
    tmp_path: Path,
) -> None:
    make_stores(tmp_path)
    features = Inputs(load_features(tmp_path, "w", "lite"))
    with pytest.raises(UserError, match=r"--shots 8 takes every training image, .*lower --shots"):
        run(fast(protocols=["semi-supervised"], methods=["zero-shot"], shots=8), features)
    with pytest.raises(UserError, match=r"--shots 9: 4 of 4 classes have fewer training images: .*: lower --shots, or"):
        run(fast(protocols=["semi-supervised"], methods=["zero-shot"], shots=9), features)
    with pytest.raises(UserError, match=r"of which it gives none: grip \(--protocols semi-supervised, unsupervised"):
        run(fast(methods=["grip"]), features)


def test_two_images_are_as_far_apart_as_what_zero_shot_says_of_them() -> None:
    shares = (3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(5))).softmax(1)
    one, other = shares[:2], shares[2:]
    for i, p in enumerate(one):
        for j, q in enumerate(other):
            naive = sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True))
            assert float(divergence(one, other)[i, j]) == pytest.approx(naive, abs=1e-5)


def test_the_cache_adds_to_zero_shot_what_alike_images_were_taken_for() -> None:
    task, test = unlabelled_task()
    found = TFUP.fit(task, seed=1)
    x = test.embeddings[:3]
    for row, logits in zip(x, found.logits(x, task.text), strict=True):
        plain = (row @ found.weights.T / found.tau).softmax(0)
        alike = []
        for key in found.keys:
            own = (key @ found.weights.T / found.tau).softmax(0)
            alike.append(row @ key / found.tau_keys - (plain * (plain / own).log()).sum())
        shares = torch.stack(alike).softmax(0)
        cached = torch.stack([shares[found.labels == label].sum() for label in range(6)])
        torch.testing.assert_close(
            logits.exp(), (plain + found.alpha * cached) / (1 + found.alpha), atol=1e-4, rtol=1e-3
        )
    assert accuracy(found.logits(test.embeddings, task.text), test) > zero_shot(task, test)


def test_of_the_surest_images_those_nearest_to_their_mean_stay() -> None:
    task, _ = unlabelled_task()
    assert task.unlabelled is not None
    shares = (task.unlabelled.embeddings @ task.text.template.T / 0.05).softmax(1)
    kept = representative(shares, task.unlabelled)
    assert kept.labels.bincount().tolist() == [8] * 6
    rows, labels = surest(shares, 16)
    sure = task.unlabelled.labelled(rows, labels)
    for label in range(6):
        own = sure.embeddings[sure.labels == label]
        near = own @ own.mean(0)
        stay = {tuple(row) for row in own[near.topk(8).indices].tolist()}
        assert stay == {tuple(row) for row in kept.embeddings[kept.labels == label].tolist()}


def test_the_trained_form_pays_for_a_mean_prediction_that_is_not_even() -> None:
    images, text = small_images(), small_text()
    learner = EvenlyTaught(images.embeddings, text.template, 0.05, 0, images)
    found = learner.losses(torch.arange(len(images)), images, torch.Generator().manual_seed(1))
    plain = SelfTaught(text.template, 0.05, 0, images).losses(torch.arange(len(images)), images, torch.Generator())
    torch.testing.assert_close(found["loss"], plain["loss"] + EVEN * found["even"])
    assert -torch.tensor(6.0).log() < found["even"] < 0


def test_every_protocol_says_whether_it_shows_images_without_labels() -> None:
    gives = {name for name, each in PROTOCOLS.items() if each.gives_unlabelled is not None}
    assert gives == {"semi-supervised", "unsupervised", "transductive"}
    assert Transductive(0, "t").gives_labels is False
    assert Transductive(4, "t").gives_labels is True


def second_file(cache: Path, place: Path, *, drop: int = 0) -> Path:
    """Embeddings of a second encoder that tells the classes better than the first, of other width."""
    features = load_features(cache, "w", "lite")
    ids = [*features.train.image_ids, *features.val.image_ids, *features.test().image_ids][drop:]
    labels = torch.tensor([int(image_id.split("/")[1]) for image_id in ids])
    rows = torch.eye(CLASSES, 7)[labels] + 0.1 * unit(len(ids), 7, seed=4)
    np.savez(place, embedding=3 * rows.numpy(), image_id=np.array(ids))
    return place.with_suffix(".npz") if place.suffix != ".npz" else place


def test_a_second_encoder_taught_without_a_label_corrects_the_first(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", noise=2.5, per_split={"train": 40, "val": 3, "test": 30})
    file = second_file(tmp_path / "cache", tmp_path / "dino.npz")
    rows, spare = import_second("w", file, encoder="dino", cache=tmp_path / "cache", precision="float16")
    assert (rows, spare) == (73 * CLASSES, 0)
    with pytest.raises(UserError, match="that lite made here of the pictures: give the second encoder another name"):
        import_second("w", file, encoder="lite", cache=tmp_path / "cache", precision="float16")
    assert import_second("w", file, encoder="dino", cache=tmp_path / "cache", precision="float16") == (rows, spare)
    settings = fast(protocols=["unsupervised"], methods=["cupl", "nola", "nola-student"], student_encoder="dino",
                    sources=["llm"])  # fmt: skip
    record = run(settings, load_inputs(settings, "w", cache=tmp_path / "cache"))
    page = section(DataSet(record, tmp_path, tmp_path / "cache"))
    assert page is not None
    (commands,) = (block.text for block in page.blocks if isinstance(block, Code))
    assert "embed-images --dataset w --from dino.npz --encoder dino" in commands, "they make the second store too"
    found = {method: by["accuracy"].mean or 0 for method, by in summarize(record)["unsupervised"].items()}
    assert found["nola-student"] > found["cupl"] + 0.05
    assert found["nola"] > found["cupl"] - 0.05


def test_a_data_set_that_came_as_embeddings_has_a_second_encoder_too_which_an_ingest_of_the_same_images_keeps(
    tmp_path: Path,
) -> None:
    cache, labels = tmp_path / "cache", np.arange(24) % 3
    rows = torch.eye(3, 6)[torch.from_numpy(labels)] + 0.1 * unit(24, 6, seed=1)
    about = {"class_id": labels, "class_names": np.array(["a", "b", "c"]), "text_template": np.eye(3, 6)}
    ids = np.array([f"image-{i}" for i in range(24)])
    np.savez(tmp_path / "f.npz", embedding=rows.numpy(), image_id=ids, split=np.array(["train", "test"] * 12), **about)
    np.savez(tmp_path / "dino.npz", embedding=torch.eye(3, 9)[torch.from_numpy(labels)].numpy(), image_id=ids)
    for _ in range(2):
        ingest("f", str(tmp_path / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=cache)
        if not ImageStore(cache, "f", "dino").exists():
            import_second("f", tmp_path / "dino.npz", encoder="dino", cache=cache, precision="float16")
        found = load_features(cache, "f", "clip-x", student="dino").train.images
        assert found.student is not None
        assert (found.student.argmax(1) == found.labels).all()
        assert not verify(cache).faults
    again, _ = with_decisions(cache, "f", DataParams())
    assert (again.source, again.encoder_name) == (str(tmp_path / "f.npz"), "clip-x"), "`pipeline ingest f` is enough"


def test_bad_input_a_second_encoder_that_is_not_there_or_of_other_images_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    make_stores(cache)
    with pytest.raises(
        UserError, match=r"no embeddings by a second encoder, and nola reads them: embed .*--student-enc"
    ):
        run(fast(protocols=["unsupervised"], methods=["nola"]), Inputs(load_features(cache, "w", "lite")))
    with pytest.raises(UserError, match="no images store of encoder 'dino', only of lite"):
        load_features(cache, "w", "lite", student="dino")
    with pytest.raises(UserError, match=r"no embedding of 2 of \d+ images of w \(first: "):
        import_second("w", second_file(cache, tmp_path / "few.npz", drop=2), encoder="dino", cache=cache,
                      precision="float16")  # fmt: skip
    np.savez(tmp_path / "bare.npz", embedding=np.ones((4, 3)))
    with pytest.raises(UserError, match=r"expected `embedding` .N, D. and `image_id`"):
        import_second("w", tmp_path / "bare.npz", encoder="dino", cache=cache, precision="float16")
    import_second("w", second_file(cache, tmp_path / "all.npz"), encoder="dino", cache=cache, precision="float16")
    assert load_features(cache, "w", "lite", student="dino").train.images.student is not None
    make_stores(cache, per_split={"train": 9, "val": 3, "test": 12})
    with pytest.raises(UserError, match=r"were made from different manifest"):
        load_features(cache, "w", "lite", student="dino")
