"""Images of several classes: as tables, COCO's instances, VOC's annotations and feature files say them."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.audit import audit
from pipeline.catalog import query
from pipeline.ingest import Listing, ingest
from pipeline.ingest.labels import SEPARATORS, classes_of
from pipeline.ingest.lists import ListReader
from pipeline.ingest.voc import VOCReader
from pipeline.verify import verify
from stages import ImageStore, ManifestStore, UserError
from stages.params import DataParams

NAMES = ["dog", "cat", "bird"]
OF = [["dog"], ["dog", "cat"], ["bird"], [], ["cat", "bird", "dog"], ["cat"]]


def table(folder: Path, header: list[str], rows: list[list[Any]], name: str = "labels.csv") -> Path:
    with (folder / name).open("w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return folder / name


def read(source: Path, **data: Any) -> Listing:
    return ListReader().read(str(source), DataParams(**data))


def classes(found: Listing) -> list[list[str]]:
    return [[found.class_names[i] for i in entry.class_ids or ()] for entry in found.entries]


def joined(folder: Path) -> Path:
    return table(folder, ["image", "labels"], [[f"{n}.png", ";".join(own)] for n, own in enumerate(OF)])


def indicators(folder: Path) -> Path:
    rows = [[f"{n}.png", *(int(name in own) for name in NAMES), "Ann"] for n, own in enumerate(OF)]
    return table(folder, ["image", *NAMES, "photographer"], rows)


def instances(folder: Path) -> Path:
    raw = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(len(OF))],
        "categories": [{"id": 10 * k, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [
            {"image_id": n, "category_id": 10 * NAMES.index(name), "bbox": [0, 0, 1, 1]}
            for n, own in enumerate(OF) for name in [*own, *own]
        ],
    }  # fmt: skip
    (folder / "instances_all.json").write_text(json.dumps(raw))
    return folder / "instances_all.json"


@pytest.mark.parametrize("write", [joined, indicators, instances])
def test_every_form_says_the_same_classes(tmp_path: Path, write: Any) -> None:
    found = read(write(tmp_path))
    assert [sorted(own) for own in classes(found)] == [sorted(own) for own in OF]
    assert all(entry.class_id is None and entry.class_name is None for entry in found.entries)
    assert any("1 of 6 images have none of the classes, and are kept" in note for note in found.notes)
    if write is not joined:
        assert list(found.class_names.values()) == NAMES, "the source numbers the classes"
    if write is indicators:
        assert any("left aside: photographer" in note for note in found.notes)


@given(st.lists(st.lists(st.sampled_from(["a dog", "b", "c-d", "é"]), unique=True, max_size=4), min_size=1, max_size=6))
def test_cells_are_read_back_as_they_were_written(rows: list[list[str]]) -> None:
    for separator in SEPARATORS:
        assert [classes_of(separator.join(own)) for own in rows] == rows
        assert [classes_of(f" {separator} ".join(own)) for own in rows] == rows
    assert [classes_of(json.dumps(own)) for own in rows] == rows


@given(st.text(max_size=30))
def test_a_cell_of_anything_is_classes_or_one_line(cell: str) -> None:
    try:
        found = classes_of(cell)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said
    else:
        assert all(isinstance(name, int) or name.strip() == name != "" for name in found)


def test_images_with_one_class_each_are_a_set_of_one_class_unless_said_otherwise(tmp_path: Path) -> None:
    file = table(tmp_path, ["image", "dog", "cat"], [["a.png", 1, 0], ["b.png", 0, 1]])
    found = read(file)
    assert [(entry.class_name, entry.class_ids) for entry in found.entries] == [("dog", None), ("cat", None)]
    assert any("exactly one class" in note for note in found.notes)
    assert classes(read(file, multi_label=True)) == [["dog"], ["cat"]]


def test_columns_of_1_and_minus_1_alone_are_classes_too_with_a_line(tmp_path: Path) -> None:
    rows = [["a.png", 1, -1, -1], ["b.png", 1, 1, -1], ["c.png", -1, -1, -1]]
    found = read(table(tmp_path, ["image", *NAMES], rows))
    assert classes(found) == [["dog"], ["dog", "cat"], []]
    assert any("1 and -1, and -1 is read as: not there" in note for note in found.notes)
    with pytest.raises(UserError, match=r"line 2: column 'cat' holds '-1'; expected 1"):
        read(table(tmp_path, ["image", *NAMES], [[*rows[0][:3], 0], ["b.png", 1, 1, 1], ["c.png", 0, 0, 0]]))


def test_tags_beside_captions_or_a_class_are_left_aside_unless_the_user_names_them(tmp_path: Path) -> None:
    rows = [["a.png", "A dog and a cat.", "dog;cat"], ["b.png", "Nothing.", ""]]
    file = table(tmp_path, ["image", "caption", "tags"], rows)
    assert not read(file).class_names
    found = read(file, columns={"labels": "tags"})
    assert classes(found) == [["cat", "dog"], []]
    assert found.entries[0].captions == ["A dog and a cat."]


@pytest.mark.parametrize(
    ("header", "row", "data", "fault"),
    [
        (["image", "dog", "cat"], ["c.png", 2, 0], {}, r"labels.csv, line 4: column 'dog' holds '2'; expected 1"),
        (["image", "dog", "cat"], ["c.png", "", 0], {}, r"line 4: column 'dog' holds ''; expected 1"),
        (["image", "labels", "x"], ["c.png", "dog;;cat", 0], {}, r"line 4: an empty name stands among the classes"),
        (["image", "labels", "x"], ["a.png", "dog;cat", 0], {}, r"line 4: image 'a.png' (stands|has other)"),
        (["image", "labels", "x"], ["c.png", "dog;cat", 0], {"multi_label": False}, r"'c.png' has 2 classes: leave"),
        (["image", "labels", "x"], ["c.png", "[1, {", 0], {}, r"line 4: '\[1, \{' is no list of classes"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path: Path, header: list[str], row: list[Any], data: Any, fault: str) -> None:
    rows = [["a.png", 1, 0], ["b.png", 0, 1], row]
    with pytest.raises(UserError, match=fault) as caught:
        read(table(tmp_path, header, rows), **data)
    assert "\n" not in str(caught.value)


def test_a_class_that_is_not_in_the_list_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird\n")
    file = table(tmp_path, ["image", "labels"], [["a.png", "dog;cat"], ["b.png", "brid"]])
    with pytest.raises(UserError, match=r"class 'brid' \(image 'b.png'\) is not in the list of classes .*'bird'"):
        read(file)


def test_objects_of_strange_images_and_categories_are_refused(tmp_path: Path) -> None:
    file = instances(tmp_path)
    raw = json.loads(file.read_text())
    for key, fault in (("image_id", "no image has the id 99"), ("category_id", "no category has the id 99")):
        bad = json.loads(json.dumps(raw))
        bad["annotations"][1][key] = 99
        file.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=rf"annotations.1: {fault}"):
            read(file)


def test_captions_and_categories_of_the_same_images_come_together(tmp_path: Path) -> None:
    raw = json.loads(instances(tmp_path).read_text())
    said = [{"image_id": n, "caption": f"picture {n}"} for n in range(len(OF))]
    (tmp_path / "captions_all.json").write_text(json.dumps({"images": raw["images"], "annotations": said}))
    found = read(tmp_path, multi_label=True)
    assert [sorted(own) for own in classes(found)] == [sorted(own) for own in OF]
    assert [list(entry.captions or ()) for entry in found.entries] == [[f"picture {n}"] for n in range(len(OF))]
    alone = read(tmp_path)
    assert not alone.class_names, "a large file is not read where captions are all that was there before"
    assert any("instances_all.json: left aside beside captions" in note for note in alone.notes)


def voc(folder: Path) -> Path:
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    for n, own in enumerate(OF):
        objects = "".join(f"<object><name>{name}</name><difficult>{n % 2}</difficult></object>" for name in own)
        text = f"<?xml version='1.0' encoding='utf-8'?><annotation><filename>{n}.png</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{n}.xml").write_text(text)
        picture((30 * n, 90, 60), n).save(folder / "JPEGImages" / f"{n}.png")
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("0\n1\n2\n3\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("3\n")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("4\n")
    return folder


def test_voc_folders_are_read_with_their_splits(tmp_path: Path) -> None:
    found = VOCReader().read(str(voc(tmp_path / "voc")), DataParams())
    assert classes(found) == [sorted(own) for own in OF[:5]]
    assert [entry.split for entry in found.entries] == ["train", "train", "train", "val", "test"]
    assert {"1 of 6 annotations are in no list of ImageSets/Main: left out"} <= set(found.notes)
    assert any("marked difficult" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "document type or entities"),
        ("<annotation><object>", "not readable as XML"),
        ("<annotation><object><name> </name></object></annotation>", "object 1 has no name"),
        ("<annotation><filename>../../x.png</filename></annotation>", "x.png"),
    ],
)
def test_hostile_annotations_are_one_line(tmp_path: Path, text: str, fault: str) -> None:
    (voc(tmp_path / "voc") / "Annotations" / "1.xml").write_text(text)
    with pytest.raises(UserError, match=fault) as caught:
        VOCReader().read(str(tmp_path / "voc"), DataParams())
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80))
def test_an_annotation_of_anything_is_one_line(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Annotations").mkdir()
        (Path(name) / "Annotations" / "a.xml").write_text(text, encoding="utf-8", newline="")
        with pytest.raises(UserError) as caught:
            VOCReader().read(name, DataParams())
        assert "\n" not in str(caught.value)


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """Sixty pictures of one to three of three classes, or none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for n in range(60):
        has = (rng.random(3) < 0.4).astype(int)
        picture((200 * int(has[0]), 200 * int(has[1]), 200 * int(has[2])), n, 16).save(folder / f"{n}.png")
        rows.append([f"{n}.png", *has.tolist()])
    table(folder, ["image", *NAMES], rows)
    return folder


