"""Captions and questions as sources: COCO, NoCaps, Karpathy and VQA2 in JSON, tables, and both together."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import Listing, ingest
from pipeline.ingest.base import check_listing
from pipeline.ingest.lists import ListReader
from pipeline.ingest.records import plain
from stages import ManifestStore, UserError
from stages.params import DataParams

DATA = DataParams()


def read(source: Path, **data: Any) -> Listing:
    return ListReader().read(str(source), DataParams(**data))


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def photographs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        picture((90, 60, 30), i, size=8).save(folder / name)
    return folder


def coco(*file_names: str, **more: str) -> dict[str, Any]:
    images = [{"id": int(name.split(".")[0][-6:]), "file_name": name, "licence": 1} for name in file_names]
    notes = [
        {"image_id": image["id"], "caption": f"caption {k} of {image['file_name']}\n", "id": k}
        for k in range(2)
        for image in images
    ]
    return {"images": images, "annotations": notes, "info": {}, **more}


def test_coco_captions_come_with_the_splits_of_their_files(tmp_path: Path) -> None:
    photographs(tmp_path / "val2017", "000000000001.jpg", "000000000002.jpg")
    photographs(tmp_path / "train2017", "000000000003.jpg")
    write(tmp_path / "annotations/captions_val2017.json", coco("000000000001.jpg", "000000000002.jpg"))
    write(tmp_path / "annotations/captions_train2017.json", coco("000000000003.jpg"))
    write(tmp_path / "annotations/instances_val2017.json", {"images": [], "annotations": []})
    summary = ingest("c", str(tmp_path), data=DATA, cache=tmp_path / "cache")
    assert (summary.images, summary.classes, summary.captions, summary.questions) == (
        {"train": 1, "val": 2, "test": 0}, 0, 6, 0,
    )  # fmt: skip
    row = ManifestStore(tmp_path / "cache", "c").read().to_pylist()[0]
    assert row["path"] == "train2017/000000000003.jpg"
    assert row["captions"] == ["caption 0 of 000000000003.jpg", "caption 1 of 000000000003.jpg"]
    assert (row["class_id"], row["class_name"], row["questions"]) == (None, None, None)
    assert ManifestStore(tmp_path / "cache", "c").provenance().class_names == {}


def test_karpathys_file_decides_splits_before_cocos_own(tmp_path: Path) -> None:
    splits = ["train", "restval", "val", "test"]
    images = [
        {
            "filepath": "val2014",
            "filename": f"{i}.jpg",
            "split": split,
            "sentences": [{"raw": f"{split}.", "tokens": []}],
        }
        for i, split in enumerate(splits)
    ]
    photographs(tmp_path / "val2014", *(f"{i}.jpg" for i in range(4)))
    write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    write(tmp_path / "annotations/captions_val2014.json", coco("000001.jpg"))
    found = read(tmp_path)
    assert [(e.path, e.split) for e in found.entries] == [
        ("val2014/0.jpg", "train"), ("val2014/1.jpg", "train"), ("val2014/2.jpg", "val"), ("val2014/3.jpg", "test"),
    ]  # fmt: skip
    assert any("left aside" in note for note in found.notes)


def test_a_lone_file_of_captions_is_split_by_seed(tmp_path: Path) -> None:
    names = [f"{i:06d}.jpg" for i in range(10)]
    photographs(tmp_path / "images", *names)
    file = write(tmp_path / "nocaps_val_4500_captions.json", coco(*names))
    summary = ingest("n", str(file), data=DATA, cache=tmp_path / "cache")
    assert summary.images == {"train": 5, "val": 1, "test": 4}


def vqa(folder: Path) -> None:
    asked = [{"image_id": 7, "question": f"What is {k}?", "question_id": 70 + k} for k in range(2)]
    write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked, "data_subtype": "val2014"})
    said = [{"answer": word, "answer_confidence": "yes", "answer_id": i} for i, word in enumerate(("red", "a red"))]
    notes = [{"question_id": 70, "image_id": 7, "multiple_choice_answer": "red", "answers": said}]
    write(folder / "v2_mscoco_val2014_annotations.json", {"annotations": notes})


def test_questions_find_their_answers_and_images(tmp_path: Path) -> None:
    vqa(tmp_path)
    photographs(tmp_path / "val2014", "COCO_val2014_000000000007.jpg")
    for source in (tmp_path, tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"):
        entry = read(source).entries[0]
        assert entry.path == "val2014/COCO_val2014_000000000007.jpg"
        assert entry.captions is None
        assert [(q.question_id, q.question, q.choices, list(q.answers)) for q in entry.questions or ()] == [
            ("70", "What is 0?", None, ["red", "a red"]), ("71", "What is 1?", None, []),
        ]  # fmt: skip


def test_captions_and_questions_of_one_image_share_a_row(tmp_path: Path) -> None:
    vqa(tmp_path)
    photographs(tmp_path / "val2017", "000000000007.jpg", "000000000008.jpg")
    write(tmp_path / "captions_val2017.json", coco("000000000007.jpg", "000000000008.jpg"))
    found = read(tmp_path).entries
    assert [(e.path, len(e.captions or ()), len(e.questions or ())) for e in found] == [
        ("val2017/000000000007.jpg", 2, 2), ("val2017/000000000008.jpg", 2, 0),
    ]  # fmt: skip


def test_tables_of_captions_and_questions_share_a_row_too(tmp_path: Path) -> None:
    photographs(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    long = "word " * 10_000
    write(tmp_path / "captions.csv", f'image,caption\na.jpg,"One, two."\nb.jpg,{long}\na.jpg,Three.\na.jpg,\n')
    write(
        tmp_path / "vqa.csv",
        "image,question,choices,correct,direct_answers\na.jpg,What?,x|y,x,x|x|z\na.jpg,Why?,,,\nd.jpg,Who?,,,i\n",
    )
    write(tmp_path / "ATTRIBUTION.csv", "image,licence\na.jpg,MIT\n")
    summary = ingest("t", str(tmp_path), data=DataParams(max_missing=0.5), cache=tmp_path / "cache")
    assert (summary.captions, summary.questions) == (3, 3)
    assert "1 empty captions left out" in summary.notes
    assert "d.jpg" in summary.unreadable[0]
    rows = {r["path"]: r for r in ManifestStore(tmp_path / "cache", "t").read().to_pylist()}
    assert rows["images/a.jpg"]["captions"] == ["One, two.", "Three."]
    assert rows["images/b.jpg"]["captions"] == [long.strip()]
    assert rows["images/a.jpg"]["questions"][0] == {
        "question_id": "images/a.jpg#0", "question": "What?", "choices": ["x", "y"], "answers": ["x", "x", "z"],
    }  # fmt: skip
    assert rows["images/b.jpg"]["questions"] == []


def test_a_null_or_empty_caption_is_left_out_and_counted_whatever_the_file(tmp_path: Path) -> None:
    photographs(tmp_path / "images", "a.jpg", "b.jpg")
    images = [{"id": i, "file_name": name} for i, name in enumerate(("a.jpg", "b.jpg"))]
    notes = [{"image_id": i, "caption": text} for i, text in ((0, "One."), (0, None), (1, ""), (1, None))]
    sentences = [[{"raw": "One."}, {"raw": None}], [{"raw": ""}, {"raw": None}]]
    karpathy = [
        {"filename": n, "split": "val", "sentences": s} for n, s in zip(("a.jpg", "b.jpg"), sentences, strict=True)
    ]
    rows = [("a.jpg", "One."), ("a.jpg", None), ("b.jpg", ""), ("b.jpg", None)]
    files = {
        "captions_x.json": {"images": images, "annotations": notes},
        "dataset_coco.json": {"images": karpathy},
        "list.json": [{"image": image, "caption": text} for image, text in rows],
        "grouped.json": [{"image": "a.jpg", "caption": ["One.", None]}, {"image": "b.jpg", "caption": ["", None]}],
        "list.jsonl": "\n".join(json.dumps({"image": image, "caption": text}) for image, text in rows),
        "list.csv": "image,caption\n" + "\n".join(f"{image},{text or ''}" for image, text in rows),
    }
    for name, content in files.items():
        found = read(write(tmp_path / name, content))
        assert [list(e.captions or ()) for e in found.entries] == [["One."], []], name
        assert "3 empty captions left out; 1 images have no other" in found.notes, name


def test_an_empty_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    asked = [{"image_id": 7, "question": "What?", "question_id": 70}]
    file = write(tmp_path / "x_val2014_questions.json", {"questions": asked})
    answers = [{"answer": word} for word in ("red", None, " ")]
    write(tmp_path / "x_val2014_annotations.json", {"annotations": [{"question_id": 70, "answers": answers}]})
    found = read(file)
    assert [list(q.answers) for q in found.entries[0].questions or ()] == [["red"]]
    assert "2 empty answers left out" in found.notes


@pytest.mark.parametrize("place", ["annotation/coco_karpathy_{}.json", "coco_karpathy_{}.json", "{}.json"])
def test_a_json_list_of_images_and_captions_is_a_table(tmp_path: Path, place: str) -> None:
    photographs(tmp_path / "val2014", "0.jpg", "1.jpg", "2.jpg")
    write(tmp_path / place.format("train"), [
        {"caption": "One.", "image": "val2014/0.jpg", "image_id": "c0"},
        {"caption": "Two.", "image": "val2014/0.jpg", "image_id": "c0"},
    ])  # fmt: skip
    write(tmp_path / place.format("val"), [{"image": "val2014/1.jpg", "caption": ["Three.", "Four."]}])
    write(tmp_path / place.format("test"), [{"image": "val2014\\2.jpg", "caption": ["Five."]}])
    found = read(tmp_path)
    assert [(e.path, e.split, list(e.captions or ())) for e in sorted(found.entries, key=lambda e: e.path)] == [
        ("val2014/0.jpg", "train", ["One.", "Two."]), ("val2014/1.jpg", "val", ["Three.", "Four."]),
        ("val2014/2.jpg", "test", ["Five."]),
    ]  # fmt: skip
    alone = read(tmp_path / place.format("val"), images=str(tmp_path))
    assert [e.path for e in alone.entries] == ["val2014/1.jpg"]


def test_a_json_list_may_hold_classes_or_questions(tmp_path: Path) -> None:
    asked = [{"question_id": 1, "question": "What?", "answer": ["a", "b"], "image": "a.jpg", "dataset": "vqa"}]
    assert [list(q.answers) for q in read(write(tmp_path / "q.json", asked)).entries[0].questions or ()] == [["a", "b"]]
    classes = [{"file_name": "a.jpg", "label": "cat"}, {"file_name": "b.jpg", "label": "dog"}]
    assert read(write(tmp_path / "c.json", classes)).class_names == {0: "cat", 1: "dog"}


def test_classes_and_captions_may_stand_in_one_table(tmp_path: Path) -> None:
    content = "image,label,caption\na.jpg,cat,A cat.\nb.jpg,dog,A dog.\na.jpg,cat,Same cat.\n"
    found = read(write(tmp_path / "l.csv", content))
    assert [(e.class_name, list(e.captions or ())) for e in found.entries] == [
        ("cat", ["A cat.", "Same cat."]), ("dog", ["A dog."]),
    ]  # fmt: skip
    write(tmp_path / "l.csv", content + "a.jpg,dog,No.\n")
    with pytest.raises(UserError, match=r"line 5: image 'a\.jpg' is of class 'cat' and of class 'dog'"):
        read(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("captions_x.json", "not json", "not readable as JSON"),
        ("captions_x.json", "[" * 100_000, "not readable as JSON"),
        ("captions_x.json", '{"images": [{"id": 1, "file_name": "\\ud800"}]}', "not readable as JSON"),
        ("captions_x.json", "[]", "an empty list"),
        ("captions_x.json", "[1]", "entry 0: expected an object, found '1'"),
        ("captions_x.json", [{"image": "a", "caption": 5}, {"image": {}}], "entry 1: expected text"),
        ("captions_x.json", [{"img_id": 1, "caption": "x"}], "no column of images .* the file has img_id, caption"),
        ("captions_x.json", "5", "not understood .found '5'"),
        (
            "captions_x.json",
            {"info": 1, "images": [{"id": 1, "url": 2}]},
            "an object of info, images; images of id, url",
        ),
        ("captions_x.json", {"images": [{"id": 1, "file_name": "../x.jpg"}]}, "leaves the image folder"),
        ("captions_x.json", {"images": [{"id": 1, "file_name": 5}]}, r"images\.0\.file_name"),
        ("captions_x.json", {"images": [{"id": 1, "file_name": "a"}, {"id": []}]}, r"images\.1"),
        (
            "captions_x.json",
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "x"}]},
            "no image has the id 2",
        ),
        (
            "dataset_coco.json",
            {"images": [{"filename": "a", "split": "trian", "sentences": [{"raw": "x"}]}]},
            "unknown split 'trian'",
        ),
        ("dataset_coco.json", {"images": [{"filename": "a", "split": "val", "sentences": ["x"]}]}, r"sentences\.0"),
        ("x_questions.json", {"questions": [{"question_id": 1, "image_id": 1, "question": "  "}]}, "is empty"),
        (
            "x_questions.json",
            {"questions": [{"question_id": 1, "image_id": i, "question": "?"} for i in (1, 2)]},
            "question '1' stands there twice",
        ),
        ("x_questions.json", {"questions": [{"question_id": 1, "image_id": "/etc/passwd", "question": "?"}]}, "below"),
        ("annotations.json", {"annotations": [{"question_id": 1, "answers": []}]}, "answers without questions"),
        ("captions.csv", "image,caption\n../a.jpg,x\n", "line 2"),
        ("vqa.csv", "image,question\na.jpg,\n", "line 2: question .* is empty"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, content: Any, part: str) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(UserError, match=part) as caught:
        read(file)
    assert name in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(max_size=12) | st.sampled_from(["../x", "/etc/passwd", "a.jpg", "<b>", "a\0b"])


@settings(deadline=None, max_examples=80)
@given(
    entries=st.lists(st.fixed_dictionaries({"image": NAMES | JSON, "caption": st.text(max_size=9) | JSON}), max_size=4)
)
def test_any_json_list_is_a_listing_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Any]
) -> None:
    file = write(tmp_path_factory.mktemp("json") / "list.json", entries)
    caught, found = "", None
    try:
        found = read(file)
        check_listing(str(file), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert "list.json" in caught
    else:
        assert found is not None
        given_texts = sum(len(e["caption"]) if isinstance(e["caption"], list) else 1 for e in entries)
        left = sum(int(note.split()[0]) for note in found.notes if "empty captions" in note)
        assert sum(len(e.captions or ()) for e in found.entries) + left == given_texts


@settings(deadline=None, max_examples=80)
@given(
    images=st.lists(st.fixed_dictionaries({"id": st.integers(0, 3) | JSON, "file_name": NAMES | JSON}), max_size=4),
    notes=st.lists(
        st.fixed_dictionaries({"image_id": st.integers(0, 3) | JSON, "caption": st.text(max_size=20) | JSON})
    ),
)
def test_any_json_is_a_listing_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, images: list[Any], notes: list[Any]
) -> None:
    file = write(tmp_path_factory.mktemp("json") / "captions.json", {"images": images, "annotations": notes})
    caught, found = "", None
    try:
        found = read(file)
        check_listing(str(file), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert "captions.json" in caught
    else:
        assert found is not None
        assert all(".." not in entry.path.split("/") for entry in found.entries)
        assert all(caption and plain(caption) == caption for e in found.entries for caption in e.captions or ())


@given(st.text())
def test_a_caption_is_one_line_of_valid_text(text: str) -> None:
    found = plain(text + "\ud800\0\n")
    assert found == " ".join(found.split())
    assert found.encode().decode() == found
    assert plain(found) == found
