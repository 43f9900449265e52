"""Several classes an image in stage two: draws, metrics and losses against naive forms, methods, runs, prediction."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.ingest import ingest
from stages import UserError
from stages.params import DataParams, Params
from stages.training import TrainParams
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.checkpoints import choose_checkpoint
from trainer.data import ClassText
from trainer.data.long_tail import head_medium_tail, long_tail
from trainer.multilabel.closed import fit_one_vs_rest
from trainer.multilabel.data import Labelled, LabelTask
from trainer.multilabel.draws import draw_rows, few_shot_labels, select_labels
from trainer.multilabel.finish import mixed
from trainer.multilabel.losses import (
    asymmetric_loss,
    class_specific_embedding_loss,
    distribution_balanced_loss,
    ranking_loss,
)
from trainer.multilabel.metrics import average_precisions, best_threshold, f1_by_class, f1_of_all, mean_of
from trainer.multilabel.nouns import Nouns
from trainer.multilabel.registry import LABEL_METHODS
from trainer.multilabel.stacking import stack_labels
from trainer.predict import predict_files, predictions_csv
from trainer.report import text_verdict
from trainer.report.page.blocks import Chart, Code, Facts, Table
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections.labels import section
from trainer.report.page.sections.methods import section as methods_section
from trainer.report.page.sections.verdict import section as verdict_section
from trainer.runs.inputs import load_inputs
from trainer.runs.run import run
from trainer.suggest.known import known_of

NAMES = tuple(f"thing {c}" for c in range(6))
WIDTH = 16


def scene(count: int, seed: int, *, gap: float = 0.6, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    """Images as the sum of the directions of their classes, a shift that text does not have, and noise."""
    rng = np.random.default_rng(seed)
    base = np.linalg.qr(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)))[0]
    labels = rng.random((count, len(NAMES))) < 0.3
    x = labels @ base[: len(NAMES)] + gap * base[-1] + noise * rng.normal(size=(count, WIDTH))
    return normalize(torch.tensor(x, dtype=torch.float32), dim=-1), torch.tensor(labels)


def text(*, prompts: int = 5) -> ClassText:
    base = np.linalg.qr(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)))[0][: len(NAMES)]
    rng = np.random.default_rng(3)
    template = normalize(torch.tensor(base + 0.3 * rng.normal(size=base.shape), dtype=torch.float32), dim=-1)
    said = base[:, None] + 0.3 * rng.normal(size=(len(NAMES), prompts, WIDTH))
    mask = torch.ones(len(NAMES), prompts, dtype=torch.bool)
    return ClassText(NAMES, template, normalize(torch.tensor(said, dtype=torch.float32), dim=-1), mask)


def task(train: int = 60, val: int = 20, seed: int = 0) -> LabelTask:
    about = text()
    prompts, mask = about.require_prompts()
    owner = torch.arange(len(NAMES))[:, None].expand(mask.shape)[mask]
    sentences = Labelled(prompts[mask], torch.eye(len(NAMES), dtype=torch.bool)[owner])
    return LabelTask(about, Labelled(*scene(train, seed)), Labelled(*scene(val, seed + 100)), sentences)


# draws


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40))
def test_a_draw_has_k_images_of_each_class_or_all_that_there_are(seed: int, k: int, count: int) -> None:
    labels = np.random.default_rng(seed).random((count, 4)) < 0.3
    rows = draw_rows(labels, [k] * 4, seed=seed)
    assert (labels[rows].sum(0) >= np.minimum(labels.sum(0), k)).all()
    assert labels[rows].any(1).all(), "an image of no class is not drawn"
    assert len(rows) <= 4 * k
    assert (draw_rows(labels, [k] * 4, seed=seed) == rows).all()


def test_an_image_of_several_classes_is_counted_for_each() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    labels = np.concatenate([labels[:1], np.zeros((3, 3), bool)])
    assert draw_rows(labels, [1, 1, 1], seed=0).tolist() == [0]


def test_too_few_images_of_a_class_are_refused_with_the_mend() -> None:
    labels = torch.zeros(5, 2, dtype=torch.bool)
    labels[:4, 0] = True
    train, val = Labelled(torch.zeros(5, 3), labels), Labelled(torch.zeros(0, 3), labels[:0])
    with pytest.raises(UserError, match=r"2 shots asked, but 1 of 2 classes has fewer .*b 0; leave out the class"):
        few_shot_labels(train, val, 2, seed=0, names=["a", "b"])
    rows, split, choose = few_shot_labels(train, val, 2, seed=0, names=["a", "b"], up_to=True)
    assert (len(rows), split, len(set(rows) & set(choose))) == (2, "train", 0)
    assert len(few_shot_labels(train, val, "all", seed=0, names=["a", "b"])[0]) == 5, "all images, negatives too"


@given(st.integers(1, 64), st.floats(1, 200), st.integers(2, 40), st.integers(0, 99))
def test_a_long_tail_follows_its_formula(k: int, imbalance: float, classes: int, seed: int) -> None:
    counts, order = long_tail(k, imbalance, classes, seed=seed)
    assert sorted(order) == list(range(classes))
    for rank, label in enumerate(order):
        assert counts[label] == max(1, round(k * imbalance ** (-rank / (classes - 1))))
    parts = head_medium_tail(order)
    assert sorted(c for part in parts.values() for c in part) == list(range(classes))
    assert min(counts[c] for c in parts["head"]) >= max(counts[c] for c in parts["tail"])


def test_a_quarter_is_held_out_where_there_are_no_validation_images() -> None:
    found = select_labels(task(train=40, val=0), seed=1)
    assert found.held_out
    assert found.val is not None
    assert (len(found.train), len(found.val)) == (30, 10)
    assert select_labels(task(train=4, val=0), seed=1).val is None


# metrics and losses


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import average_precision_score, f1_score

    rng = np.random.default_rng(seed)
    scores, labels = rng.random((30, 5)).round(1), rng.random((30, 5)) < 0.3
    labels[:, 4] = False
    labels[0, :4] = True
    found = average_precisions(scores, labels)
    assert np.isnan(found[4])
    expected = [average_precision_score(labels[:, c], scores[:, c]) for c in range(4)]
    assert mean_of(found) == pytest.approx(np.mean(expected))
    decided = scores > 0.5
    assert f1_of_all(decided, labels) == pytest.approx(f1_score(labels, decided, average="micro"))
    each = f1_score(labels[:, :4], decided[:, :4], average=None, zero_division=0)
    assert f1_by_class(decided, labels)[:4] == pytest.approx(each)


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 1)), rng.random((50, 1)) < 0.4
    order = np.argsort(-scores[:, 0])
    hits = labels[order, 0]
    naive = np.mean([(hits[: at + 1].sum()) / (at + 1) for at in np.flatnonzero(hits)])
    assert average_precisions(scores, labels)[0] == pytest.approx(naive)


@given(st.integers(0, 2**31))
def test_no_threshold_has_a_larger_of1_than_the_chosen_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares, labels = rng.random((12, 3)), rng.random((12, 3)) < 0.4
    cut = best_threshold(shares, labels)
    assert 0 <= cut <= 1
    if labels.any():
        best = max(f1_of_all(shares > at, labels) for at in np.concatenate([[0], np.unique(shares)]))
        assert f1_of_all(shares > cut, labels) == pytest.approx(best)


def test_the_ranking_loss_is_its_double_sum() -> None:
    rng = np.random.default_rng(0)
    scores, labels = torch.tensor(rng.normal(size=(7, 4))), torch.tensor(rng.random((7, 4)) < 0.5)
    labels[0], labels[1] = True, False
    rows = []
    for s, y in zip(scores, labels, strict=True):
        pairs = [max(0.0, 1 - float(s[i]) + float(s[j])) for i in range(4) for j in range(4) if y[i] and not y[j]]
        rows += [np.mean(pairs)] if pairs else []
    assert float(ranking_loss(scores, labels, margin=1.0)) == pytest.approx(np.mean(rows))
    assert float(ranking_loss(scores[:2], labels[:2], margin=1.0)) == 0, "rows without a pair"


def test_the_losses_are_their_formulas_term_by_term() -> None:
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(9, 4)), rng.random((9, 4)) < 0.4
    y[0] = False
    n, total = np.array([8, 4, 2, 0]), 9
    at, labels, counts = torch.tensor(z), torch.tensor(y), torch.tensor(n)
    p = 1 / (1 + np.exp(-z))
    q = np.maximum(p - 0.05, 0)
    naive = -np.where(y, (1 - p) * np.log(p), q**2 * np.log(1 - q)).mean()
    assert float(asymmetric_loss(at, labels)) == pytest.approx(naive)
    one = np.maximum(n, 1)
    weight = one**-0.5 / (one**-0.5).mean()
    d = 1 - np.tanh(z)
    naive = (weight * np.where(y, d, np.maximum(0, one**-0.25 - d))).mean()
    assert float(class_specific_embedding_loss(torch.tanh(at), labels, counts)) == pytest.approx(naive)
    naive = 0.0
    for b in range(9):
        met = sum(1 / one[c] for c in range(4) if y[b, c])
        for c in range(4):
            r = (1 / one[c]) / met if met else 0.0
            v = z[b, c] - 0.05 * np.log(max(total / one[c] - 1, 1e-3))
            cost = np.log1p(np.exp(-v)) if y[b, c] else np.log1p(np.exp(2 * v)) / 2
            naive += (0.1 + 1 / (1 + np.exp(-10 * (r - 0.2)))) * cost / 36
    assert float(distribution_balanced_loss(at, labels, counts, images=total)) == pytest.approx(naive)


def test_rare_classes_are_held_further_from_strange_texts_and_weigh_more() -> None:
    """LMPT's reason to be: at equal cosines the gradient of a tail class is larger, and its margin reaches further."""
    cosines = torch.full((1, 2), 0.1, requires_grad=True)
    labels, counts = torch.zeros(1, 2, dtype=torch.bool), torch.tensor([100, 1])
    class_specific_embedding_loss(cosines, labels, counts).backward()  # type: ignore[no-untyped-call]
    assert cosines.grad is not None
    head, tail = cosines.grad[0].tolist()
    assert (head, tail > 0) == (0.0, True), "the head's margin of 0.32 is kept at a distance of 0.9, the tail's is not"


