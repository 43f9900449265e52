"""Partitions of many parts: `part-00000.parquet`, ... and a list of them, put in their place in one step.

The list is `_common_metadata`, a Parquet file without rows: its footer has the schema, the provenance of the whole
store, and for each part its rows and their hash. Other readers pass over it. A partition of one part is
`part-0.parquet` alone. New parts lie in `cache/.work/` until all are there; then the two folders change places.
"""

import ctypes
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.command import say
from stages.errors import UserError
from stages.files import atomic_file, remove_rests, remove_tree, sync, user_errors
from stages.stores.columns import DAMAGE, embedding_array, first_line
from stages.stores.content import ContentHash
from stages.stores.pages import embedding_pages
from stages.stores.provenance import FOOTER_KEY, Provenance
from stages.stores.reading import groups, guarded
from stages.stores.writing import Layout, Order, Part, PartWriter
from stages.text import counted

PART = "part-0.parquet"
"""The file of a partition of one part."""
LIST = "_common_metadata"
"""The list of a partition of many parts."""
OBJECTS = ".objects"
"""Folder in a cache that stands for one on an object store (`stages.stores.remote`)."""
PARTS_KEY = b"aape.parts"
NEW, OLD = "new", "old"
"""Folders of parts that are being written, and that are being replaced, below the store's work folder."""
_NAME = re.compile(r"part-\d{5,9}\.parquet")
_EXCHANGE = 2  # of renameat2(2)


def part_name(index: int) -> str:
    """The file name of one of many parts."""
    return f"part-{index:05d}.parquet"


def is_part(name: str) -> bool:
    """Whether a file name is that of a part, of one or of many."""
    return name == PART or _NAME.fullmatch(name) is not None


def holds_store(folder: Path) -> bool:
    """Whether a partition, or any below it, has been written."""
    return any(True for name in (PART, LIST) for _ in folder.rglob(name))


def write_list(folder: Path, schema: pa.Schema, provenance: Provenance, parts: Sequence[Part]) -> None:
    """Write the list of the parts that lie in a folder."""
    listed = [{"file": part_name(i), "rows": part.rows, "content": part.content} for i, part in enumerate(parts)]
    noted = {**provenance.to_footer(), PARTS_KEY: json.dumps(listed).encode()}
    pq.write_metadata(schema.with_metadata(noted), folder / LIST)


def read_list(file: Path) -> list[tuple[Path, Part]]:
    """The parts that a list names, in order; whether they are there is another question.

    Raises:
        UserError: the list makes no sense.
    """
    try:
        listed = json.loads((pq.read_metadata(file).metadata or {})[PARTS_KEY])
        found = [(str(each["file"]), Part(int(each["rows"]), str(each["content"]))) for each in listed]
        if not found or [name for name, _ in found] != [part_name(i) for i in range(len(found))]:
            raise ValueError("other file names than part-00000.parquet and those after it")
    except (*DAMAGE, LookupError, TypeError) as error:
        raise UserError(f"{file}: unreadable list of parts ({first_line(error)}); write the store again") from error
    return [(file.with_name(name), part) for name, part in found]


def check_part(file: Path, part: Part, schema: pa.Schema, origin: Provenance) -> None:
    """Refuse a part that is not the one that the list names; reads its footer alone.

    Raises:
        UserError: it is missing, cut short, of other rows or of another origin.
    """
    again = f"run `pipeline verify --fix --dataset {origin.dataset}`, or bring back the whole folder"
    try:
        found = pq.ParquetFile(file)
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing, though {LIST} beside it names it: {again}") from error
    except DAMAGE as error:
        raise UserError(f"{file}: not a readable Parquet file ({first_line(error)}): {again}") from error
    with found:
        metadata, columns = found.metadata, found.schema_arrow
    mine = Provenance.from_footer({FOOTER_KEY: (metadata.metadata or {}).get(FOOTER_KEY, b"")}, where=str(file))
    if (metadata.num_rows, mine.content) != (part.rows, part.content) or mine.made_from != origin.made_from:
        raise UserError(f"{file}: a part of another store, or of another state of this one: {again}")
    if not columns.remove_metadata().equals(schema.remove_metadata()):
        raise UserError(f"{file}: its columns are not those of {LIST}: {again}")


