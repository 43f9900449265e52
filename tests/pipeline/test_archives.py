"""Zip archives and gzipped tars: read at random without unpacking them, and refused where they mean harm."""

import gzip
import io
import multiprocessing
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.archives import ContainerError, base, members, read_member
from pipeline.blobs import read_bytes

IMAGES = [os.urandom(300 * (i + 1)) + b"0" * 2000 for i in range(9)]
NAMES = [f"red/{'x' * 120}é{i}.jpg" for i in range(len(IMAGES))]


def write_zip(file: Path, content: dict[str, bytes], **more: int) -> Path:
    with zipfile.ZipFile(file, "w", **{"compression": zipfile.ZIP_DEFLATED, **more}) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def write_gzip(file: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "s.zip": write_zip, "s.tar.gz": write_gzip, "S.TGZ": write_gzip,
    "stored.zip": lambda file, content: write_zip(file, content, compression=zipfile.ZIP_STORED),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_members_are_read_at_random_by_threads_and_by_worker_processes(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, dict(zip(NAMES, IMAGES, strict=True)))
    found: dict[int, bytes] = {}

    def read(i: int) -> None:
        found[i] = read_bytes(tmp_path, f"{name}/{NAMES[i]}")

    threads = [threading.Thread(target=read, args=(i,)) for i in (5, 0, 8, 3, 1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(data == IMAGES[i] for i, data in found.items())
    assert len(found) == 6
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_bytes, (tmp_path, f"{name}/{NAMES[4]}")) == IMAGES[4]
    with pytest.raises(FileNotFoundError, match="no such member"):
        read_bytes(tmp_path, f"{name}/none.jpg")
    assert [p.name for p in tmp_path.iterdir()] == [name], "nothing is unpacked"


def test_names_of_macos_and_of_windows_are_understood(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("plain.jpg", b"1")
        archive.writestr("folder/", b"")
    raw = (tmp_path / "s.zip").read_bytes()
    (tmp_path / "mac.zip").write_bytes(raw.replace(b"plain.jpg", "Thé\\0.jp".encode()))
    assert [m.name for m in members(tmp_path / "mac.zip")] == ["Thé/0.jp"]
    assert read_bytes(tmp_path, "mac.zip/Thé/0.jp") == b"1"


def test_links_strange_names_encrypted_and_unknown_members_are_refused(tmp_path: Path) -> None:
    def zipped(info: zipfile.ZipInfo, method: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(tmp_path / "s.zip", "w", compression=method) as archive:
            archive.writestr("a.jpg", b"1")
            archive.writestr(info, b"/etc/passwd")
        return tmp_path / "s.zip"

    def refused(part: str) -> None:
        with pytest.raises(ContainerError, match=part):
            read_bytes(tmp_path, "s.zip/a.jpg")

    for name in ("../evil.jpg", "/etc/passwd", "a/../../b.jpg", "..\\evil.jpg"):
        zipped(zipfile.ZipInfo(name))
        refused("leaves the archive's folder")
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        info = zipfile.ZipInfo("b.jpg")
        info.create_system, info.external_attr = 3, (kind | 0o644) << 16
        zipped(info)
        refused("is a link or a device")
    info = zipfile.ZipInfo("b.jpg")
    info.compress_type = zipfile.ZIP_LZMA
    zipped(info)
    refused("by a method that is not read")
    raw = zipped(zipfile.ZipInfo("b.jpg")).read_bytes()
    at = raw.rindex(b"PK\1\2") + 8
    (tmp_path / "s.zip").write_bytes(raw[:at] + b"\1" + raw[at + 1 :])
    refused("is encrypted")
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("l.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(ContainerError, match="a link, a device"):
        list(members(tmp_path / "s.tar.gz"))


def test_archives_that_unpack_to_far_more_than_they_are_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "MOST_MEMBER", 2**20)
    zeros = {"a.jpg": b"1", "zeros.jpg": bytes(2**22)}
    for name in ("s.zip", "s.tar.gz"):
        WRITERS[name](tmp_path / name, zeros)
        with pytest.raises(ContainerError, match="200 times its own size"):
            read_bytes(tmp_path, f"{name}/a.jpg")


def test_members_too_large_for_an_image_are_listed_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.archives import tars, zips

    for name, module in (("s.zip", zips), ("s.tar.gz", tars)):
        monkeypatch.setattr(module, "MOST_MEMBER", 1000)
        WRITERS[name](tmp_path / name, {"a.jpg": b"1", "large.bin": os.urandom(1001)})
        assert read_bytes(tmp_path, f"{name}/a.jpg") == b"1"
        with pytest.raises(ContainerError, match="1001 bytes are too many"):
            read_bytes(tmp_path, f"{name}/large.bin")


def test_a_header_made_to_fill_the_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    with pytest.raises(ContainerError, match="a header of 8589934592 bytes"):
        list(members(tmp_path / "s.tar.gz"))


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "s.zip", {"a.jpg": os.urandom(5000)})
    raw = (tmp_path / "s.zip").read_bytes()
    at, end = raw.index(b"PK\1\2"), raw.index(b"PK\5\6")
    entry, tail = raw[at:end], bytearray(raw[end:])
    tail[8:12] = (3).to_bytes(2, "little") * 2
    tail[12:16] = (3 * len(entry)).to_bytes(4, "little")
    (tmp_path / "s.zip").write_bytes(raw[:at] + entry * 3 + bytes(tail))
    with pytest.raises(ContainerError, match="overlap"):
        list(members(tmp_path / "s.zip"))


@pytest.mark.parametrize("name", ["s.zip", "s.tar.gz"])
def test_cut_damaged_and_misnamed_archives_are_one_line(tmp_path: Path, name: str) -> None:
    whole = WRITERS[name](tmp_path / name, dict(zip(NAMES, IMAGES, strict=True))).read_bytes()
    for data in (b"", b"junk" * 500, whole[:-30], whole[: len(whole) // 2], whole[:40]):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ContainerError, match=r"damaged, cut off or not a (zip|gzipped tar) archive") as caught:
            list(members(tmp_path / name))
        assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(at=st.integers(0, 30_000), junk=st.binary(min_size=1, max_size=40), name=st.sampled_from(["s.zip", "s.tar.gz"]))
def test_damaged_archives_give_the_right_bytes_or_an_os_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    whole = bytearray(WRITERS[name](folder / name, {str(i): data for i, data in enumerate(IMAGES)}).read_bytes())
    at %= len(whole)
    whole[at : at + len(junk)] = junk
    (folder / name).write_bytes(whole)
    for row in (0, 4, 8):
        caught, data = "", b""
        try:
            data = read_bytes(folder, f"{name}/{row}")
        except OSError as error:
            caught = str(error.strerror)
        assert caught or data == IMAGES[row]
        assert "\n" not in caught


@given(
    names=st.lists(
        st.text(min_size=1, max_size=20).filter(lambda name: name[0] != "\0"), min_size=1, max_size=4, unique=True
    )
)
def test_any_names_in_a_zip_stay_inside_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    file = tmp_path_factory.mktemp("names") / "s.zip"
    try:
        write_zip(file, {name: b"1" for name in names})
    except UnicodeEncodeError:
        return
    caught = ""
    try:
        for member in members(file):
            assert os.path.normpath(f"/root/{member.name}").startswith("/root")
            assert read_member(file, member) == b"1"
    except ContainerError as error:
        caught = str(error.strerror)
    assert "\n" not in caught
