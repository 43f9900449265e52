"""Lists as people have them: paths and classes spelled as another machine spells them, rows without a class."""

import json
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import Listing, ingest
from pipeline.ingest.base import check_listing
from pipeline.ingest.coop import CoOpReader
from pipeline.ingest.lists import ListReader
from pipeline.ingest.places import Places
from stages import UserError
from stages.params import DataParams

DATA = DataParams()


def read(source: Path, **data: Any) -> Listing:
    return ListReader().read(str(source), DataParams(**data))


def photographs(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture((90, 60, 30), i, size=8).save(folder / name)
    return folder


def write(file: Path, *rows: str, header: str = "image,class") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *rows]), encoding="utf-8")
    return file


# Classes


def test_one_class_in_several_spellings_is_one_class_and_it_is_said(tmp_path: Path) -> None:
    file = write(
        tmp_path / "l.csv", "a.jpg,Cat", "b.jpg,cat", "c.jpg, cat ", "d.jpg,dog", "e.jpg,caf\u00e9", "f.jpg,cafe\u0301"
    )
    found = read(file)
    assert found.class_names == {0: "caf\u00e9", 1: "cat", 2: "dog"}
    assert [e.class_name for e in found.entries] == ["cat"] * 3 + ["dog"] + ["caf\u00e9"] * 2
    assert any("2 classes stand there in several spellings" in note for note in found.notes)


def test_spellings_are_joined_across_the_files_of_the_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a.jpg,Cat", "b.jpg,Dog")
    write(tmp_path / "test.csv", "c.jpg,cat", "d.jpg,dog", "e.jpg,dog")
    found = read(tmp_path)
    assert found.class_names == {0: "Cat", 1: "Dog"}
    assert {(e.class_name, e.split) for e in found.entries} == {
        (c, s) for c in ("Cat", "Dog") for s in ("train", "test")
    }


def test_class_names_of_the_settings_keep_two_spellings_apart(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", "a.jpg,Turkey", "b.jpg,turkey")
    found = read(file, class_names={"Turkey": "Turkey, the country", "turkey": "turkey, the bird"})
    assert sorted(found.class_names.values()) == ["Turkey, the country", "turkey, the bird"]
    check_listing("l.csv", found)


def test_a_coop_split_file_and_a_table_of_captions_join_spellings_too(tmp_path: Path) -> None:
    rows = {"train": [["a.jpg", 0, "Cat"], ["b.jpg", 1, "dog"]], "val": [["c.jpg", 0, "cat"]], "test": []}
    (tmp_path / "split_zhou_X.json").write_text(json.dumps(rows))
    found = CoOpReader().read(str(tmp_path), DATA)
    assert found.class_names == {0: "Cat", 1: "dog"}
    assert len(found.notes) == 1
    two = {"train": [["a.jpg", 0, "Cat"], ["b.jpg", 1, "cat"]], "val": [], "test": []}
    (tmp_path / "split_zhou_X.json").write_text(json.dumps(two))
    with pytest.raises(UserError, match=r"split_zhou_X.*one class or two"):
        CoOpReader().read(str(tmp_path), DATA)
    table = write(tmp_path / "l.csv", "a.jpg,Cat,One.", "a.jpg,cat,Two.", "b.jpg,dog,", header="image,class,caption")
    assert [list(e.captions or ()) for e in read(table).entries] == [["One.", "Two."], []]


# Rows without a class


def test_an_unlabelled_split_is_left_out_said_and_the_others_are_split_by_seed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    features = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}
    for split, labels in (("train", [0, 1] * 5), ("test", [-1] * 4)):
        images = [{"bytes": f"{split} {i}".encode(), "path": None} for i in range(len(labels))]
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(
            {"huggingface": json.dumps(features)}
        )
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    found = read(tmp_path)
    assert len(found.entries) == 10
    assert {e.split for e in found.entries} == {None}
    assert found.class_names == {0: "cat", 1: "dog"}
    said = " ".join(found.notes)
    assert "4 images are unlabelled (class -1 or empty; first: 'data/test-00000-of-00001.parquet/image/0')" in said
    assert "`trainer predict`" in said
    assert "no labelled image is left in test: the splits are drawn by seed" in said


