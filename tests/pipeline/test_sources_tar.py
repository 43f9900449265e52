"""WebDataset archives as sources: grouped by key, nothing unpacked, hostile archives refused."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, Command, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.blobs import read_bytes
from pipeline.ingest import Listing, ingest
from pipeline.ingest.base import check_listing
from pipeline.ingest.webdataset import WebDatasetReader
from stages import ManifestStore, UserError
from stages.params import DataParams

DATA = DataParams()


def image(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture((100, 50, 50), seed, size=8).save(buffer, "JPEG")
    return buffer.getvalue()


def tar(file: Path, members: dict[str, bytes | str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def read(source: object, **data: Any) -> Listing:
    return WebDatasetReader().read(str(source), DataParams(**data))


def shard(file: Path, start: int, count: int = 10) -> Path:
    members: dict[str, bytes | str] = {}
    for i in range(start, start + count):
        members |= {f"{i:04d}.jpg": image(i), f"{i:04d}.cls": sorted(COLOURS)[i % 4], f"{i:04d}.txt": f"weave {i}\n"}
    return tar(file, members)


def test_an_archive_is_a_source_and_nothing_is_unpacked(tmp_path: Path) -> None:
    file = shard(tmp_path / "w.tar", 0, 20)
    summary = ingest("w", str(file), data=DATA, cache=tmp_path / "cache")
    assert (summary.images, summary.classes, summary.captions) == ({"train": 12, "val": 0, "test": 8}, 4, 20)
    store = ManifestStore(tmp_path / "cache", "w")
    row = next(r for r in store.read().to_pylist() if r["path"] == "w.tar/0007.jpg")
    assert (row["class_name"], row["captions"]) == (sorted(COLOURS)[3], ["weave 7"])
    assert read_bytes(Path(store.provenance().root or ""), row["path"]) == image(7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "w.tar"]


def test_shards_come_as_a_folder_a_pattern_or_by_split(tmp_path: Path) -> None:
    for i in range(3):
        shard(tmp_path / "s" / f"x-{i:03d}.tar", 10 * i)
    (tmp_path / "linked").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "y.tar").symlink_to(shard(tmp_path / "elsewhere.tar", 40))
    for source, n in (("s", 40), ("linked", 40), ("s/x-{000..002}.tar", 30), ("s/x-{000,002}.tar", 20)):
        assert len(read(tmp_path / source).entries) == n
    for split in ("train", "val"):
        shard(tmp_path / "split" / split / "000.tar", 0)
        shard(tmp_path / "named" / f"weaves-{split}-000.tar", 0)
    for folder in ("split", "named"):
        assert {e.split for e in read(tmp_path / folder).entries} == {"train", "val"}
    with pytest.raises(UserError, match=r"1 of 4 archives are not there \(first: .*x-003.tar"):
        read(tmp_path / "s/x-{000..003}.tar")


@pytest.mark.parametrize("pattern", ["x-{000..999999999999}.tar", "x-{5..1}.tar", "{0..999}{0..999}.tar"])
def test_patterns_that_stand_for_nothing_or_too_much_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="stands for"):
        read(tmp_path / pattern)


def test_classes_and_captions_come_from_json_or_numbers_with_a_class_list(tmp_path: Path) -> None:
    tar(
        tmp_path / "j.tar",
        {
            "a.png": image(), "a.json": json.dumps({"label": "cat", "caption": ["One.", "Two."], "url": "x"}),
            "b.PNG": image(), "b.json": json.dumps({"class_name": "dog", "label": 3, "captions": "Three."}),
        },
    )  # fmt: skip
    found = read(tmp_path / "j.tar").entries
    assert [(e.class_name, list(e.captions or ())) for e in found] == [("cat", ["One.", "Two."]), ("dog", ["Three."])]
    tar(tmp_path / "n" / "n.tar", {"a.jpg": image(), "a.cls": "1\n", "b.jpg": image(), "b.cls": b"0"})
    (tmp_path / "n" / "classnames.txt").write_text("zero\none\n")
    assert [e.class_name for e in read(tmp_path / "n").entries] == ["one", "zero"]


def test_an_archive_of_class_folders_is_read_as_such(weaves: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "plain.tar", "w") as archive:
        archive.add(weaves, arcname=".")
    summary = ingest("w", str(tmp_path / "plain.tar"), data=DATA, cache=tmp_path / "cache")
    assert (summary.classes, sum(summary.images.values())) == (4, 48)
    tar(tmp_path / "dots.tar", {"a/v1.0.jpg": image(1), "a/v1.5.jpg": image(2), "b/x.jpg": image(3)})
    assert [e.path for e in read(tmp_path / "dots.tar").entries] == [
        "dots.tar/a/v1.0.jpg", "dots.tar/a/v1.5.jpg", "dots.tar/b/x.jpg",
    ]  # fmt: skip


def test_files_that_belong_to_no_image_are_counted(tmp_path: Path) -> None:
    tar(tmp_path / "w.tar", {"a.jpg": image(), "a.mask.png": image(), "a.cls": "x", "b.jpg": image(), "b.cls": "y",
                             "lost.cls": "z", "README": "?"})  # fmt: skip
    found = read(tmp_path / "w.tar")
    assert [e.path for e in found.entries] == ["w.tar/a.jpg", "w.tar/b.jpg"]
    assert found.ignored == 1
    assert "1 further images of their keys are left out (mask.png)" in found.notes
    assert "1 texts belong to no image (first: w.tar/lost.cls)" in found.notes


def test_images_whose_names_have_dots_are_refused_where_the_key_would_lose_one(tmp_path: Path) -> None:
    whole: dict[str, bytes | str] = {"a.jpg": image(), "a.txt": "a"}
    for members in (
        {"b.1.jpg": image(1), "b.1.txt": "b.1", "b.2.jpg": image(2), "b.2.txt": "b.2"},
        {"b.1.jpg": image(1), "b.2.jpg": image(2), "b.txt": "b"},
        {"b.jpg": image(1), "b.1.jpg": image(2), "b.txt": "b"},
        {"b.jpg": image(1), "b.png": image(2), "b.txt": "b"},
        {"b.one.jpg": image(1), "b.two.jpg": image(2), "b.txt": "b"},
    ):
        tar(tmp_path / "w.tar", {**whole, **members})
        with pytest.raises(UserError, match=r"are two images under one key, 'b': .* up to its first dot; rename"):
            read(tmp_path / "w.tar")
    tar(tmp_path / "w.tar", {**whole, "22.05.png": image(1), "22.05.txt": "c"})
    with pytest.raises(UserError, match=r"'22.05.png' and '22.05.txt' are an image and a text that do not meet"):
        read(tmp_path / "w.tar")


def test_images_without_a_text_and_empty_texts_are_counted(tmp_path: Path) -> None:
    texts = {"a.txt": "One.\n\nTwo.", "b.txt": " ", "c.json": json.dumps({"caption": ["Three.", None]})}
    tar(tmp_path / "w.tar", {**{f"{key}.jpg": image(i) for i, key in enumerate("abcd")}, **texts})
    found = read(tmp_path / "w.tar")
    assert [list(e.captions or ()) for e in found.entries] == [["One.", "Two."], [], ["Three."], []]
    assert "1 image has no text of the same key" in found.notes
    assert "2 empty captions left out; 1 images have no other" in found.notes


def test_an_empty_or_negative_class_is_no_class(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{key}.jpg": image(i) for i, key in enumerate("abcde")}
    labels = {"a.cls": "0", "b.cls": "1", "c.cls": "-1", "d.cls": "", "e.json": '{"label": null}'}
    found = read(tar(tmp_path / "w.tar", {**members, **labels}))
    assert [e.class_id for e in found.entries] == [0, 1]
    assert any("3 images are unlabelled" in note and "c.jpg" in note for note in found.notes)


@pytest.mark.parametrize(
    ("members", "part"),
    [
        ({"../a.jpg": b"", "../a.cls": b"x"}, "leaves"),
        ({"/abs.jpg": b"", "/abs.cls": b"x"}, "leaves"),
        ({"a.jpg": b"", "a.cls": b""}, "1 images are unlabelled"),
        ({"a.jpg": b"", "a.cls": b"\xff"}, "not UTF-8"),
        ({"a.jpg": b"", "a.json": b"{"}, "not readable as JSON"),
        ({"a.jpg": b"", "a.json": b"[]"}, "expected an object"),
        ({"a.jpg": b"", "a.json": b'{"label": []}'}, "expected a class"),
        ({"a.jpg": b"", "a.json": b'{"label": "x", "caption": {}}'}, "expected captions"),
        ({"a.jpg": b"", "a.cls": b"x", "b.jpg": b""}, "has no class, others have one"),
        ({"a.jpg": b""}, r"no class folders; .* or put .cls, .json or .txt of the same key beside each image"),
        (
            {"x/a.jpg": b"", "train.csv": b""},
            r"only one folder of images .'x'.* it holds train.csv: unpack it and name that file",
        ),
        ({"/".join("abcdefgh" * 30) + "/a.jpg": b""}, "more than 200 folders"),
        ({"a.txt": b"x"}, r"no image in 1 archives \(found 1 .txt"),
        ({"a.jpg": b"", "a.txt": b"x" * (2**22 + 1)}, "too many"),
    ],
)
def test_archives_that_make_no_sense_are_one_clear_line(tmp_path: Path, members: dict[str, Any], part: str) -> None:
    tar(tmp_path / "w.tar", members)
    with pytest.raises(UserError, match=part) as caught:
        read(tmp_path / "w.tar")
    assert "w.tar" in str(caught.value)


def test_twice_the_same_member_and_packed_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a/x.jpg"))
    with pytest.raises(UserError, match="stands there twice"):
        read(tmp_path / "w.tar")
    with pytest.raises(UserError, match=r"1 archives of a kind that is not read in place .*w.tar.xz.*unpack"):
        read(tmp_path / "w.tar.xz")


def test_the_command_says_what_is_wrong_with_an_archive(command: Command, tmp_path: Path) -> None:
    shard(tmp_path / "w.tar", 0)
    (tmp_path / "w.tar").write_bytes((tmp_path / "w.tar").read_bytes()[:1000])
    done = command("pipeline", "ingest", "w", "--source", "w.tar", cwd=tmp_path, code=1)
    assert done.stderr.startswith("error: w.tar: cut off in member")
    assert len(done.stderr.strip().splitlines()) == 1


@settings(deadline=None, max_examples=60)
@given(
    names=st.lists(
        st.text(min_size=1, max_size=20).filter(lambda n: "\0" not in n and n.strip("/. ")),
        min_size=1,
        max_size=5,
        unique=True,
    ),
    suffix=st.sampled_from([".jpg", ".png", ".x.jpg", ""]),
    label=st.binary(max_size=12),
)
def test_any_member_names_are_a_listing_or_one_clear_line(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], suffix: str, label: bytes
) -> None:
    file = tmp_path_factory.mktemp("members") / "w.tar"
    members: dict[str, bytes | str] = {}
    for name in names:
        members |= {f"{name}{suffix}": b"1", f"{name.split('.')[0]}.cls": label}
    try:
        tar(file, members)
    except UnicodeEncodeError:
        return
    caught, found = "", None
    try:
        found = read(file)
        check_listing(str(file), found)
    except UserError as error:
        caught = str(error)
    if caught:
        assert "w.tar" in caught
        return
    assert found is not None
    for entry in found.entries:
        assert read_bytes(found.root, entry.path) == b"1"
