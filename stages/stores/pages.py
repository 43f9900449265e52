"""An embedding column straight from its Parquet pages: as fast as the file can be read.

pyarrow walks through the levels of every number of a list column, which costs several times the reading itself. The
stores are written uncompressed, plain and without nulls, so the numbers of a page are its last bytes, end to end
(Parquet format, "Data Pages"). Any other file gives None, and the caller takes pyarrow's way.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int

LEAF = "embedding.list.element"
_DATA_PAGE, _PLAIN = 0, 0
_DTYPES: dict[str, np.dtype[Any]] = {"FIXED_LEN_BYTE_ARRAY": np.dtype("<f2"), "FLOAT": np.dtype("<f4")}


@dataclass(frozen=True)
class EmbeddingPages:
    """The mapped pages of an embedding column; nothing is read before it is asked for.

    Attributes:
        width: D, numbers of an embedding.
        dtype: float16 or float32.
        groups: for each row group its pages, as bytes.
        sealed: for each of these pages its whole body and the CRC32 that its header names; None: an older store's.
    """

    width: int
    dtype: np.dtype[Any]
    groups: list[list[np.ndarray]]
    sealed: list[list[tuple[np.ndarray, int | None]]]

    def __len__(self) -> int:
        size = self.width * self.dtype.itemsize
        return sum(len(page) for pages in self.groups for page in pages) // size

    def damaged(self, first: int, stop: int) -> bool:
        """Whether a byte has changed in the pages that hold any of these rows."""
        size = self.width * self.dtype.itemsize
        start, left, right = 0, first * size, stop * size
        for pages, sealed in zip(self.groups, self.sealed, strict=True):
            for page, (body, crc) in zip(pages, sealed, strict=True):
                start, before = start + len(page), start
                if before < right and start > left and crc is not None and zlib.crc32(body.data) != crc:
                    return True
        return False

    def damaged_at(self, index: Int[np.ndarray, " M"]) -> bool:
        """Whether a byte has changed in the pages that hold any of these rows; no other page is read."""
        size = self.width * self.dtype.itemsize
        bodies = [sealed for group in self.sealed for sealed in group]
        starts = np.cumsum([0, *(len(page) for group in self.groups for page in group)])
        left = np.asarray(index, np.int64) * size
        first, last = (np.searchsorted(starts, at, side="right") - 1 for at in (left, left + size - 1))
        touched = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)] or [first]))
        found = (bodies[page] for page in touched)
        return any(crc is not None and zlib.crc32(body.data) != crc for body, crc in found)

    def group(self, index: int) -> Float[np.ndarray, "rows D"]:
        """The embeddings of one row group."""
        return self._joined(self.groups[index])

    def rows(self, first: int, stop: int) -> Float[np.ndarray, "rows D"]:
        """The embeddings of some rows that lie together, copied once; no other page is touched."""
        size = self.width * self.dtype.itemsize
        cut: list[np.ndarray] = []
        start, left, right = 0, first * size, stop * size
        for page in (page for pages in self.groups for page in pages):
            cut.append(page[max(0, left - start) : max(0, right - start)])
            start += len(page)
        numbers = np.concatenate(cut) if cut else np.empty(0, np.uint8)
        matrix: np.ndarray = numbers.view(self.dtype).reshape(-1, self.width)
        return matrix

    def gather(self, index: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M D"]:
        """The embeddings of any rows, in this order; of the file nothing but their bytes is read."""
        size = self.width * self.dtype.itemsize
        pages = [page for pages in self.groups for page in pages]
        starts = np.cumsum([0, *map(len, pages)])
        out = np.empty((len(index), size), np.uint8)
        left = np.asarray(index, np.int64) * size
        page_of = np.searchsorted(starts, left, side="right") - 1
        whole = left + size <= starts[page_of + 1]
        order = np.argsort(page_of, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(page_of[order])) + 1) if len(order) else ():
            rows = rows[whole[rows]]
            if not len(rows):
                continue
            number = int(page_of[rows[0]])
            skipped = int(-starts[number] % size)  # of a row that began on the page before
            page = pages[number][skipped:]
            block = page[: len(page) - len(page) % size].reshape(-1, size)
            out[rows] = block[(left[rows] - starts[number] - skipped) // size]
        for row in np.flatnonzero(~whole):
            out[row] = self.rows(int(index[row]), int(index[row]) + 1).view(np.uint8).ravel()
        return out.view(self.dtype)

    def all(self) -> Float[np.ndarray, "rows D"]:
        """All embeddings of the file, copied once."""
        return self.rows(0, len(self))

    def _joined(self, pages: list[np.ndarray]) -> np.ndarray:
        numbers = pages[0] if len(pages) == 1 else np.concatenate(pages) if pages else np.empty(0, np.uint8)
        matrix: np.ndarray = numbers.view(self.dtype).reshape(-1, self.width)
        return matrix


def embedding_pages(file: Path, *, width: int) -> EmbeddingPages | None:
    """The pages of a store's embedding column; None where they are of another kind."""
    found = pq.ParquetFile(file).metadata
    column = next((i for i in range(found.num_columns) if found.schema.column(i).path == LEAF), None)
    if column is None:
        return None
    kind = found.schema.column(column)
    if kind.max_definition_level > 1:  # something could be null, and would have no bytes
        return None
    half = kind.physical_type == "FIXED_LEN_BYTE_ARRAY" and kind.length == 2
    if not half and kind.physical_type != "FLOAT":
        return None
    dtype = _DTYPES[kind.physical_type]
    data = np.memmap(file, np.uint8, mode="r")
    groups: list[list[np.ndarray]] = []
    sealed: list[list[tuple[np.ndarray, int | None]]] = []
    for number in range(found.num_row_groups):
        group = found.row_group(number)
        chunk = group.column(column)
        wanted = group.num_rows * width
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page or chunk.num_values != wanted:
            return None
        pages: list[np.ndarray] = []
        bodies: list[tuple[np.ndarray, int | None]] = []
        position, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
        while position < end:
            try:
                page = _page_at(data, position)
            except (IndexError, KeyError, ValueError):
                return None
            if page.kind != _DATA_PAGE or page.encoding != _PLAIN or page.end > end:
                return None
            pages.append(data[page.end - page.values * dtype.itemsize : page.end])
            bodies.append((data[page.start : page.end], page.crc))
            position = page.end
        if sum(map(len, pages)) != wanted * dtype.itemsize:
            return None
        groups.append(pages)
        sealed.append(bodies)
    return EmbeddingPages(width, dtype, groups, sealed)


