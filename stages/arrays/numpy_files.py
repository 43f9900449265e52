"""`.npy` and `.npz`: mapped where they lie plainly in the file, else unpacked after their sizes were checked."""

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from stages.arrays.base import Values
from stages.arrays.limits import MOST_GROWTH, MOST_MEMBERS, SMALL, require_memory
from stages.errors import UserError

BLOCK = 2**24
LONGEST_HEADER = 10_000
LOCAL_HEADER = 30
"""Bytes of a zip member's own header before its name."""


class Header(NamedTuple):
    """What an array says of itself."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    length: int

    @property
    def nbytes(self) -> int:
        """Of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(file: Path) -> Values:
    """One array, mapped.

    Raises:
        UserError: no such file, cut off, or of objects.
    """
    with file.open("rb") as handle:
        header = _header(handle, str(file))
    found = file.stat().st_size - header.length
    if found < header.nbytes:
        raise UserError(f"{file}: cut off: {found} bytes of numbers, and its header says {header.nbytes}")
    return _values(_mapped(file, header, header.length), str(file))


def read_npz(file: Path) -> dict[str, Values]:
    """All arrays of a `.npz`.

    Raises:
        UserError: no zip archive, damaged, encrypted, a bomb, of objects, or larger than memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS:
                raise UserError(f"{file}: {len(members)} arrays, more than {MOST_MEMBERS}: not a file of features")
            names = [_name(file, member) for member in members]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"{file}: array {twice[:80]!r} stands there twice")
            headers = []
            for member, name in zip(members, names, strict=True):
                _refuse_bomb(file, member)
                with archive.open(member) as handle:
                    headers.append(_header(handle, f"{file}: {name[:80]}"))
                _check_size(file, member, headers[-1])
            packed = [m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED]
            require_memory(str(file), sum(packed))
            return {
                name: _values(_member(file, archive, member, header), f"{file}: {name[:80]}")
                for member, name, header in zip(members, names, headers, strict=True)
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise UserError(f"{file}: not a readable .npz ({' '.join(str(error).split())[:160]})") from error


def _name(file: Path, member: zipfile.ZipInfo) -> str:
    if not member.filename.endswith(".npy") or member.is_dir():
        raise UserError(f"{file}: {member.filename[:80]!r} is no array: a .npz is what np.savez writes")
    if member.flag_bits & 1:
        raise UserError(f"{file}: {member.filename[:80]!r} is encrypted")
    return member.filename.removesuffix(".npy")


def _check_size(file: Path, member: zipfile.ZipInfo, header: Header) -> None:
    """Refuse an array whose own size is not that of the archive."""
    if member.file_size != header.length + header.nbytes:
        raise UserError(
            f"{file}: {member.filename[:80]!r} is {member.file_size} bytes long, and its header says "
            f"{header.length + header.nbytes}"
        )


def _refuse_bomb(file: Path, member: zipfile.ZipInfo) -> None:
    if member.file_size > max(SMALL, MOST_GROWTH * member.compress_size):
        raise UserError(
            f"{file}: {member.filename[:80]!r} unpacks from {member.compress_size} to {member.file_size} bytes, more "
            f"than {MOST_GROWTH} times its size: not read"
        )


def _member(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header) -> np.ndarray:
    """One array: mapped where it is not packed, its checksum compared in both cases."""
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as handle:  # checks the sum at its end
            return np.asarray(np.lib.format.read_array(handle, allow_pickle=False))  # type: ignore[no-untyped-call]
    with file.open("rb") as raw:
        raw.seek(member.header_offset)
        name, extra = struct.unpack("<HH", raw.read(LOCAL_HEADER)[26:])
        start = member.header_offset + LOCAL_HEADER + name + extra
        raw.seek(start)
        left, found = member.file_size, 0
        while left and (block := raw.read(min(BLOCK, left))):
            found, left = zlib.crc32(block, found), left - len(block)
    if left or found != member.CRC:
        raise UserError(f"{file}: {member.filename[:80]!r} is damaged (its checksum does not fit)")
    return _mapped(file, header, start + header.length)


def _mapped(file: Path, header: Header, start: int) -> np.ndarray:
    if not header.nbytes or not header.shape:  # nothing can be mapped of nothing
        with file.open("rb") as handle:
            handle.seek(start)
            return np.frombuffer(handle.read(header.nbytes), header.dtype).reshape(header.shape)
    found: np.ndarray = np.memmap(
        file, dtype=header.dtype, mode="r", offset=start, shape=header.shape, order="F" if header.fortran else "C"
    )
    return found


def _header(handle: IO[bytes], where: str) -> Header:
    """Read the header alone, once its length is known to be one that NumPy would take."""
    try:
        version = np.lib.format.read_magic(handle)  # type: ignore[no-untyped-call]
        start = handle.tell()
        length = int.from_bytes(handle.read(2 if version == (1, 0) else 4), "little")
        if version not in ((1, 0), (2, 0), (3, 0)) or length > LONGEST_HEADER:
            raise UserError(f"{where}: not a readable array (version {version}, a header of {length} bytes)")
        handle.seek(start)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(handle)  # type: ignore[no-untyped-call]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise UserError(f"{where}: not a readable array ({' '.join(str(error).split())[:120]})") from error
    if dtype.hasobject:
        raise UserError(
            f"{where}: holds Python objects, which only pickle can read, and pickle can run any program: save numbers, "
            "or texts as np.array(texts, dtype=str)"
        )
    if dtype.kind not in "biufUS":
        raise UserError(f"{where}: of type {dtype}; expected numbers or text")
    if any(size < 0 for size in shape):
        raise UserError(f"{where}: of shape {shape}")
    return Header(tuple(map(int, shape)), bool(fortran), dtype, handle.tell())


def _values(array: np.ndarray, where: str) -> Values:
    """Numbers as they are; text as a list."""
    if array.dtype.kind not in "US":
        return array
    require_memory(where, array.size * (60 + array.dtype.itemsize))
    if array.dtype.kind == "U":
        return [str(text) for text in array.reshape(-1).tolist()]
    try:
        return [text.decode() for text in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: its text is not UTF-8") from error
