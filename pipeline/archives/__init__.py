"""Archives as lists of files that can be read one by one: tar, gzipped tar, zip. Nothing is unpacked to disk.

Archives come from strangers: members outside the archive's folder, links, devices, encrypted members and archives that
unpack to far more than they are (bombs) are refused before anything of them is used.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.archives.base import ContainerError, Member, is_inside
from pipeline.archives.tars import GZIPPED, has_end, read_gzipped, read_plain, tar_members
from pipeline.archives.zips import read_zipped, zip_members

TAR, ZIP = (".tar",), (".zip",)
ARCHIVES = (*TAR, *GZIPPED, *ZIP)

__all__ = [
    "ARCHIVES",
    "GZIPPED",
    "TAR",
    "ZIP",
    "ContainerError",
    "Member",
    "has_end",
    "is_archive",
    "is_inside",
    "members",
    "read_member",
]


def is_archive(name: str) -> bool:
    """Whether a file is one of these archives by its name."""
    return name.lower().endswith(ARCHIVES)


def members(file: Path) -> Iterator[Member]:
    """The regular files of an archive, in order.

    Raises:
        ContainerError: not the archive that its name says, damaged, cut off, encrypted or a bomb; a member that is a
            link or a device, or whose name is absolute or has `..`.
    """
    return zip_members(file) if file.name.lower().endswith(ZIP) else tar_members(file)


def read_member(file: Path, member: Member) -> bytes:
    """The bytes of one member.

    Raises:
        ContainerError: too large to be read, or damaged.
    """
    if file.name.lower().endswith(TAR):
        return read_plain(file, member)
    return read_zipped(file, member) if member.packed else read_gzipped(file, member)
