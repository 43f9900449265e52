"""Images with texts beside them, as img2dataset's `files` output has them: captions kept, folder numbers no classes."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import COLOURS, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import Listing, find_reader, ingest, read_source
from pipeline.ingest.base import check_listing
from pipeline.ingest.pairs import PairReader
from stages import ManifestStore, UserError
from stages.params import DataParams

DATA = DataParams()


def read(source: Path) -> Listing:
    return read_source(str(source), DATA)


def photograph(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture((90, 60, 30), seed, size=8).save(file)
    return file


def img2dataset(folder: Path, *, texts: bool = True) -> Path:
    for shard in range(2):
        for i in range(3):
            key = f"{shard:05d}{i:04d}"
            image = photograph(folder / f"{shard:05d}" / f"{key}.jpg", i)
            caption = f"caption {i} of {shard}" if texts else None
            facts = {"caption": caption, "key": key, "status": "success", "url": "http://example.org/y.jpg"}
            image.with_suffix(".json").write_text(json.dumps(facts))
            if texts:
                image.with_suffix(".txt").write_text(f"caption {i} of {shard}")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def test_img2datasets_folders_are_captions_and_their_numbers_no_classes(tmp_path: Path) -> None:
    source = img2dataset(tmp_path / "s")
    summary = ingest("x", str(source), data=DATA, cache=tmp_path / "cache")
    assert (summary.classes, summary.captions, sum(summary.images.values()), summary.ignored) == (0, 6, 6, 2)
    assert "folders that only number parts of the set are no classes (00000, 00001)" in summary.notes
    rows = {row["path"]: row for row in ManifestStore(tmp_path / "cache", "x").read().to_pylist()}
    assert rows["00001/000010002.jpg"]["captions"] == ["caption 2 of 1"]
    assert rows["00001/000010002.jpg"]["class_id"] is None


def test_images_without_text_and_texts_without_image_are_counted(tmp_path: Path) -> None:
    source = img2dataset(tmp_path / "s")
    for suffix in (".txt", ".json"):
        (source / "00000" / "000000001").with_suffix(suffix).unlink()
    (source / "00001" / "000010000.jpg").unlink()
    (source / "00001" / "000010001.txt").write_text("\n")
    (source / "README.txt").write_text("About.")
    found = read(source)
    assert [list(e.captions or ()) for e in found.entries] == [
        ["caption 0 of 0"], [], ["caption 2 of 0"], [], ["caption 2 of 1"],
    ]  # fmt: skip
    assert "1 image has no text of the same name" in found.notes
    assert "1 texts have no image beside them and are left out (first: 00001/000010000.txt)" in found.notes
    assert any(note.startswith("1 empty captions left out") for note in found.notes)


def test_img2datasets_folders_without_captions_are_refused_not_taken_for_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="6 images, and the texts beside them say nothing of them"):
        read(img2dataset(tmp_path / "s", texts=False))


def test_texts_belong_to_the_image_of_their_name_up_to_the_last_dot(tmp_path: Path) -> None:
    for i, name in enumerate(("22.05", "22.06", "The\u0301")):
        photograph(tmp_path / "s" / f"{name}.JPG", i)
    for name in ("22.05", "22.06", "Th\u00e9"):
        (tmp_path / "s" / f"{name}.txt").write_text(f"Caption of {name}.")
    found = read(tmp_path / "s")
    assert [list(e.captions or ()) for e in found.entries] == [
        ["Caption of 22.05."], ["Caption of 22.06."], ["Caption of Th\u00e9."],
    ]  # fmt: skip


def test_split_folders_and_classes_of_the_texts_are_kept(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i in range(4):
            image = photograph(tmp_path / "s" / split / "000" / f"{i}.png", i)
            image.with_suffix(".cls").write_text("cat" if i % 2 else "dog")
            image.with_suffix(".txt").write_text(f"{split} {i}")
    found = read(tmp_path / "s")
    assert found.class_names == {0: "cat", 1: "dog"}
    assert {e.split for e in found.entries} == {"train", "test"}
    assert len(found.entries) == 8
    shutil.rmtree(tmp_path / "s" / "test")
    assert {e.split for e in read(tmp_path / "s").entries} == {None}, "a lone split is split by seed"


def test_numbers_and_boxes_beside_images_leave_class_folders_what_they_are(weaves: Path) -> None:
    for image in weaves.rglob("*.png"):
        image.with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.25\n")
        image.with_suffix(".json").write_text(json.dumps({"shapes": [], "imagePath": image.name}))
    assert type(find_reader(str(weaves))).__name__ == "FolderReader"
    assert list(read(weaves).class_names.values()) == sorted(COLOURS)


def test_a_few_texts_in_class_folders_do_not_make_them_pairs(weaves: Path) -> None:
    for image in sorted(weaves.rglob("*.png"))[::5]:
        image.with_suffix(".txt").write_text("A remark.")
    assert type(find_reader(str(weaves))).__name__ == "FolderReader"


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("000000001.json", b"[]", "000000001.txt.*expected an object|000000001.json.*expected an object"),
        ("000000001.txt", b"\xff\xfe", "not UTF-8"),
        ("000000001.cls", b"\xff", "not UTF-8"),
        ("000000001.json", b'{"caption": 5}', "expected captions"),
        ("000000001.txt", b"x" * (2**22 + 1), "too many for a label"),
    ],
)
def test_texts_that_make_no_sense_are_one_line_with_their_file(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    source = img2dataset(tmp_path / "s")
    (source / "00000" / name).write_bytes(content)
    with pytest.raises(UserError, match=part) as caught:
        read(source)
    assert "00000/000000001" in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(
    texts=st.lists(
        st.tuples(
            st.sampled_from(["txt", "json", "cls", "caption"]), st.integers(0, 3), st.text(max_size=20) | st.just("{}")
        ),
        max_size=6,
    )
)
def test_any_texts_are_a_listing_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    for i in range(2):
        (folder / f"{i}.jpg").write_bytes(b"x")
    for suffix, i, text in texts:
        (folder / f"{i}.{suffix}").write_text(text, encoding="utf-8", errors="replace")
    caught, found = "", None
    try:
        found = PairReader().read(str(folder), DATA)
        check_listing(str(folder), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert str(folder) in caught
        return
    assert found is not None
    left = sum(int(note.split()[0]) for note in found.notes if "unlabelled" in note and "left out" in note)
    assert len(found.entries) + left == 2
