"""One way to an image's bytes: files, archives, Parquet and Arrow, and never outside the folder."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import blobs
from pipeline.archives import ContainerError, is_inside, members
from pipeline.blobs import read_bytes

IMAGES = [f"image {i}".encode() * (i + 1) for i in range(9)]


def write_tar(file: Path, members: dict[str, bytes], *, odd: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if odd is not None:
            archive.addfile(odd)
    return file


def hf_table() -> pa.Table:
    return pa.table({"image": [{"bytes": data, "path": None} for data in IMAGES], "label": range(len(IMAGES))})


def test_a_file_is_read_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "x.jpg").write_bytes(b"a folder may be called so")
    assert read_bytes(tmp_path, "a.tar/x.jpg") == b"a folder may be called so"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "a\0b", "s.tar/../../x", ".."])
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "x").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    write_tar(root / "s.tar", {"m": b"1"})
    with pytest.raises(OSError, match="leaves the image folder"):
        read_bytes(root, path)


def test_members_of_archives_are_read_at_random(tmp_path: Path) -> None:
    names = [f"red/{'x' * 120}{i}.jpg" for i in range(len(IMAGES))]
    write_tar(tmp_path / "s.tar", dict(zip(names, IMAGES, strict=True)))
    (tmp_path / "linked.tar").symlink_to(tmp_path / "s.tar")
    for i in (5, 0, 8, 3):
        assert read_bytes(tmp_path, f"s.tar/{names[i]}") == IMAGES[i]
        assert read_bytes(tmp_path, f"linked.tar/{names[i]}") == IMAGES[i]
    with pytest.raises(FileNotFoundError, match="no such member"):
        read_bytes(tmp_path, "s.tar/none.jpg")


@pytest.mark.parametrize("struct", [True, False])
def test_rows_of_parquet_and_arrow_files_are_read_at_random(tmp_path: Path, struct: bool) -> None:
    table = hf_table() if struct else pa.table({"image": IMAGES})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        for batch in table.to_batches(max_chunksize=4):
            stream.write_batch(batch)
    for i in (7, 0, 8, 1):
        assert read_bytes(tmp_path, f"t.parquet/image/{i}") == IMAGES[i]
        assert read_bytes(tmp_path, f"t.arrow/image/{i}") == IMAGES[i]
    for path in ("t.parquet/image/9", "t.arrow/image/9", "t.parquet/none/1", "t.parquet/image/-1", "t.parquet/1"):
        with pytest.raises(OSError, match="no "):
            read_bytes(tmp_path, path)


def test_a_container_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a": b"1", "b": b"22"})
    assert read_bytes(tmp_path, "s.tar/b") == b"22"
    write_tar(tmp_path / "s.tar", {"b": b"333333"})
    os.utime(tmp_path / "s.tar", ns=(1, 1))
    assert read_bytes(tmp_path, "s.tar/b") == b"333333"


def test_what_a_process_keeps_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs._archives, "most", 6)
    for shard in range(4):
        write_tar(tmp_path / f"{shard}.tar", {f"{i}": f"{shard}{i}".encode() for i in range(3)})
    for _ in range(2):
        for shard in range(4):
            assert read_bytes(tmp_path, f"{shard}.tar/2") == f"{shard}2".encode()
            assert sum(map(len, blobs._archives.values.values())) <= 6


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("../evil.jpg", tarfile.REGTYPE, "leaves"), ("/etc/passwd", tarfile.REGTYPE, "leaves"),
        ("a/../../b", tarfile.REGTYPE, "leaves"), ("link.jpg", tarfile.SYMTYPE, "a link"),
        ("hard.jpg", tarfile.LNKTYPE, "a link"), ("null", tarfile.CHRTYPE, "a device"),
        ("pipe", tarfile.FIFOTYPE, "device"),
    ],
)  # fmt: skip
def test_archives_with_dangerous_members_are_refused(tmp_path: Path, name: str, kind: bytes, part: str) -> None:
    odd = tarfile.TarInfo(name)
    odd.type, odd.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "s.tar", {"a.jpg": b"1"}, odd=odd)
    with pytest.raises(ContainerError, match=part):
        read_bytes(tmp_path, "s.tar/a.jpg")


def test_cut_damaged_joined_and_packed_archives_are_refused(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "s.tar", {f"{i}.jpg": b"x" * 700 for i in range(5)})
    whole = file.read_bytes()
    cases = {
        "cut off": whole[:1100],
        "cut": whole[: 3 * 1536 + 800],
        "damaged": whole[:1536] + b"\1" * 512 + whole[2048:],
        "joined": whole + whole,
        "not a plain tar": b"",
        "plain tar": b"junk" * 500,
    }
    for part, data in cases.items():
        file.write_bytes(data)
        with pytest.raises(ContainerError, match=part):
            list(members(file))
    with tarfile.open(tmp_path / "g.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(ContainerError, match="not a plain tar"):
        list(members(tmp_path / "g.tar"))


@settings(deadline=None, max_examples=60)
@given(
    at=st.integers(0, 5000), junk=st.binary(min_size=1, max_size=40), kind=st.sampled_from(["tar", "parquet", "arrow"])
)
def test_damaged_containers_give_bytes_or_an_os_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    file = folder / f"c.{kind}"
    if kind == "tar":
        write_tar(file, {str(i): data for i, data in enumerate(IMAGES)})
    elif kind == "parquet":
        pq.write_table(hf_table(), file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, hf_table().schema) as stream:
            stream.write_table(hf_table())
    whole = bytearray(file.read_bytes())
    at %= len(whole)
    whole[at : at + len(junk)] = junk
    file.write_bytes(whole)
    for row in (0, 4, 8):
        caught = ""
        try:
            assert isinstance(read_bytes(folder, f"c.tar/{row}" if kind == "tar" else f"c.{kind}/image/{row}"), bytes)
        except OSError as error:
            caught = str(error.strerror)
        assert "\n" not in caught


@given(st.text(max_size=30))
def test_inside_means_inside(path: str) -> None:
    if is_inside(path):
        assert os.path.normpath(f"/root/folder/{path}").startswith("/root/folder")