def test_manifest_queries_verify_and_audit_know_several_classes(pictured: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    summary = ingest("m", str(pictured), data=DataParams(), cache=cache)
    assert summary.classes == 3
    store = ManifestStore(cache, "m")
    assert store.is_multi_label
    rows = store.read().to_pylist()
    assert {row["class_id"] for row in rows} == {None}
    found = {name: {i for row in rows if row["split"] == name for i in row["class_ids"]} for name in ("train", "test")}
    assert found == {"train": {0, 1, 2}, "test": {0, 1, 2}}, "the drawn splits have every class"
    assert not verify(cache).faults
    assert not audit(cache, "m", "lite").classes, "every class has its training images"
    sql = "SELECT list_contains(class_ids, 0) AS dog, count(*) FROM manifest GROUP BY ALL ORDER BY ALL"
    assert sum(count for _, count in query(cache, "lite", sql)[1]) == 60


def test_decisions_of_one_class_are_refused_and_lists_of_exclusions_are_not(pictured: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_id,action,label\n1.png,label,dog\n")
    (tmp_path / "out.txt").write_text("2.png\n")
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="decisions give an image one class"):
        ingest("m", str(pictured), data=DataParams(labels=str(tmp_path / "labels.csv")), cache=cache)
    ingest("m", str(pictured), data=DataParams(exclude=str(tmp_path / "out.txt")), cache=cache)
    assert "2.png" not in ManifestStore(cache, "m").class_ids()
    assert list(ManifestStore(cache, "m").provenance().class_names.values()) == NAMES


def test_manifests_of_one_class_an_image_have_no_further_column(weaves: Path, tmp_path: Path) -> None:
    ingest("w", str(weaves), data=DataParams(), cache=tmp_path / "cache")
    store = ManifestStore(tmp_path / "cache", "w")
    assert pq.read_schema(store.file).names == [name for name, _ in ManifestStore.columns]
    assert not store.is_multi_label


def features(**change: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = (rng.random((40, 3)) < 0.4).astype(np.uint8)
    labels[:3] = np.eye(3)
    labels[3] = 0
    found = {"embedding": rng.normal(size=(40, 8)).astype(np.float32), "labels": labels, "class_names": np.array(NAMES),
             "text_template": rng.normal(size=(3, 8)).astype(np.float32)}  # fmt: skip
    return {key: value for key, value in (found | change).items() if value is not None}


def test_a_feature_file_with_a_matrix_of_labels_gives_all_stores(tmp_path: Path) -> None:
    given_ = features()
    np.savez(tmp_path / "f.npz", **given_)
    cache = tmp_path / "cache"
    summary = ingest("f", str(tmp_path / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=cache)
    assert summary.classes == 3
    own = ManifestStore(cache, "f").class_ids()
    assert [own[f"{row:02d}"] for row in range(40)] == [np.flatnonzero(each).tolist() for each in given_["labels"]]
    assert set(ImageStore(cache, "f", "clip-x").read(["class_id"])["class_id"].to_pylist()) == {None}
    assert not verify(cache).faults
    assert any("an image has several classes" in note for note in audit(cache, "f", "clip-x").notes)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"labels": np.full((40, 3), 2)}, r"labels holds 2 \(row 0, column 0\); expected 1"),
        ({"labels": np.zeros((39, 3))}, r"labels is of shape \(39, 3\); expected \(40, C\)"),
        ({"labels": np.zeros(40)}, r"one class an image is called `class_id`"),
        ({"class_names": np.array(["a", "b"])}, r"labels has 3 columns and class_names 2 names"),
        ({"labels": np.zeros((40, 3))}, r"0 classes with an image"),
        ({"labels": None}, r"nor `labels` \(N, C\) of 0 and 1"),
    ],
)
def test_a_bad_matrix_is_one_line(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    np.savez(tmp_path / "f.npz", **features(**change))
    with pytest.raises(UserError, match=fault) as caught:
        ingest("f", str(tmp_path / "f.npz"), data=DataParams(encoder_name="clip-x"), cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "manifest").exists()