class Draft:
    """Files that are to become a partition; one writer at a time, who holds the store's lock where there are many.

    Args:
        folder: of the partition.
        work: a folder on the same file system, for what is not published yet.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.new, self._old = folder, work / NEW, work / OLD
        self._first = folder / f".{PART}.{os.getpid()}.part"
        self._begun, self._many = False, False

    @property
    def swaps(self) -> bool:
        """Whether there is a store of many parts, which one file, too, replaces by an exchange of folders."""
        return (self.folder / LIST).exists()

    def begin(self) -> Path:
        """Make room for one part beside the partition's file; the path to write it to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._begun = True
        remove_rests(self.folder / PART)
        return self._first

    def begin_many(self) -> Path:
        """Make an empty folder for many parts, and say what of a dead writer had to go for it."""
        if self._old.is_dir() and not self.folder.exists():  # it died between two renames
            self._old.rename(self.folder)
            say(f"{self.folder}: put back in its place: a command that was to replace it was killed")
        rest = len(list(self.new.glob("*.parquet")))
        if rest:
            say(f"{self.new}: removed {counted(rest, 'part')} of a command that was killed")
        remove_tree(self.new)
        remove_tree(self._old)
        self.new.mkdir(parents=True)
        self._many = True
        return self.new

    def second(self) -> None:
        """There will be many parts after all: move the first to where the others come."""
        self.begin_many()
        self._first.rename(self.new / part_name(0))

    def publish(self, schema: pa.Schema, provenance: Provenance, parts: Sequence[Part]) -> None:
        """Put the parts in the partition's place, all in one step; what was there before goes."""
        if len(parts) == 1:
            whole = self._first if self._first.exists() else self.new / part_name(0)
            sync(whole)
            if not self.swaps:
                self.folder.mkdir(parents=True, exist_ok=True)
                whole.replace(self.folder / PART)
                sync(self.folder)
                return
            if whole == self._first:
                self.begin_many()
            whole.rename(self.new / PART)
        else:
            write_list(self.new, schema, provenance, parts)
            for file in self.new.iterdir():
                sync(file)
        sync(self.new)
        self._swap()

    def discard(self) -> None:
        """Remove what was not published."""
        if self._begun:
            self._first.unlink(missing_ok=True)
        if self._many:
            remove_tree(self.new)
            with suppress(OSError):  # what else is unfinished stays
                self.new.parent.rmdir()

    def _swap(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if not self.folder.exists():
            self.new.rename(self.folder)
        else:
            self._first.unlink(missing_ok=True)
            others = [
                f for f in self.folder.iterdir() if not is_part(f.name) and f.name != LIST and f.suffix != ".part"
            ]
            for other in others:  # what is not ours stays where it was
                if other.is_dir() and not other.is_symlink():
                    shutil.copytree(other, self.new / other.name, symlinks=True)
                else:
                    shutil.copy2(other, self.new / other.name, follow_symlinks=False)
            exchange(self.new, self.folder, aside=self._old)
            self._count_unlisted()
            remove_tree(self.new)
        sync(self.folder.parent)

    def _count_unlisted(self) -> None:
        """Say how many parts go that were not the store's, now that `new` is what was there before."""
        try:
            listed = {file.name for file, _ in read_list(self.new / LIST)}
        except UserError:
            return
        others = [file for file in self.new.iterdir() if is_part(file.name) and file.name not in listed]
        if others:
            say(f"{self.folder}: removed {counted(len(others), 'part')} that {LIST} did not name")


@contextmanager
def draft(folder: Path, work: Path) -> Iterator[Draft]:
    """Files that become a partition when they are published; whatever is not is removed when the block ends.

    Raises:
        UserError: the disk is full or read-only; what was in the place is untouched.
    """
    begun = Draft(folder, work)
    with user_errors(folder / PART):
        try:
            yield begun
        finally:
            begun.discard()


def exchange(one: Path, other: Path, *, aside: Path) -> None:
    """Let two folders change places in one step (Linux); where the system cannot, in three renames through `aside`.

    Raises:
        OSError: a folder cannot be renamed.
    """
    if _renameat2(one, other):
        return
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def _renameat2(one: Path, other: Path) -> bool:
    """Whether the system and the file system could exchange two paths."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or another C library
        return False
    here = -100  # AT_FDCWD
    if call(here, os.fsencode(one), here, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # NFS, and old kernels
        return False
    raise OSError(number, os.strerror(number), str(other))


@dataclass(frozen=True)
class PartsWriter:
    """Writes parts of a store that is not published yet; goes to other processes as it is. Made by `writing_parts`."""

    folder: Path
    layout: Layout

    def write(self, index: int, tables: Iterable[pa.Table]) -> None:
        """Write one part, whole or not at all, from tables that come in the store's order.

        Args:
            index: of the part, from 0; the rows of a part come before those of the next.

        Raises:
            UserError: the disk is full or read-only.
            ValueError: a column is missing or of another type, or the rows are not in order.
        """
        order, schema = Order(self.layout.sort_by), self.layout.schema
        with atomic_file(self.folder / part_name(index)) as work:
            writer = PartWriter(work, self.layout)
            try:
                for table in tables:
                    table = table.select(schema.names).cast(schema).replace_schema_metadata(None)
                    if len(table):
                        order.check(table)
                        writer.add(table)
                writer.close()
            except BaseException:
                writer.abandon()
                raise


def hashed(files: Sequence[Path], layout: Layout) -> tuple[list[Part], str]:
    """What the footers of finished parts say, and the hash of all their rows."""
    parts = []
    for file in files:
        metadata = guarded(pq.read_metadata, file)
        parts.append(Part(metadata.num_rows, Provenance.from_footer(metadata.metadata, where=str(file)).content))
    if len(parts) == 1:
        return parts, parts[0].content
    digest, order = ContentHash(layout.schema), Order(layout.sort_by)
    names, width = layout.schema.names, layout.provenance.width
    for file in files:
        pages = guarded(embedding_pages, file, width=width) if "embedding" in names and width is not None else None
        for number, table in enumerate(groups(file, names if pages is None else names[:-1])):
            if pages is not None:  # many times faster than through pyarrow
                vectors = embedding_array(pages.group(number), precision=str(pages.dtype))
                table = table.append_column(layout.schema.field(-1), vectors)
            table = table.replace_schema_metadata(None).cast(layout.schema)
            if len(table):
                order.check(table)
                digest.update(table)
    return parts, digest.hexdigest()
