"""One store: its place, its explicit Arrow schema, an atomic writer, readers, `verify` (`artifacts.py`: all four).

A partition is one Parquet file, or many parts of at most `PART_ROWS` rows and a list of them (`parted.py`). Whoever
reads takes both and sees all of one state or nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from stages.errors import UserError, nearest
from stages.lock import require_free, store_lock
from stages.names import dataset_name, slug
from stages.stores.columns import DAMAGE, embedding_matrix, embedding_type, first_line, precision_of
from stages.stores.content import ContentHash
from stages.stores.pages import EmbeddingPages, embedding_pages, joined
from stages.stores.parted import (
    LIST,
    OBJECTS,
    PART,
    PartsWriter,
    check_part,
    draft,
    hashed,
    holds_store,
    part_name,
    read_list,
)
from stages.stores.provenance import Provenance
from stages.stores.reading import batches, damaged, groups, guarded
from stages.stores.writing import Layout, StoreWriter
from stages.text import counted

ROW_GROUP = 16_384
"""Rows of a Parquet row group, and of a piece that is read or written at once."""
PART_ROWS = 64 * ROW_GROUP
"""Rows of a part, at most: up to here a store is one file."""
NO_LLM = "none"
"""The `llm` partition of text that no language model wrote: templates, captions, questions, answers."""


class Store:
    """Base of the four stores; a subclass says its name, its columns and its sort order.

    Args:
        cache: the folder that holds all stores (`cache/`).
        partitions: partition key -> value, in path order, e.g. `{"dataset": "textile", "encoder": "lite"}`.
    """

    name: ClassVar[str]
    columns: ClassVar[tuple[tuple[str, pa.DataType], ...]]
    optional: ClassVar[tuple[tuple[str, pa.DataType], ...]] = ()
    """Columns that stand behind the others where a table brings them; without them the bytes are as if none existed."""
    sort_by: ClassVar[tuple[str, ...]]
    embedded: ClassVar[bool] = False
    part_rows: ClassVar[int] = PART_ROWS
    made_by: ClassVar[str]

    def __init__(self, cache: Path, **partitions: str) -> None:
        self.cache = Path(cache)
        self.dataset = dataset_name(partitions["dataset"])
        self.partitions = {key: slug(value) for key, value in partitions.items()}
        self.folder = self.cache.joinpath(self.name, *(f"{k}={v}" for k, v in self.partitions.items()))

    @property
    def file(self) -> Path:
        """The file whose footer speaks for the whole partition: its one Parquet file, or the list of its many parts."""
        listed = self.folder / LIST
        return listed if listed.is_file() else self.folder / PART

    def files(self) -> list[Path]:
        """The Parquet files that hold its rows, in their order.

        Raises:
            UserError: the list of many parts makes no sense.
        """
        return [self.file] if self.file.name == PART else [file for file, _ in read_list(self.file)]

    @property
    def work(self) -> Path:
        """Where its finished parts lie until it is complete (`parts.py`); no DVC output, so DVC leaves it alone."""
        return self.cache / ".work" / "+".join([self.name, *self.partitions.values()])

    def locked(self, command: str) -> AbstractContextManager[None]:
        """Keep other commands from writing this store meanwhile.

        Raises:
            UserError: another one is writing it.
        """
        return store_lock(self.folder, what=command, beside=self.work)

    def require_free(self) -> None:
        """Tell at once, before a model is loaded, that another command writes this store.

        Raises:
            UserError: so it is.
        """
        require_free(self.folder, beside=self.work)

    def exists(self) -> bool:
        """Whether the store has been written."""
        return self.file.is_file()

    def require(self) -> None:
        """Refuse to go on where the store is missing.

        Raises:
            UserError: names the file and the command that makes it.
        """
        if not self.exists():
            command = self.made_by.format(**self.partitions)
            if self.cache.is_file():
                raise UserError(f"{self.cache}: a file, and no folder of stores")
            if not any(self.cache.glob(f"*/dataset={self.dataset}")):
                there = values_on_disk(self.cache, "manifest", "dataset")
                known = f" ({nearest(self.dataset, there)})" if there else ""
                raise UserError(
                    f"{self.cache}: no data set {self.dataset!r} there yet{known}: run `pipeline ingest {self.dataset} "
                    "--source PATH` first"
                )
            parts = len(list(self.folder.glob("part-*.parquet")))
            if parts:
                raise UserError(
                    f"{self.folder}: {counted(parts, 'part')} without {LIST}, which names those that count: bring back "
                    f"the whole folder, or run `{command}`"
                )
            raise UserError(f"{self.file} is not there: run `{command}` first")

    @classmethod
    def schema(
        cls, *, width: int | None = None, precision: str = "float16", optional: Collection[str] = ()
    ) -> pa.Schema:
        """The Arrow schema, without metadata; embedding stores need the width.

        Args:
            optional: names of those optional columns that it has.
        """
        fields = [pa.field(name, kind) for name, kind in cls.columns]
        fields += [pa.field(name, kind) for name, kind in cls.optional if name in optional]
        if cls.embedded:
            if width is None:
                raise ValueError(f"the {cls.name} store needs the width of its embeddings")
            fields.append(pa.field("embedding", embedding_type(width, precision=precision), nullable=False))
        return pa.schema(fields)

    def write(self, table: pa.Table, provenance: Provenance) -> Provenance:
        """Sort, check the schema, and put the file in its place in one step; returns the provenance as stored.

        Raises:
            UserError: the disk is full or read-only; the old store, if any, is untouched.
            ValueError: a column is missing or of another type.
        """
        with self.writing(provenance, precision=precision_of(table), optional=table.column_names) as writer:
            writer.add(self.in_order(table))
        return writer.provenance

    def in_order(self, table: pa.Table) -> pa.Table:
        """Rows in the store's order."""
        return table.sort_by([(key, "ascending") for key in self.sort_by])

    @contextmanager
    def writing(
        self, provenance: Provenance, *, precision: str = "float16", optional: Collection[str] = (),
        part_rows: int | None = None,
    ) -> "Iterator[StoreWriter]":  # fmt: skip
        """Write tables that come in the store's order, one after the other; memory does not grow with their number.

        The store takes its place when the block ends without a fault; `StoreWriter.provenance` is then what was stored.
        Rows lie in row groups of `ROW_GROUP`, however many tables brought them: the same rows give the same bytes.

        Args:
            part_rows: rows of a file, at most; beyond them the store is one of many parts. Default `Store.part_rows`.

        Raises:
            UserError: the disk is full or read-only, or another command writes many parts there; the old store, if any,
                is untouched.
            ValueError: a column is missing or of another type, or the rows are not in order.
        """
        layout = self._layout(provenance, precision, optional)
        with ExitStack() as held, draft(self.folder, self.work) as new:

            def place(index: int) -> Path:
                if index == 0:
                    return new.begin()
                if index == 1:
                    held.enter_context(self.locked(self._command))
                    new.second()
                return new.new / part_name(index)

            writer = StoreWriter(layout, place, part_rows=part_rows or self.part_rows)
            try:
                yield writer
                writer.close()
            except BaseException:
                writer.abandon()
                raise
            if new.swaps and len(writer.parts) == 1:
                held.enter_context(self.locked(self._command))
            new.publish(layout.schema, writer.provenance, writer.parts)

    @contextmanager
    def writing_parts(
        self, provenance: Provenance, *, parts: int, precision: str = "float16", optional: Collection[str] = ()
    ) -> "Iterator[PartsWriter]":
        """Have the parts of the store written by several processes at once, each by `PartsWriter.write` in any of them.

        The store takes its place in one step when the block ends without a fault: then all rows are read once for their
        order and their hash, which is that of the same rows in any number of parts.

        Args:
            parts: how many there will be; with one the store is one file as any other.

        Raises:
            UserError: another command writes the store, a part was not written, or the disk is full or read-only; the
                old store, if any, is untouched.
            ValueError: the rows are not in order from part to part.
        """
        layout = self._layout(provenance, precision, optional)
        with self.locked(self._command), draft(self.folder, self.work) as new:
            writer = PartsWriter(new.begin_many(), layout)
            yield writer
            files = [new.new / part_name(i) for i in range(parts)]
            for file in files:
                if not file.is_file():
                    raise UserError(f"{file}: this part was not written: run the command again")
            done, content = hashed(files, layout)
            new.publish(layout.schema, layout.provenance.model_copy(update={"content": content}), done)

    @property
    def _command(self) -> str:
        return " ".join(self.made_by.split()[:2])

    def _layout(self, provenance: Provenance, precision: str, optional: Collection[str]) -> Layout:
        origin = provenance.model_copy(update={"store": self.name, "dataset": self.dataset})
        schema = self.schema(width=provenance.width, precision=precision, optional=optional)
        return Layout(schema, self.sort_by, origin, ROW_GROUP)

    def provenance(self) -> Provenance:
        """Read the footer alone.

        Raises:
            UserError: the store is missing, truncated or not ours.
        """
        self.require()
        self._fetch()
        file = self.file
        if file.name == LIST and (self.folder / PART).exists():
            raise UserError(
                f"{self.folder}: {PART} beside a store of many parts: remove one of the two, {LIST} or {PART}"
            )
        try:
            metadata = pq.read_metadata(file).metadata
        except DAMAGE as error:
            raise UserError(f"{file}: not a readable Parquet file ({first_line(error)}); remove it") from error
        origin = Provenance.from_footer(metadata, where=str(file))
        self._check_place(origin)
        return origin

    def _fetch(self) -> None:
        """Bring the files here first, where the cache stands for one on an object store."""
        if (self.cache / OBJECTS).is_dir():
            from stages.stores.remote import fetch

            fetch(self.cache, self.folder)

    def _check_place(self, origin: Provenance) -> None:
        """Refuse a file that was written for another place and copied here."""
        llm = origin.llm or (NO_LLM if self.name == "text" else None)
        names = {"dataset": origin.dataset, "encoder": origin.encoder, "llm": llm}
        try:
            slugs = {key: slug(names[key] or "") for key in self.partitions}
        except UserError:  # no name at all
            slugs = {}
        if (origin.store, slugs) != (self.name, self.partitions):
            found = ", ".join(f"{key} {names[key]!r}" for key in self.partitions)
            raise UserError(
                f"{self.file}: another store's file in this place, the {origin.store} store of {found}; "
                "write the store again"
            )

    def read(
        self, columns: Sequence[str] | None = None, *, where: Mapping[str, Collection[str]] | None = None
    ) -> pa.Table:
        """Read the store, or some columns of it, or the rows whose columns have one of these values.

        Rows are picked here and not by the file's statistics, which no checksum covers.

        Raises:
            UserError: the store is missing, unreadable, changed, or not of this schema.
        """
        wanted = [*dict.fromkeys([*columns, *(where or {})])] if columns else None
        how = {"columns": wanted, "partitioning": None, "page_checksum_verification": True}
        found = []
        with self._steady() as files:
            for file in files:
                part = guarded(pq.read_table, file, **how)
                for name, values in (where or {}).items():
                    part = part.filter(pc.is_in(part[name], value_set=pa.array(list(values), part[name].type)))
                found.append(part)
        table = pa.concat_tables(found)
        return table.select(list(columns)) if columns else table

    def batches(self, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
        """Read the store in pieces of at most `ROW_GROUP` rows, for stores that need not fit into memory.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        with self._steady() as files:
            for file in files:
                yield from batches(file, ROW_GROUP, columns)

    def embeddings(
        self, rows: Bool[np.ndarray, " rows"] | None = None, *, check: bool = False
    ) -> Float[np.ndarray, "chosen D"]:
        """The embeddings of the marked rows (None: all), in their own precision, as fast as the disk gives them.

        Args:
            check: compare the pages with their checksums first, two gigabytes a second.

        Raises:
            UserError: the store is missing, unreadable, changed, or not of this schema.
        """
        pages = self._pages()
        if pages is None:
            matrix = embedding_matrix(self.read(["embedding"])["embedding"])
            return np.array(matrix if rows is None else matrix[rows])
        if rows is None:
            self._refuse_damage(pages, 0, len(pages), check=check)
            return pages.all()
        where = np.flatnonzero(rows)
        if not len(where):
            return pages.rows(0, 0)
        first, stop = int(where[0]), int(where[-1]) + 1
        self._refuse_damage(pages, first, stop, check=check)
        found = pages.rows(first, stop)  # one split and one view lie together: then nothing has to be picked
        return found if stop - first == len(where) else found[where - first]

    def rows(self, *, check_all: bool = True) -> "Callable[[Int[np.ndarray, ' M']], Float[np.ndarray, 'M D']]":
        """Gives the embeddings of any rows, in any order; from the file as it is asked where its pages allow that.

        Args:
            check_all: compare all pages with their checksums first; else those that hold the rows, each time.

        Raises:
            UserError: the store is missing, unreadable, damaged, or not of this schema.
        """
        pages = self._pages()
        if pages is not None and check_all:
            self._refuse_damage(pages, 0, len(pages), check=True)
            return pages.gather
        if pages is not None:
            known = pages

            def gather(index: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M D"]:
                if known.damaged_at(index):
                    self._refuse_damage(known, 0, len(known), check=True)
                return known.gather(index)

            return gather
        matrix = self.embeddings()
        return lambda index: np.asarray(matrix[index])

    def at(self, rows: Int[np.ndarray, " M"], columns: Sequence[str]) -> pa.Table:
        """Some columns of any rows, in this order; no row group is read that holds none of them.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        rows, first = np.asarray(rows, np.int64), 0
        found: list[pa.Table] = []
        places: list[Int[np.ndarray, " M"]] = []
        with self._steady() as files:
            for file in files:
                try:
                    with pq.ParquetFile(file, page_checksum_verification=True) as opened:
                        for group in range(opened.num_row_groups):
                            stop = first + opened.metadata.row_group(group).num_rows
                            here = np.flatnonzero((rows >= first) & (rows < stop))
                            if len(here):
                                table = opened.read_row_group(group, columns=list(columns))
                                found.append(table.take(pa.array(rows[here] - first)).replace_schema_metadata(None))
                                places.append(here)
                            first = stop
                except DAMAGE as error:
                    raise damaged(file, error) from error
        if not found:
            return guarded(pq.read_schema, self.file).empty_table().select(list(columns)).replace_schema_metadata(None)
        return pa.concat_tables(found).take(pa.array(np.argsort(np.concatenate(places))))

    def pieces(self, columns: Sequence[str]) -> "Iterator[tuple[pa.Table, Float[np.ndarray, 'N D']]]":
        """Some columns and the embeddings, row group by row group, for stores that need not fit into memory.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        pages = self._pages()
        if pages is None:
            for table in self.batches([*columns, "embedding"]):
                yield table.drop_columns(["embedding"]), embedding_matrix(table["embedding"])
            return
        with self._steady() as files:
            self._refuse_damage(pages, 0, len(pages), check=True)
            number = 0
            for file in files:
                for table in groups(file, columns):
                    yield table, pages.group(number)
                    number += 1

    def _pages(self) -> EmbeddingPages | None:
        with self._steady() as files:
            width = self.provenance().width
            assert width is not None
            return joined(guarded(embedding_pages, file, width=width) for file in files)

    @contextmanager
    def _steady(self) -> "Iterator[list[Path]]":
        """The files to read, checked; what was read counts only where nobody replaced them until the block ends.

        Raises:
            UserError: as `check_schema`, or another command replaced them.
        """
        self._fetch()
        before = self._marks()
        changed = UserError(f"{self.file}: another command replaced it while it was being read: run this again")
        try:
            self.check_schema()
            yield self.files()
        except UserError as error:
            raise error if self._marks() == before else changed from error
        if self._marks() != before:
            raise changed

    def _marks(self) -> list[tuple[int, int]]:
        """What tells this state of the files from any other."""
        try:
            stats = [file.stat() for file in [self.file, *self.files()]]
        except (OSError, UserError):
            return []
        return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]

    def _refuse_damage(self, pages: EmbeddingPages, first: int, stop: int, *, check: bool) -> None:
        if check and pages.damaged(first, stop):
            bad = (file for file in self.files() if (own := embedding_pages(file, width=pages.width)) is None
                   or own.damaged(0, len(own)))  # fmt: skip
            named = next(bad, self.file)
            raise UserError(f"{named}: damaged (a page of embeddings has changed); write the store again")

    def check_schema(self) -> None:
        """Refuse files that are not of this schema, and parts that are not those that the list names.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        found = self.provenance()
        file = self.file
        schema = guarded(pq.read_schema, file)
        for name, kind in self.columns:
            if name not in schema.names:
                raise UserError(f"{file}: column {name!r} is missing; write the store again")
            if schema.field(name).type != kind:
                raise UserError(f"{file}: column {name!r} is {schema.field(name).type}, expected {kind}")
        for name, kind in self.optional:
            if name in schema.names and schema.field(name).type != kind:
                raise UserError(f"{file}: column {name!r} is {schema.field(name).type}, expected {kind}")
        if self.embedded:
            kind = schema.field("embedding").type if "embedding" in schema.names else None
            if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != found.width:
                raise UserError(f"{file}: column 'embedding' is {kind}, expected a list of {found.width}")
        if file.name == LIST:
            for each, part in read_list(file):
                check_part(each, part, schema, found)

    def verify(self) -> list[str]:
        """Everything that is wrong with the file, one line each; empty when it is sound.

        Checks readability, schema, that the rows are those the footer promises, and for embeddings: no NaN, length 1.
        """
        bad = off = 0
        changed: list[Path] = []
        try:
            found = self.provenance()
            with self._steady() as files:
                listed = [part.content for _, part in read_list(self.file)] if self.file.name == LIST else []
                empty = ContentHash(pq.read_schema(self.file).remove_metadata())
                whole: ContentHash | None = None
                for file, content in zip(files, listed or [found.content], strict=True):
                    own: ContentHash | None = None
                    for table in batches(file, ROW_GROUP):
                        table = table.replace_schema_metadata(None)
                        own, whole = own or ContentHash(table.schema), whole or ContentHash(table.schema)
                        own.update(table)
                        if listed:
                            whole.update(table)
                        if self.embedded:
                            matrix = embedding_matrix(table["embedding"]).astype(np.float32)
                            finite = np.isfinite(matrix).all(axis=1)
                            bad += int((~finite).sum())
                            off += int((np.abs(np.linalg.norm(matrix[finite], axis=1) - 1) > 1e-2).sum())
                    changed += [file] * ((own or empty).hexdigest() != content)
                if listed and not changed and (whole or empty).hexdigest() != found.content:
                    changed.append(self.file)
        except UserError as error:
            return [str(error)]
        again = "the rows are not those of the footer (edited by hand?); write the store again"
        faults = [f"{file}: {again}" for file in changed]
        faults += [f"{self.file}: {counted(bad, 'embedding holds', 'embeddings hold')} NaN or infinity"] * (bad > 0)
        faults += [f"{self.file}: {counted(off, 'embedding does', 'embeddings do')} not have length 1"] * (off > 0)
        return faults


def values_on_disk(cache: Path, store: str, key: str, **known: str) -> list[str]:
    """The values a partition key of a store, by its name, has on disk, sorted."""
    folder = Path(cache).joinpath(store, *(f"{k}={slug(v)}" for k, v in known.items()))
    return sorted(p.name.split("=", 1)[1] for p in folder.glob(f"{key}=*") if holds_store(p))