def test_one_vs_rest_is_scikit_learns_minimum() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = scene(60, 0)
    weight, bias = fit_one_vs_rest(Labelled(x, y), strength=10.0)
    for c in range(len(NAMES)):
        found = LogisticRegression(C=10.0, tol=1e-8, max_iter=5000).fit(x.numpy(), y[:, c].numpy())
        assert weight[c].numpy() == pytest.approx(found.coef_[0], abs=5e-3)
        assert float(bias[c]) == pytest.approx(found.intercept_[0], abs=5e-3)


def test_stacked_weights_are_the_best_that_are_not_negative() -> None:
    x, y = scene(200, 0)
    good = x @ text().template.T
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(0))
    loss, weights, _ = stack_labels([good, -good, noise], y)
    assert weights[0] > 0
    assert weights[1] == 0
    assert weights[2] < 0.2 * weights[0] * float(good.std()) + 0.2
    assert loss < stack_labels([noise], y)[0]
    assert stack_labels([-good], y)[1][0] > 0, "scores alone keep their order"


# words


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("Two DOGS and a cat.", {"dog", "cat"}),
        ("A hot dog on a table", {"hot dog", "table"}),
        ("Women near buses; a knife", {"person", "bus", "knife"}),
        ("a dogma about catalogues", set()),
        ("boxes of cherries", {"box", "cherry"}),
    ],
)
def test_a_sentence_names_classes_by_whole_words(sentence: str, classes: set[str]) -> None:
    names = ["dog", "cat", "hot dog", "table", "person", "bus", "knife", "box", "cherry"]
    found = Nouns(names, {"person": ["man", "woman", "women"]}).in_text(sentence)
    assert {names[c] for c in found} == classes