@pytest.mark.parametrize("unknown", ["", "-1", " "])
@pytest.mark.parametrize("labels", [("cat", "dog"), ("0", "1"), ("3.0", "2.0")])
def test_rows_whose_class_is_empty_or_minus_one_are_unlabelled(
    tmp_path: Path, unknown: str, labels: tuple[str, str]
) -> None:
    file = write(tmp_path / "l.csv", f"a.jpg,{labels[0]}", f"b.jpg,{labels[1]}", f"c.jpg,{unknown}")
    found = read(file)
    assert [e.path for e in found.entries] == ["a.jpg", "b.jpg"]
    assert {name.removesuffix(".0") for name in found.class_names.values()} == {la.removesuffix(".0") for la in labels}
    assert any("1 images are unlabelled" in note and "c.jpg" in note for note in found.notes)


def test_other_splits_stay_as_they_are_when_one_has_no_labels(tmp_path: Path) -> None:
    rows = [
        f"{s}{i}.jpg,{c},{s}" for s, cs in (("train", "ab"), ("val", "ab"), ("test", " ")) for i, c in enumerate(cs)
    ]
    found = read(write(tmp_path / "l.csv", *rows, header="image,class,split"))
    assert Counter(e.split for e in found.entries) == {"train": 2, "val": 2}
    assert any("no labelled image is left in test: the data set has no such split" in note for note in found.notes)


def test_captions_are_kept_where_no_image_has_a_class(tmp_path: Path) -> None:
    file = write(tmp_path / "l.csv", "a.jpg,-1,One.", "b.jpg,-1,Two.", header="image,class,caption")
    found = read(file)
    assert [(e.class_id, list(e.captions or ())) for e in found.entries] == [(None, ["One."]), (None, ["Two."])]
    assert "kept for their captions" in found.notes[0]


def test_class_ids_that_count_from_one_get_their_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("rose\ntulip\nlily\n")
    found = read(write(tmp_path / "l.csv", "a.jpg,1", "b.jpg,3"))
    assert found.class_names == {1: "rose", 2: "tulip", 3: "lily"}
    assert any("class ids run from 1 to 3, not from 0: 1 is 'rose'" in note for note in found.notes)
    assert read(write(tmp_path / "l.csv", "a.jpg,0", "b.jpg,2")).class_names == {0: "rose", 1: "tulip", 2: "lily"}


# Paths


def test_absolute_paths_through_a_link_lie_below_the_root_and_others_stay_refused(tmp_path: Path) -> None:
    photographs(tmp_path / "real" / "photos", "cat/0.jpg", "dog/0.jpg")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "elsewhere").mkdir()
    rows = [f"{tmp_path}/link/photos/{c}/0.jpg,{c}" for c in ("cat", "dog")]
    file = write(tmp_path / "real" / "list.csv", *rows)
    for source, more in ((file, {}), (tmp_path / "link" / "list.csv", {}), (file, {"images": str(tmp_path / "link")})):
        assert [e.path for e in read(source, **more).entries] == ["photos/cat/0.jpg", "photos/dog/0.jpg"]
    for away in (f"{tmp_path}/elsewhere/0.jpg", f"{tmp_path}/real2/0.jpg", "/0.jpg"):
        with pytest.raises(UserError, match=r"line 4: image .* does not lie below"):
            read(write(tmp_path / "real" / "list.csv", *rows, f"{away},cat"))
    for away in (f"{tmp_path}/link/photos/../../secret.jpg", f"{tmp_path}/link/../secret.jpg"):
        with pytest.raises(UserError, match=r"line 4: image .* leaves"):
            read(write(tmp_path / "real" / "list.csv", *rows, f"{away},cat"))


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_a_file_is_found_whichever_unicode_form_the_disk_has(tmp_path: Path, on_disk: Any, in_list: Any) -> None:
    names = ["Café/thé.jpg", "Thé/0.jpg"]
    root = tmp_path / unicodedata.normalize(on_disk, "données")
    photographs(root, *(unicodedata.normalize(on_disk, name) for name in names))
    rows = [unicodedata.normalize(in_list, f"{name},{name.split('/')[0]}") for name in names]
    absolute = [unicodedata.normalize(in_list, f"{tmp_path}/données/{row}") for row in rows]
    for written in (rows, absolute):
        found = read(write(root / "l.csv", *written))
        assert [e.path for e in found.entries] == [unicodedata.normalize(on_disk, name) for name in names]
        assert [e.class_name for e in found.entries] == ["Café", "Thé"]
    if in_list != on_disk:
        with pytest.raises(UserError, match="stands there twice"):
            read(write(root / "l.csv", *rows, unicodedata.normalize(on_disk, f"{names[0]},Café")))


