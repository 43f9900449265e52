"""What goes wrong with real sources: each mishap is said, and takes no image and no class with it."""

import os
from pathlib import Path

import pytest
from conftest import picture
from PIL import Image
from test_sources_tar import image, tar

from pipeline.images import ImageError, open_picture
from pipeline.ingest import Summary, ingest, read_source
from pipeline.ingest.folders import FolderReader
from stages import UserError
from stages.files import read_file
from stages.params import DataParams

DATA = DataParams(max_missing=0.5)


def folders(root: Path, *classes: str, each: int = 4) -> Path:
    for seed, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture((20 * seed, 9, 200), 100 * seed + number, size=8).save(root / name / f"{number}.png")
    return root


def read(source: Path, tmp_path: Path, data: DataParams = DATA) -> Summary:
    return ingest("x", str(source), data=data, cache=tmp_path / "cache")


def write(file: Path, *rows: str) -> Path:
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


def test_a_small_tar_beside_class_folders_is_not_the_data_set(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets", "cat", "dog")
    tar(source / "backup.tar", {"x/0.jpg": image(1), "y/0.jpg": image(2)})
    listing = read_source(str(source), DATA)
    assert set(listing.class_names.values()) == {"cat", "dog"}
    assert listing.notes[0].startswith("backup.tar: 2 images in archives, fewer than in the class folders")


def test_images_beside_archives_that_are_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    picture((1, 2, 3), 0).save(tmp_path / "shards" / "preview.png")
    tar(tmp_path / "shards" / "a.tar", {f"{c}/{i}.jpg": image(i) for i, c in enumerate("xyxy")})
    listing = read_source(str(tmp_path / "shards"), DATA)
    assert len(listing.entries) == 4
    assert any(note.startswith("1 images below") and "in no archive (a.tar)" in note for note in listing.notes)


def test_a_damaged_tar_beside_class_folders_says_that_they_are_there(tmp_path: Path) -> None:
    (folders(tmp_path / "pets", "cat", "dog") / "b.tar").write_bytes(b"x" * 600)
    with pytest.raises(UserError, match=r"b\.tar.*move it away: class folders lie there"):
        read_source(str(tmp_path / "pets"), DATA)


def test_a_tar_that_stops_between_two_members_is_said(tmp_path: Path) -> None:
    file = tar(tmp_path / "a.tar", {f"{c}/{i}.jpg": image(i) for i, c in enumerate("xyxy")})
    whole = read_source(str(file), DATA)
    assert not any("end mark" in note for note in whole.notes)
    data = file.read_bytes().rstrip(b"\0")
    file.write_bytes(data + b"\0" * (-len(data) % 512))
    cut = read_source(str(file), DATA)
    assert "1 archive has no end mark and may be cut off (first: a.tar)" in cut.notes


def test_images_beside_splits_in_a_wrapping_folder_are_outside(tmp_path: Path) -> None:
    top = tmp_path / "zip" / "pets"
    for split in ("training_set", "test_set"):
        folders(top / split, "cat", "dog", each=2)
    picture((1, 2, 3), 0).save(top / "cover.png")
    listing = read_source(str(tmp_path / "zip"), DATA)
    assert {entry.split for entry in listing.entries} == {"train", "test"}
    assert listing.outside == ["pets/cover.png"]


@pytest.mark.parametrize("path", ["cat/./0.png", "cat//0.png", "./cat/0.png", "cat/.//0.png", "ROOT/./cat//0.png"])
def test_another_spelling_of_a_path_is_no_further_image(tmp_path: Path, path: str) -> None:
    source = folders(tmp_path / "pets", "cat", "dog")
    rows = [f"{c}/{i}.png,{c}" for c in ("cat", "dog") for i in range(2)]
    with pytest.raises(UserError, match=r"line 6: image 'cat/0\.png' stands there twice"):
        read(write(source / "l.csv", "image,class", *rows, f"{path.replace('ROOT', str(source))},dog"), tmp_path)


def test_a_quote_left_open_is_refused_in_classes_and_said_in_captions(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets", "cat", "dog")
    rows = ['cat/0.png,"cat', "cat/1.png,cat", 'dog/0.png,dog"', "dog/1.png,dog"]
    with pytest.raises(UserError, match=r"line 4: a cell runs over several lines.*quote left open"):
        read(write(source / "l.csv", "image,class", *rows), tmp_path)
    notes = read(write(source / "c.csv", "image,caption", *rows), tmp_path).notes
    assert len(notes) == 1
    assert notes[0].startswith("1 row runs over several lines")


def test_the_made_up_answers_of_a_sample_submission_are_no_labels(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets", "a", "b")
    write(source / "train.csv", "image,target", *(f"a/{i}.png,{i % 2}" for i in range(4)))
    write(source / "sample_submission.csv", "image,target", *(f"b/{i}.png,0" for i in range(4)))
    listing = read_source(str(source), DATA)
    assert {entry.path for entry in listing.entries} == {f"a/{i}.png" for i in range(4)}
    assert any("sample_submission.csv: answers to be handed in, left aside" in note for note in listing.notes)
    assert len(read_source(str(source / "sample_submission.csv"), DATA).entries) == 4


def test_classes_apart_by_what_is_not_seen_are_one_and_said(tmp_path: Path) -> None:
    folders(tmp_path / "pets" / "train", "sea lion", "cat")
    folders(tmp_path / "pets" / "test", "sea\u00a0lion", "cat\u200b")
    listing = read_source(str(tmp_path / "pets"), DATA)
    assert listing.class_names == {0: "cat", 1: "sea lion"}
    assert "2 classes stand there in several spellings" in listing.notes[0]


def test_words_that_joiners_part_stay_two_classes(tmp_path: Path) -> None:
    listing = read_source(str(folders(tmp_path / "pets", "نامه\u200cای", "cat")), DATA)
    assert "نامه\u200cای" in listing.class_names.values()


def test_a_pipe_called_like_an_image_is_not_waited_for(tmp_path: Path) -> None:
    source = folders(tmp_path / "pets", "cat", "dog")
    os.mkfifo(source / "cat" / "pipe.png")
    assert read(source, tmp_path).unreadable == ["cat/pipe.png: cannot be read: a pipe or a device, no plain file"]
    with pytest.raises(OSError, match="a pipe or a device"):
        read_file(Path("/dev/zero"))
    with pytest.raises(ImageError, match="a pipe or a device"):
        open_picture(source / "cat" / "pipe.png")


def test_postscript_is_never_run_whatever_it_is_called() -> None:
    with pytest.raises(ImageError, match="an EPS file, which is not read"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")


def test_first_frames_classes_without_training_images_and_files_in_two_classes_are_said(tmp_path: Path) -> None:
    source = tmp_path / "pets"
    folders(source / "train", "cat", "dog", each=20)
    folders(source / "test", "cat", "dog", "emu", each=1)
    (source / "train" / "fox").mkdir()
    (source / "train" / "fox" / "0.png").write_bytes(b"no image")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(source / "train" / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    (source / "train" / "dog" / "b.gif").write_bytes((source / "train" / "cat" / "a.gif").read_bytes())
    notes = read(source, tmp_path).notes
    assert notes[:3] == [
        "2 files hold several frames or pages: the first of each is taken",
        "1 classes have no image that can be read: fox",
        "1 classes have no image in train to learn from: emu",
    ]
    assert notes[3].endswith("images stand in two classes: the same file under both")


@pytest.mark.parametrize("source", ["", "  "])
def test_an_empty_source_is_not_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(folders(tmp_path / "pets", "cat", "dog"))
    with pytest.raises(UserError, match="the source is empty"):
        ingest("x", source, data=DATA, cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / "manifest" / "dataset=x" / "part-0.parquet").exists()


def test_a_home_that_no_shell_wrote_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path / "pets", "cat", "dog")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"~ is a word of the shell; write '.*/pets'"):
        read_source("~/pets", DATA)


def test_numbers_as_class_folders_stand_in_their_order(tmp_path: Path) -> None:
    listing = FolderReader().read(str(folders(tmp_path / "n", "10", "9", "x", each=1)), DATA)
    assert list(listing.class_names.values()) == ["9", "10", "x"]