@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=4))
def test_any_sentence_and_names_can_be_looked_through(sentence: str, names: list[str]) -> None:
    assert all(0 <= label < len(names) for label in Nouns(names).in_text(sentence))


def test_mixed_sentences_have_the_classes_of_their_parts() -> None:
    found = mixed(task().sentences, seed=0)
    assert len(found) == 2 * len(task().sentences)
    assert found.labels.sum(1).max() == 3
    assert torch.linalg.vector_norm(found.embeddings, dim=1) == pytest.approx(1, abs=1e-5)


# methods


@pytest.mark.parametrize("name", list(LABEL_METHODS))
def test_every_method_tells_classes_and_keeps_its_seed(name: str) -> None:
    given_ = task()
    method = LABEL_METHODS[name](TrainParams(max_steps=40))
    found, again = (method.fit(given_, seed=1) for _ in range(2))
    x, y = scene(150, 9)
    scores = found.logits(x, given_.text)
    assert torch.equal(scores, again.logits(x, given_.text))
    measured = mean_of(average_precisions(scores.numpy(), y.numpy()))
    assert measured > (0.2 if name == "tai-shuffled" else 0.6)
    assert 0 < found.threshold < 1
    assert not {"test", "map"} & set(found.info)


def test_tai_learns_from_sentences_alone_what_the_names_do_not_say() -> None:
    """No image at all: where templates are poor and sentences good, the head learned on sentences is better."""
    given_ = task(train=0, val=0)
    x, y = scene(300, 5)
    found, score = {}, {}
    for name in ("zero-shot", "tai", "tai-shuffled"):
        found[name] = LABEL_METHODS[name](TrainParams()).fit(given_, seed=0)
        score[name] = mean_of(average_precisions(found[name].logits(x, given_.text).numpy(), y.numpy()))
    assert score["tai"] > score["zero-shot"] > score["tai-shuffled"]
    assert "no image" in str(found["tai"].info["selection"])
    decided = found["tai"].decided(x, given_.text)
    assert f1_of_all(decided.numpy(), y.numpy()) > 0.6, "what is fitted to sentences decides about images"


