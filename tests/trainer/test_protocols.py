"""The protocols: what is learned from, what is judged, and where the shots come from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_stores import CLASSES, NAMES, fast, make_stores

from stages import UserError
from stages.params import changed
from trainer.data import Images
from trainer.data.draws import few_shot
from trainer.data.features import load_features
from trainer.protocols.label_noise import LabelNoise, wrong_labels
from trainer.report.figures import by_noise
from trainer.report.page.blocks import Chart, Table
from trainer.report.page.sections import noise
from trainer.report.tables import most_shots, text_verdict
from trainer.runs.inputs import Inputs, load_inputs
from trainer.runs.record import summarize
from trainer.runs.run import run

METHODS = ["zero-shot", "nearest-centroid", "aape"]


def test_several_numbers_of_shots_are_several_rows(tmp_path: Path) -> None:
    make_stores(tmp_path)
    settings = fast(protocols=["few-shot", "base-to-new"], shots=[1, 4], methods=METHODS)
    record = run(settings, Inputs(load_features(tmp_path, "w", "lite")))
    found = summarize(record)
    assert list(found) == ["few-shot-1", "few-shot-4", "base-to-new-1", "base-to-new-4"]
    assert record.protocols["few-shot-4"].title == "few-shot, 4 shots"
    assert found["few-shot-1"]["zero-shot"]["accuracy"] == found["few-shot-4"]["zero-shot"]["accuracy"]


def test_cross_dataset_serves_the_targets_classes_with_what_was_learned_on_the_source(tmp_path: Path) -> None:
    make_stores(tmp_path)
    make_stores(tmp_path, dataset="other", names={0: "new one", 1: "new two", 2: "new three"}, sources=("llm",))
    settings = fast(protocols=["cross-dataset"], methods=METHODS, targets=["w", "other"])
    record = run(settings, load_inputs(settings, "w", cache=tmp_path))
    found = summarize(record)["cross-dataset"]
    assert set(found["aape"]) == {"source", "other", "average"}
    assert found["aape"]["average"] == found["aape"]["other"]
    assert found["aape"]["other"].mean > 0.5  # type: ignore[operator]
    assert "nearest-centroid" not in found, "it knows no class but its own"
    assert "cross-dataset: methods that know no class but their own are left out: nearest-centroid" in record.notes
    assert "other has no prompts of people: its templates stand in" in record.notes
    with pytest.raises(UserError, match=r"name some with --targets \(there are: other\)"):
        run(settings, Inputs(load_features(tmp_path, "w", "lite")))
    with pytest.raises(UserError, match="left out: nearest-centroid"):
        run(changed(settings, {"evaluation.methods": ["nearest-centroid"]}, where="x"),
            load_inputs(settings, "w", cache=tmp_path))  # fmt: skip


def test_domain_generalisation_judges_a_variant_among_its_own_classes(tmp_path: Path) -> None:
    make_stores(tmp_path)
    make_stores(tmp_path, dataset="sketch", names={0: NAMES[0], 1: NAMES[1]}, noise=1.2, per_split={"test": 30})
    make_stores(tmp_path, dataset="strange", names={0: "nothing", 1: NAMES[1]})
    settings = fast(protocols=["domain-generalization"], methods=METHODS, shifts={"w": ["sketch"]})
    with pytest.raises(UserError, match="no training image of 2 classes"):
        load_features(tmp_path, "sketch", "lite")
    found = summarize(run(settings, load_inputs(settings, "w", cache=tmp_path)))["domain-generalization"]
    for method in ("aape", "nearest-centroid"):
        assert set(found[method]) == {"source", "sketch", "average"}
        assert found[method]["sketch"].mean > 0.6  # type: ignore[operator]
    strange = changed(settings, {"evaluation.shifts": {"w": ["strange"]}}, where="x")
    with pytest.raises(UserError, match="strange is no variant of w: 1 of its classes"):
        run(strange, load_inputs(strange, "w", cache=tmp_path))
    without = changed(
        settings,
        {"evaluation.shifts": {}, "evaluation.protocols": ["few-shot", settings.evaluation.protocols[0]]},
        where="x",
    )
    notes = run(without, load_inputs(without, "w", cache=tmp_path)).notes
    assert any("domain-generalization is left out" in note for note in notes)


def test_label_noise_mislabels_the_asked_share_of_every_class_and_never_the_test_split(tmp_path: Path) -> None:
    images = Images(torch.randn(40, 3), torch.arange(4).repeat_interleave(10))
    noisy = wrong_labels(images, 0.3, classes=4, seed=1)
    for label in range(4):
        assert int((noisy.labels[images.labels == label] != label).sum()) == 3
    assert torch.equal(noisy.labels, wrong_labels(images, 0.3, classes=4, seed=1).labels)
    assert not torch.equal(noisy.labels, wrong_labels(images, 0.3, classes=4, seed=2).labels)
    assert torch.equal(wrong_labels(images, 0.0, classes=4, seed=1).labels, images.labels)
    make_stores(tmp_path, per_split={"train": 20, "val": 8, "test": 30})
    features = load_features(tmp_path, "w", "lite")
    settings = fast(
        protocols=["few-shot", "label-noise"],
        shots=16,
        noise=0.5,
        methods=["nearest-centroid", "zero-shot"],
        seeds=[1, 2],
    )
    found = summarize(run(settings, Inputs(features)))
    text = [found[protocol]["zero-shot"]["accuracy"] for protocol in ("label-noise", "few-shot")]
    assert text[0] == text[1], "text has no labels to get wrong"
    few, noisy = (found[key]["nearest-centroid"]["accuracy"].mean for key in ("few-shot", "label-noise"))
    assert noisy < few  # type: ignore[operator]
    settings = fast(protocols=["label-noise"], shots=1, noise=0.5, methods=["zero-shot"])
    assert any(note.endswith("no label is wrong") for note in run(settings, Inputs(features)).notes)
    settings = fast(protocols=["label-noise"], shots=16, noise=0.3, methods=["zero-shot"])
    told = "label-noise: 30 % of the images of a class, rounded down, are 25 % of all 64 training images"
    assert told in run(settings, Inputs(features)).notes


def test_published_draws_are_read_from_a_file(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache")
    rows = [f"1,2,train,train/{label}/{k}" for label in range(CLASSES) for k in (3, 5)]
    rows += [f"1,2,val,val/{label}/0" for label in range(CLASSES)]
    file = tmp_path / "draws.csv"
    file.write_text("\n".join(["seed,shots,split,image_id", *rows]))
    features = load_features(tmp_path / "cache", "w", "lite", indices=file)
    train, val = few_shot(features, 2, seed=1)
    position = {image_id: i for i, image_id in enumerate(features.train.image_ids)}
    expected = features.train.take(np.array([position[row.split(",")[3]] for row in rows[: 2 * CLASSES]]))
    assert torch.equal(train.embeddings, expected.embeddings)
    assert val.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="no draw of seed 2 with 2 shots; it has seed 1 with 2 shots"):
        few_shot(features, 2, seed=2)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seed,shots,split\n", "no column 'image_id'"),
        ("seed,shots,split,image_id\nx,2,train,a\n", "line 2: seed and shots must be whole numbers"),
        ("seed,shots,split,image_id\n1,2,test,a\n", "line 2: expected split train or val"),
        ("seed,shots,split,image_id\n1,2,train,test/0/0\n", "'test/0/0' of seed 1 is not in the train or val split"),
        ("seed,shots,split,image_id\n1,2,val,val/0/0\n", "no draw of seed 1 with 2 shots"),
    ],
)
def test_a_bad_file_of_draws_is_one_clear_line(tmp_path: Path, text: str, part: str) -> None:
    make_stores(tmp_path / "cache")
    file = tmp_path / "draws.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=part):
        few_shot(load_features(tmp_path / "cache", "w", "lite", indices=file), 2, seed=1)


def test_augmented_views_come_with_all_images_but_those_of_the_test(tmp_path: Path) -> None:
    make_stores(tmp_path / "with", views=3)
    make_stores(tmp_path / "without")
    features = load_features(tmp_path / "with", "w", "lite")
    train, val = few_shot(features, 4, seed=1)
    assert train.views is not None
    assert train.views.shape == (16, 3, 16)
    assert val.views is not None
    assert features.test().images.views is None
    plain, _ = few_shot(load_features(tmp_path / "without", "w", "lite"), 4, seed=1)
    assert plain.views is None
    assert features.train.image_ids == load_features(tmp_path / "without", "w", "lite").train.image_ids


def test_fewer_prompts_are_each_questions_first(tmp_path: Path) -> None:
    make_stores(tmp_path)
    all_of_them, two = (load_features(tmp_path, "w", "lite", prompts=n) for n in (None, 2))
    assert all_of_them.text["llm"].mask.sum(1).tolist() == [5] * CLASSES  # type: ignore[union-attr]
    assert two.text["llm"].mask.sum(1).tolist() == [2] * CLASSES  # type: ignore[union-attr]
    assert torch.equal(two.text["llm"].prompts[:, :2], all_of_them.text["llm"].prompts[:, :2])  # type: ignore[index]


@pytest.mark.parametrize(
    ("shots", "share", "head"),
    [
        (4, 0.2, "4 shots, 0 % of the training labels wrong (20 % of a class, rounded down)"),
        (16, 0.3, "16 shots, 25 % of the training labels wrong (30 % of a class, rounded down)"),
        (16, 0.5, "16 shots, 50 % of the labels wrong"),
        ("all", 0.3, "all shots, 30 % of the labels wrong"),
    ],
)
def test_a_table_is_headed_by_the_share_of_labels_that_is_wrong(shots: int | str, share: float, head: str) -> None:
    assert LabelNoise(shots, "x", share).title == f"label-noise, {head}"  # type: ignore[arg-type]


def test_several_shares_of_wrong_labels_are_a_protocol_each_and_a_picture(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 20, "val": 8, "test": 30})
    features = load_features(tmp_path / "cache", "w", "lite")
    settings = fast(protocols=["label-noise"], shots=[4, 16], noise=[0.0, 0.5], methods=["nearest-centroid"])
    record = run(settings, Inputs(features))
    keys = ["label-noise-4-0", "label-noise-4-0.5", "label-noise-16-0", "label-noise-16-0.5"]
    assert list(record.protocols) == keys
    assert [about.noise for about in record.protocols.values()] == [0.0, 0.5, 0.0, 0.5]
    accuracy = {fit.protocol: fit.metrics["accuracy"] or 0 for fit in record.fits}
    assert accuracy["label-noise-16-0"] > accuracy["label-noise-16-0.5"]
    assert not any("no label is wrong" in note for note in record.notes), "0 is asked for"
    shown = noise.section(SimpleNamespace(record=record, estimates=summarize(record)))  # type: ignore[arg-type]
    assert shown is not None
    table = shown.blocks[-1]
    assert isinstance(table, Table)
    assert [column.title for column in table.columns] == ["method", "0 %", "50 %"]
    chart = shown.blocks[0]
    assert isinstance(chart, Chart)
    assert ">50</text>" in chart.svg, "the axis has the share as it is written, and not 5e+1"
    assert list(most_shots(record)) == ["label-noise-16-0.5"], "tables show what most wrong labels do"
    said = text_verdict(record)
    assert "label-noise of 0 %, best: nearest-centroid" in said
    assert "label-noise of 50 %, best: nearest-centroid" in said
    picture = tmp_path / "noise.png"
    by_noise(record, picture)
    assert picture.stat().st_size > 10_000
    picture.unlink()
    by_noise(run(fast(protocols=["label-noise"], noise=[0.5], methods=["zero-shot"]), Inputs(features)), picture)
    assert not picture.exists(), "one share is no line"