def test_backslashes_are_folders_and_missing_suffixes_are_found_both_counted(tmp_path: Path) -> None:
    photographs(tmp_path, "photos/cat/0.jpg", "photos/dog/1.v2.PNG", "images/x.jpg")
    file = write(tmp_path / "l.csv", "photos\\cat\\0.jpg,cat", "photos\\dog\\1.v2,dog", "x,dog", ".\\none\\y.jpg,cat")
    found = read(file)
    assert [e.path for e in found.entries] == ["photos/cat/0.jpg", "photos/dog/1.v2.PNG", "images/x.jpg", "none/y.jpg"]
    assert "3 paths with backslashes, taken as folders" in found.notes
    assert "2 images named without their suffix, found by the rest of the name" in found.notes


def test_a_list_may_name_images_in_an_archive_and_a_folder_is_no_image(tmp_path: Path) -> None:
    photographs(tmp_path / "x", "cat/0.jpg", "dog/0/thumbnail.jpg", "dog/0.jpg")
    shutil.make_archive(str(tmp_path / "images"), "zip", tmp_path / "x")
    file = write(tmp_path / "l.csv", "images.zip/cat/0.jpg,cat", "x/dog/0,dog")
    found = read(file)
    assert [e.path for e in found.entries] == ["images.zip/cat/0.jpg", "x/dog/0.jpg"]
    assert ingest("x", str(file), data=DATA, cache=tmp_path / "cache").unreadable == []


def test_a_backslash_that_is_in_a_file_name_is_left_there(tmp_path: Path) -> None:
    photographs(tmp_path, "a\\b.jpg", "a/b.jpg")
    assert [e.path for e in read(write(tmp_path / "l.csv", "a\\b.jpg,cat")).entries] == ["a\\b.jpg"]


def test_a_name_that_two_suffixes_fit_is_refused(tmp_path: Path) -> None:
    photographs(tmp_path, "x.jpg", "x.png")
    with pytest.raises(UserError, match=r"line 2: image 'x' may be 'x.jpg' or 'x.png'; write the suffix"):
        read(write(tmp_path / "l.csv", "x,cat"))


def test_what_is_found_is_in_the_manifest_and_can_be_read(tmp_path: Path) -> None:
    photographs(tmp_path / "s", *(f"cat/{i}.jpg" for i in range(4)), *(f"dog/{i}.jpg" for i in range(4)))
    file = write(tmp_path / "s" / "l.csv", *(f"{c}\\{i},{c}" for c in ("cat", "dog") for i in range(4)))
    summary = ingest("x", str(file), data=DATA, cache=tmp_path / "cache")
    assert (sum(summary.images.values()), summary.unreadable) == (8, [])


NAMES = st.text(max_size=12) | st.sampled_from(
    ["..\\x", "C:\\x", "/x/../y", "a\\", "\\\\host\\x", "http://", "e\u0301", "\ud800"]
)


@settings(deadline=None, max_examples=200)
@given(name=NAMES)
def test_any_name_is_a_path_below_the_root_or_a_value_error(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    found = ""
    try:
        found = Places(tmp_path_factory.getbasetemp(), DATA).find(name)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    assert not found.startswith("/")
    assert ".." not in found.split("/")


CELLS = st.text(max_size=6) | st.sampled_from(["", "-1", "0", "1", "2.0", "Cat", "cat", "A", "a", "nan"])


@settings(deadline=None, max_examples=150)
@given(labels=st.lists(CELLS, min_size=1, max_size=8))
def test_every_row_is_an_image_or_counted_as_unlabelled(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str]
) -> None:
    file = tmp_path_factory.mktemp("labels") / "l.jsonl"
    file.write_text("\n".join(json.dumps({"image": f"{i}.jpg", "class": label}) for i, label in enumerate(labels)))
    caught, found = "", None
    try:
        found = read(file)
        check_listing(str(file), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert str(file) in caught
        return
    assert found is not None
    left = [int(note.split()[0]) for note in found.notes if "unlabelled" in note]
    assert len(found.entries) + sum(left) == len(labels)