def test_one_image_a_class_is_enough_for_every_method() -> None:
    whole = task(train=40, val=0)
    rows = draw_rows(whole.train.labels.numpy(), [1] * len(NAMES), seed=0)
    small = LabelTask(whole.text, whole.train.take(torch.from_numpy(rows)), whole.val, whole.sentences)
    for name, make in LABEL_METHODS.items():
        found = make(TrainParams(max_steps=5)).fit(small, seed=0)
        assert torch.isfinite(found.logits(scene(5, 0)[0], small.text)).all(), name


# a run


def features(folder: Path, *, several: bool = True) -> Path:
    x, y = scene(240, 0)
    about = text()
    prompts, mask = about.require_prompts()
    owner = torch.arange(len(NAMES))[:, None].expand(mask.shape)[mask]
    y[:6] = torch.eye(6, dtype=torch.bool)
    y[120:126] = torch.eye(6, dtype=torch.bool)
    own = {"labels": y.numpy().astype(int)} if several else {"class_id": np.arange(240) % 6}
    np.savez(
        folder / "f.npz", embedding=x.numpy(), split=np.array(["train"] * 120 + ["test"] * 120), **own,
        class_names=np.array(NAMES), text_template=about.template.numpy(), prompts=prompts[mask].numpy(),
        prompt_class_id=owner.numpy(),
    )  # fmt: skip
    ingest("f", str(folder / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=folder / "cache")
    return folder / "cache"


def asked_for(**evaluation: Any) -> Params:
    asked = {"protocols": ["multi-label"], "methods": ["zero-shot", "tai", "aape-plus"], "shots": 4, "seeds": [1, 2]}
    return Params.model_validate({"encoder": "clip-x", "evaluation": asked | evaluation})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return features(tmp_path_factory.mktemp("several"))


def test_a_run_judges_several_classes_and_predict_gives_those_above_the_threshold(cache: Path, tmp_path: Path) -> None:
    asked = asked_for(protocols=["multi-label", "multi-label-long-tailed"], imbalance=4.0)
    record = run(asked, load_inputs(asked, "f", cache=cache, device="cpu"), results=tmp_path, jobs=1)
    assert set(record.fits[0].metrics) == {"map", "cf1", "of1"}
    tailed = [fit for fit in record.fits if fit.protocol == "multi-label-long-tailed"]
    assert set(tailed[0].metrics) >= {"map_head", "map_medium", "map_tail"}
    folder = tmp_path / "runs" / "f"
    with (folder / "label-predictions.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["method"] == "aape-plus"]
    kept = folder / "checkpoints" / "multi-label" / "aape-plus"
    test = np.load(cache.parent / "f.npz")["embedding"][120:]
    np.savez(tmp_path / "more.npz", embedding=test[:20])
    predicted, _ = predict_files([tmp_path / "more.npz"], kept, top=2, batch=8, device="cpu")
    first = [row for row in rows if row["protocol"] == "multi-label"][:20]
    assert [row["labels"] for row in predicted] == [json.loads(row["predicted"]) for row in first]
    assert "labels" in predictions_csv(predicted, top=2).splitlines()[0]
    with pytest.raises(UserError, match="several classes an image: `trainer predict`"):
        load_checkpoint(kept)
    chosen = choose_checkpoint(tmp_path, None, None)
    assert chosen.folder.parent == kept.parent
    assert "on images to choose by: mAP" in chosen.why
    said = text_verdict(record)
    assert "\n  best: " in said
    assert "methods by mAP on images to choose by" in said
    assert "\n  next: `trainer predict PATHS --dataset f` takes " in said
    page = section(DataSet(record, tmp_path, cache))
    assert page is not None
    (table,) = (block for block in page.blocks if isinstance(block, Table))
    assert {row[0].text for row in table.rows} == set(NAMES)
    hardness = [row[3].order for row in table.rows]
    assert hardness == sorted(hardness), "the hardest class comes first"


def test_the_page_says_which_method_tells_several_classes_best_and_how_to_use_it(cache: Path, tmp_path: Path) -> None:
    asked = asked_for(methods=["zero-shot", "logistic", "aape-plus", "aape-plus-no-text"])
    record = run(asked, load_inputs(asked, "f", cache=cache, device="cpu"), results=tmp_path, jobs=1)
    of = DataSet(record, tmp_path, cache)
    found = verdict_section(of)
    assert found is not None
    facts, use = found.blocks[:2]
    assert isinstance(facts, Facts)
    assert isinstance(use, Code)
    said, best = dict(facts.pairs), choose_checkpoint(tmp_path, None, None).folder.name
    assert said["Best method"].startswith(f"{best}: mAP ")
    assert "of 4 methods by mAP on images to choose by" in said["Best method"]
    assert "aape-plus-no-text" in said["What text was worth"]
    assert use.text.startswith("trainer predict FOLDER --dataset f")
    shown = methods_section(of)
    assert shown is not None
    charts = [block for block in shown.blocks if isinstance(block, Chart)]
    tables = [block for block in shown.blocks if isinstance(block, Table)]
    assert [column.title for column in tables[0].columns] == ["method", "mAP", "CF1", "OF1", "seconds"]
    assert "mAP of 4 methods" in charts[0].caption, "the picture shows what the best is chosen by"


def test_a_run_without_images_leaves_out_what_needs_them(cache: Path) -> None:
    asked = asked_for(shots=0, methods=["all"], seeds=[1])
    record = run(asked, load_inputs(asked, "f", cache=cache, device="cpu"), jobs=1)
    assert {fit.method for fit in record.fits} == {"zero-shot", "cupl", "tai", "tai-shuffled", "aape-plus"}
    assert any("no image is learned from" in note for note in record.notes)
    named = asked_for(shots=0, methods=["ridge"])
    with pytest.raises(UserError, match=r"ridge needs images to learn from: --shots 1 or more"):
        run(named, load_inputs(named, "f", cache=cache, device="cpu"), jobs=1)


def test_the_kind_of_data_set_and_the_protocol_have_to_fit(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="may have several classes, and few-shot needs one an image: --protocol multi-"):
        load_inputs(asked_for(protocols=["few-shot"]), "f", cache=cache, device="cpu")
    with pytest.raises(UserError, match="this needs one an image"):
        known_of(cache, "f", "clip-x")
    single = features(tmp_path, several=False)
    ingest("s", str(cache.parent / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=single)
    for protocol, option in (("multitask", "together"), ("cross-dataset", "targets")):
        other = asked_for(protocols=[protocol], **{option: ["s"]})
        with pytest.raises(UserError, match=rf"^s: its images .* {protocol} needs .* name others with --{option}$"):
            load_inputs(other, "f", cache=single, device="cpu")
    with pytest.raises(UserError, match="have one class each, and multi-label is for several: --protocol few-shot"):
        load_inputs(asked_for(), "f", cache=single, device="cpu")


def test_a_class_without_a_training_image_is_named_and_does_not_stop_all_shots(tmp_path: Path) -> None:
    x, y = scene(60, 0)
    y[:30, 2] = False
    y[40, 2] = True
    y[:6, :] = torch.eye(6, dtype=torch.bool)
    y[2] = False
    np.savez(
        tmp_path / "f.npz", embedding=x.numpy(), labels=y.numpy(), class_names=np.array(NAMES),
        split=np.array(["train"] * 30 + ["test"] * 30), text_template=text().template.numpy(),
    )  # fmt: skip
    ingest("f", str(tmp_path / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=tmp_path / "cache")
    asked = asked_for(shots="all", methods=["zero-shot", "logistic", "ridge"], seeds=[1])
    record = run(asked, load_inputs(asked, "f", cache=tmp_path / "cache", device="cpu"), jobs=1)
    assert any("1 class has no training image: thing 2" in note for note in record.notes)
    asked = asked_for(shots=1, methods=["zero-shot"], seeds=[1])
    with pytest.raises(UserError, match="thing 2 0"):
        run(asked, load_inputs(asked, "f", cache=tmp_path / "cache", device="cpu"), jobs=1)


def test_a_checkpoint_that_attends_keeps_the_prompts_one_by_one(tmp_path: Path) -> None:
    given_ = task(train=0, val=0)
    fitted = LABEL_METHODS["aape-plus"](TrainParams()).fit(given_, seed=0)
    assert fitted.attends
    about = {"encoder": "clip-x", "encoder_fingerprint": "f", "width": WIDTH}
    save_checkpoint(tmp_path, fitted, given_.text, provenance=about)
    x, _ = scene(20, 1)
    loaded = load_checkpoint(tmp_path, several=True)
    assert torch.equal(loaded.logits(x), fitted.logits(x, given_.text))
