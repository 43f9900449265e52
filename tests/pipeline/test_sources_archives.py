"""Archives of class folders as people download them: zip and tar.gz, read in place, and what they do not hold said."""

import shutil
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from conftest import COLOURS

from pipeline.blobs import read_bytes
from pipeline.ingest import find_reader, ingest, read_source
from stages import ManifestStore, UserError
from stages.params import DataParams

DATA = DataParams()


def packed(folder: Path, file: Path, below: str = "") -> Path:
    """The files of a folder in an archive, by its suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in found:
                archive.write(path, below + path.relative_to(folder).as_posix())
    else:
        with tarfile.open(file, f"w:{'gz' if file.suffix == '.gz' else ''}") as archive:
            for path in found:
                archive.add(path, below + path.relative_to(folder).as_posix())
    return file


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar"])
@pytest.mark.parametrize("below", ["", "weaves/", "weaves/images/"])
def test_class_folders_in_an_archive_are_read_as_folders_are(
    weaves: Path, tmp_path: Path, suffix: str, below: str
) -> None:
    (weaves / "__MACOSX").mkdir()
    (weaves / "__MACOSX" / "._00.png").write_text("x")
    (weaves / "red weave" / "deeper").mkdir()
    shutil.move(weaves / "red weave" / "00.png", weaves / "red weave" / "deeper")
    (weaves / "README.txt").write_text("About.")
    file = packed(weaves, tmp_path / f"w{suffix}", below)
    found = read_source(str(file), DATA)
    plain = read_source(str(weaves), DATA)
    prefix = f"{file.name}/{below}"
    assert [(e.path.removeprefix(prefix), e.class_id, e.class_name) for e in found.entries] == [
        (e.path, e.class_id, e.class_name) for e in plain.entries
    ]
    assert found.ignored == plain.ignored == 1
    assert any("left behind" in note for note in found.notes)


def test_a_manifest_of_a_zip_leads_to_the_bytes_in_it(weaves: Path, tmp_path: Path) -> None:
    file = packed(weaves, tmp_path / "w.zip")
    summary = ingest("w", str(file), data=DATA, cache=tmp_path / "cache")
    assert (summary.classes, summary.images, summary.unreadable) == (4, {"train": 24, "val": 4, "test": 20}, [])
    store = ManifestStore(tmp_path / "cache", "w")
    row = store.read().to_pylist()[7]
    data = read_bytes(Path(store.provenance().root or ""), row["path"])
    assert data == (weaves / row["path"].removeprefix("w.zip/")).read_bytes()


def test_splits_are_those_of_the_folders_inside_or_of_the_archives(weaves: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(weaves, tmp_path / "split" / split)
        packed(weaves, tmp_path / "by name" / f"{split}.zip")
        packed(weaves, tmp_path / "wrapped" / f"weaves_{split}.tar.gz", f"{split}/")
    packed(tmp_path / "split", tmp_path / "inside.zip", "weaves/")
    for source in ("inside.zip", "by name", "wrapped"):
        found = read_source(str(tmp_path / source), DATA)
        assert Counter(e.split for e in found.entries) == {"train": 48, "test": 48}
        assert list(found.class_names.values()) == sorted(COLOURS)
    told = DataParams(split_folders={"train": "test", "test": "train"})
    turned = read_source(str(tmp_path / "inside.zip"), told)
    assert {(e.path.split("/")[2], e.split) for e in turned.entries} == {("train", "test"), ("test", "train")}


def test_archives_beside_the_images_that_were_unpacked_from_them_are_not_read_again(
    weaves: Path, tmp_path: Path
) -> None:
    packed(weaves, weaves / "w.zip")
    assert {e.path.partition("/")[0] for e in read_source(str(weaves), DATA).entries} == set(COLOURS)
    shards = tmp_path / "shards"
    packed(weaves, shards / "w.tar")
    packed(weaves, shards / "w.tar.gz")
    assert {e.path.partition("/")[0] for e in read_source(str(shards), DATA).entries} == {"w.tar"}


def test_captions_beside_images_in_class_folders_keep_both(weaves: Path, tmp_path: Path) -> None:
    for image in weaves.rglob("*.png"):
        image.with_suffix(".txt").write_text(f"A {image.parent.name}.")
    for source in (packed(weaves, tmp_path / "w.zip"), weaves):
        found = read_source(str(source), DATA)
        assert list(found.class_names.values()) == sorted(COLOURS)
        assert all(list(e.captions or ()) == [f"A {e.class_name}."] for e in found.entries)


@pytest.mark.parametrize("name", ["w.tar.xz", "w.tar.bz2", "w.rar", "w.7z"])
def test_archives_that_are_not_read_are_named_with_the_mend(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_bytes(b"x")
    for source in (tmp_path / "s", tmp_path / "s" / name):
        with pytest.raises(
            UserError, match=rf"1 archives of a kind that is not read in place \(first: {name}\); unpack"
        ):
            read_source(str(source), DATA)


def test_what_a_folder_or_a_file_holds_instead_of_images_is_said(tmp_path: Path) -> None:
    for name in ("a/x.pdf", "a/y.pdf", "b/z.docx"):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_text("x")
    with pytest.raises(UserError, match=r"found 2 .pdf, 1 .docx"):
        read_source(str(tmp_path / "s"), DATA)
    with pytest.raises(UserError, match=r"is a file .pdf, which is not a kind of source"):
        find_reader(str(tmp_path / "s/a/x.pdf"))
    packed(tmp_path / "s", tmp_path / "s.zip")
    with pytest.raises(UserError, match=r"no image in 1 archives \(found 2 .pdf, 1 .docx"):
        read_source(str(tmp_path / "s.zip"), DATA)


def test_a_hostile_zip_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("cat/../../evil.jpg", b"1")
    with pytest.raises(UserError, match=r"w.zip: member 'cat/../../evil.jpg' leaves the archive's folder"):
        ingest("w", str(tmp_path / "w.zip"), data=DATA, cache=tmp_path / "cache")
    assert not ManifestStore(tmp_path / "cache", "w").exists()
