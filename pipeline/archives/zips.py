"""Zip archives: stored and deflated members, each with its checksum."""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.archives.base import (
    MOST_MEMBER,
    ContainerError,
    Member,
    Packed,
    check_growth,
    check_name,
    one_line,
    read_at,
)

LOCAL_HEADER = 30
"""Bytes before the name in the header that stands before each member."""
UNIX = 3
"""The system that wrote an archive: on Unix, members have a mode."""
ENCRYPTED, UTF8 = 0x1, 0x800
"""Flags of a member."""


def zip_members(file: Path) -> Iterator[Member]:
    """The regular files of a zip archive, in the order of its directory.

    Raises:
        ContainerError: as `members`.
    """
    with one_line("zip"), zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
    file_size = file.stat().st_size
    if sum(info.compress_size for info in infos) > file_size:
        raise ContainerError("damaged, or its members overlap: they hold more bytes than the archive")
    check_growth(sum(info.file_size for info in infos), file_size)
    for info in infos:
        packed = Packed(info.compress_size, info.compress_type == zipfile.ZIP_DEFLATED, info.CRC)
        member = Member(_name(info), info.header_offset, info.file_size, packed)
        if member.name.endswith("/"):
            continue
        if info.create_system == UNIX and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise ContainerError(f"member {member.shown} is a link or a device; only plain files are read")
        if info.flag_bits & ENCRYPTED:
            raise ContainerError(f"member {member.shown} is encrypted; unpack it with its password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ContainerError(f"member {member.shown} is packed by a method that is not read; zip with deflate")
        check_name(member.name)
        yield member


def read_zipped(file: Path, member: Member) -> bytes:
    """A member of a zip archive.

    Raises:
        ContainerError: too large to be read, or damaged.
    """
    packed = member.packed
    if packed is None or member.size > MOST_MEMBER:
        raise ContainerError(f"member {member.shown}: {member.size} bytes are too many for an image")
    damage = f"damaged or cut off in member {member.shown}"
    header = read_at(file, member.offset, LOCAL_HEADER)
    if len(header) < LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise ContainerError(damage)
    # The lengths of the name and of the extra field, here and not in the directory, say where the bytes begin.
    lengths = [int.from_bytes(header[at : at + 2], "little") for at in (26, 28)]
    data = read_at(file, member.offset + LOCAL_HEADER + sum(lengths), packed.size)
    if packed.deflated:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
        except zlib.error as error:
            raise ContainerError(damage) from error
    if len(data) != member.size or zlib.crc32(data) != packed.crc:
        raise ContainerError(damage)
    return data


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name: UTF-8 also where the archive does not say so (macOS), `/` also where Windows wrote `\\`."""
    name = info.orig_filename.partition("\0")[0]
    if not info.flag_bits & UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/").removeprefix("./")