def joined(files: Iterable[EmbeddingPages | None]) -> EmbeddingPages | None:
    """The pages of several files, one after the other; None where those of any are of another kind."""
    found = list(files)
    known = [pages for pages in found if pages is not None]
    if len(known) < len(found) or not known or len({(pages.width, pages.dtype) for pages in known}) > 1:
        return None
    groups = [group for pages in known for group in pages.groups]
    return EmbeddingPages(known[0].width, known[0].dtype, groups, [each for pages in known for each in pages.sealed])


@dataclass(frozen=True)
class _Page:
    kind: int
    encoding: int
    values: int
    start: int
    end: int
    crc: int | None


def _page_at(data: np.ndarray, position: int) -> _Page:
    header, start = _struct(data, position)
    about = header[5]  # DataPageHeader
    crc = header.get(4)
    return _Page(
        kind=header[1], encoding=about[2], values=about[1], start=start, end=start + header[3],
        crc=None if crc is None else crc & 0xFFFFFFFF,
    )  # fmt: skip


def _struct(data: np.ndarray, position: int) -> tuple[dict[int, Any], int]:
    """One struct of Thrift's compact protocol: its integer and struct fields by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = int(data[position])
        position += 1
        if head == 0:
            return fields, position
        number, kind = number + (head >> 4), head & 0x0F
        if head >> 4 == 0:
            raise ValueError("a field number that does not follow the last")
        if kind in (1, 2):  # true and false have no bytes of their own
            continue
        if kind in (4, 5, 6):
            value, position = _varint(data, position)
            fields[number] = (value >> 1) ^ -(value & 1)
        elif kind == 8:  # the smallest and largest value, among the statistics
            length, position = _varint(data, position)
            position += length
        elif kind == 12:
            fields[number], position = _struct(data, position)
        else:
            raise ValueError(f"a field of kind {kind}")


def _varint(data: np.ndarray, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = int(data[position])
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
