"""The stores: one class each, with its place, its explicit Arrow schema, an atomic writer, a reader and `verify`.

Stores are Hive-partitioned Parquet (`cache/images/dataset=D/encoder=E/part-0.parquet`), so that pyarrow, DuckDB and
Polars read them without this code. Partition values are slugs; the full names stand in the footer and in a column.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int

from stages.content import ContentHash
from stages.errors import UserError, nearest
from stages.files import atomic_file
from stages.lock import require_free, store_lock
from stages.names import dataset_name, slug
from stages.pages import EmbeddingPages, embedding_pages
from stages.provenance import (
    ImageProvenance,
    ManifestProvenance,
    PromptProvenance,
    Provenance,
    TextProvenance,
    refuse_mixture,
)
from stages.text import counted

PART = "part-0.parquet"
SPLITS = ("train", "val", "test")
ROW_GROUP = 16_384
"""Rows of a Parquet row group, and of a piece that is read or written at once."""
QUESTION = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
    ]
)
"""One question about an image, with all the answers that people gave, and the choices where there are some."""
DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
"""What pyarrow raises on a file that is none, or no longer one."""
NO_LLM = "none"
"""The `llm` partition of text that no language model wrote: templates, captions, questions, answers."""


def embedding_type(width: int, *, precision: str = "float16") -> pa.DataType:
    """Arrow type of an embedding column: a fixed-size list of `width` float16 (default) or float32."""
    number = {"float16": pa.float16(), "float32": pa.float32()}[precision]
    return pa.list_(pa.field("element", number, nullable=False), width)


def embedding_array(embeddings: np.ndarray, *, precision: str = "float16") -> pa.Array:
    """Embeddings (N, D) as an Arrow fixed-size list array of float16 or float32."""
    flat = np.ascontiguousarray(embeddings, dtype=np.dtype(precision)).reshape(-1)
    kind = embedding_type(embeddings.shape[1], precision=precision)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)


def embedding_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The embedding column as a matrix (N, D) in its own precision, without copying where there is one chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    width = column.type.list_size
    return np.asarray(array.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)


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
    made_by: ClassVar[str]

    def __init__(self, cache: Path, **partitions: str) -> None:
        self.cache = Path(cache)
        self.dataset = dataset_name(partitions["dataset"])
        self.partitions = {key: slug(value) for key, value in partitions.items()}
        self.folder = self.cache.joinpath(self.name, *(f"{k}={v}" for k, v in self.partitions.items()))

    @property
    def file(self) -> Path:
        """The one Parquet file of this partition."""
        return self.folder / PART

    @property
    def work(self) -> Path:
        """Where its finished parts lie until it is complete (`stages.parts`); no DVC output, so DVC leaves it alone."""
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
            there = partition_values(self.cache, ManifestStore, "dataset")
            known = f" ({nearest(self.dataset, there)})" if there and self.dataset not in there else ""
            raise UserError(f"{self.file} is not there: run `{command}` first{known}")

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
        with self.writing(provenance, precision=_precision(table), optional=table.column_names) as writer:
            writer.add(self.in_order(table))
        return writer.provenance

    def in_order(self, table: pa.Table) -> pa.Table:
        """Rows in the store's order."""
        return table.sort_by([(key, "ascending") for key in self.sort_by])

    @contextmanager
    def writing(
        self, provenance: Provenance, *, precision: str = "float16", optional: Collection[str] = ()
    ) -> "Iterator[StoreWriter]":
        """Write tables that come in the store's order, one after the other; memory does not grow with their number.

        The file takes its place when the block ends without a fault; `StoreWriter.provenance` is then what was stored.
        Rows lie in row groups of `ROW_GROUP`, however many tables brought them: the same rows give the same bytes.

        Raises:
            UserError: the disk is full or read-only; the old store, if any, is untouched.
            ValueError: a column is missing or of another type, or the rows are not in order.
        """
        schema = self.schema(width=provenance.width, precision=precision, optional=optional)
        origin = provenance.model_copy(update={"store": self.name, "dataset": self.dataset})
        # Unit vectors hardly shrink; left alone they are read many times faster.
        compression = dict.fromkeys(_leaves(schema), "zstd") | {"embedding.list.element": "none"}
        texts = [name for name, kind in self.columns if kind == pa.string()]
        with atomic_file(self.file) as work, pq.ParquetWriter(
            work, schema, compression=compression, use_dictionary=texts, store_schema=True,
            write_statistics=[name for name, _ in self.columns], write_page_checksum=True,
        ) as parquet:  # fmt: skip
            writer = StoreWriter(parquet, schema, self.sort_by, origin)
            yield writer
            writer.close()
            parquet.add_key_value_metadata(writer.provenance.to_footer())

    def provenance(self) -> Provenance:
        """Read the footer alone.

        Raises:
            UserError: the store is missing, truncated or not ours.
        """
        self.require()
        try:
            metadata = pq.read_metadata(self.file).metadata
        except DAMAGE as error:
            raise UserError(f"{self.file}: not a readable Parquet file ({_first_line(error)}); remove it") from error
        origin = Provenance.from_footer(metadata, where=str(self.file))
        self._check_place(origin)
        return origin

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
        self.check_schema()
        wanted = [*dict.fromkeys([*columns, *(where or {})])] if columns else None
        try:
            table = pq.read_table(self.file, columns=wanted, partitioning=None, page_checksum_verification=True)
        except DAMAGE as error:
            raise self._damaged(error) from error
        for name, values in (where or {}).items():
            table = table.filter(pc.is_in(table[name], value_set=pa.array(list(values), table[name].type)))
        return table.select(list(columns)) if columns else table

    def batches(self, columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
        """Read the store in pieces of at most `ROW_GROUP` rows, for stores that need not fit into memory.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        self.check_schema()
        try:
            with pq.ParquetFile(self.file, page_checksum_verification=True) as file:
                for batch in file.iter_batches(ROW_GROUP, columns=list(columns) if columns else None):
                    yield pa.Table.from_batches([batch])
        except DAMAGE as error:
            raise self._damaged(error) from error

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

    def rows(self) -> "Callable[[Int[np.ndarray, ' M']], Float[np.ndarray, 'M D']]":
        """Gives the embeddings of any rows, in any order; from the file as it is asked where its pages allow that.

        All pages are compared with their checksums first.

        Raises:
            UserError: the store is missing, unreadable, damaged, or not of this schema.
        """
        pages = self._pages()
        if pages is not None:
            self._refuse_damage(pages, 0, len(pages), check=True)
            return pages.gather
        matrix = self.embeddings()
        return lambda index: np.asarray(matrix[index])

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
        self._refuse_damage(pages, 0, len(pages), check=True)
        try:
            with pq.ParquetFile(self.file, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=list(columns)), pages.group(group)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _pages(self) -> EmbeddingPages | None:
        self.check_schema()
        width = self.provenance().width
        assert width is not None
        try:
            return embedding_pages(self.file, width=width)
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.file}: damaged ({_first_line(error)}); write the store again")

    def _refuse_damage(self, pages: EmbeddingPages, first: int, stop: int, *, check: bool) -> None:
        if check and pages.damaged(first, stop):
            raise UserError(f"{self.file}: damaged (a page of embeddings has changed); write the store again")

    def check_schema(self) -> None:
        """Refuse a file that is not of this schema.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        found = self.provenance()
        try:
            schema = pq.read_schema(self.file)
        except DAMAGE as error:
            raise self._damaged(error) from error
        for name, kind in self.columns:
            if name not in schema.names:
                raise UserError(f"{self.file}: column {name!r} is missing; write the store again")
            if schema.field(name).type != kind:
                raise UserError(f"{self.file}: column {name!r} is {schema.field(name).type}, expected {kind}")
        for name, kind in self.optional:
            if name in schema.names and schema.field(name).type != kind:
                raise UserError(f"{self.file}: column {name!r} is {schema.field(name).type}, expected {kind}")
        if self.embedded:
            kind = schema.field("embedding").type if "embedding" in schema.names else None
            if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != found.width:
                raise UserError(f"{self.file}: column 'embedding' is {kind}, expected a list of {found.width}")

    def verify(self) -> list[str]:
        """Everything that is wrong with the file, one line each; empty when it is sound.

        Checks readability, schema, that the rows are those the footer promises, and for embeddings: no NaN, length 1.
        """
        digest: ContentHash | None = None
        bad = off = 0
        try:
            found = self.provenance()
            for table in self.batches():
                table = table.replace_schema_metadata(None)
                digest = digest or ContentHash(table.schema)
                digest.update(table)
                if self.embedded:
                    matrix = embedding_matrix(table["embedding"]).astype(np.float32)
                    finite = np.isfinite(matrix).all(axis=1)
                    bad += int((~finite).sum())
                    off += int((np.abs(np.linalg.norm(matrix[finite], axis=1) - 1) > 1e-2).sum())
        except UserError as error:
            return [str(error)]
        digest = digest or ContentHash(self.schema(width=found.width))
        faults = []
        if digest.hexdigest() != found.content:
            faults.append(f"{self.file}: the rows are not those of the footer (edited by hand?); write the store again")
        faults += [f"{self.file}: {counted(bad, 'embedding holds', 'embeddings hold')} NaN or infinity"] * (bad > 0)
        faults += [f"{self.file}: {counted(off, 'embedding does', 'embeddings do')} not have length 1"] * (off > 0)
        return faults


class StoreWriter:
    """Takes the rows of one store in order and writes them in row groups; made by `Store.writing`."""

    def __init__(
        self, parquet: pq.ParquetWriter, schema: pa.Schema, sort_by: Sequence[str], provenance: Provenance
    ) -> None:
        self.provenance = provenance
        self.rows = 0
        self._parquet, self._schema, self._sort_by = parquet, schema, list(sort_by)
        self._digest = ContentHash(schema)
        self._waiting: list[pa.Table] = []
        self._last: list[tuple[bool, Any]] | None = None

    def add(self, table: pa.Table) -> None:
        """Take the next rows.

        Raises:
            ValueError: a column is missing or of another type, or the rows are not in order.
        """
        table = table.select(self._schema.names).cast(self._schema).replace_schema_metadata(None)
        if not len(table):
            return
        keys = table.select(self._sort_by)
        first, last = ([(v is None, v) for v in keys.slice(i, 1).to_pylist()[0].values()] for i in (0, len(keys) - 1))
        in_order = keys.sort_by([(key, "ascending") for key in self._sort_by]).equals(keys)
        if not in_order or (self._last is not None and _comes_before(first, self._last)):
            raise ValueError(f"rows are not in the order of {', '.join(self._sort_by)}")
        self._last = last
        self._digest.update(table)
        self.rows += len(table)
        self._waiting.append(table)
        self._flush(whole=True)

    def close(self) -> None:
        """Write what is left and fix the provenance."""
        self._flush(whole=False)
        self.provenance = self.provenance.model_copy(update={"content": self._digest.hexdigest()})

    def _flush(self, *, whole: bool) -> None:
        waiting = sum(map(len, self._waiting))
        if whole and waiting < ROW_GROUP:
            return
        table = pa.concat_tables(self._waiting or [self._schema.empty_table()]).combine_chunks()
        end = waiting - waiting % ROW_GROUP if whole else waiting
        self._parquet.write_table(table.slice(0, end), row_group_size=ROW_GROUP)
        self._waiting = [table.slice(end)] if end < waiting else []


CLASS_IDS = "class_ids"
"""Column of a manifest whose images have several classes each; `class_id` and `class_name` are then empty."""


class ManifestStore(Store):
    """What images there are: one row an image, unreadable ones included (their `error` says why)."""

    name = "manifest"
    columns = (
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("error", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("questions", pa.list_(QUESTION)),
    )
    optional = ((CLASS_IDS, pa.list_(pa.int32())),)
    sort_by = ("split", "class_id", "image_id")
    made_by = "pipeline ingest {dataset} --source PATH"

    def __init__(self, cache: Path, dataset: str) -> None:
        super().__init__(cache, dataset=dataset)

    def provenance(self) -> ManifestProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, ManifestProvenance)
        return found

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes, or none: the column `class_ids`.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        self.check_schema()
        return CLASS_IDS in pq.read_schema(self.file).names

    def class_ids(self) -> dict[str, list[int]]:
        """image_id -> its classes, ascending, of a manifest whose images may have several."""
        table = self.read(["image_id", CLASS_IDS])
        return dict(zip(table["image_id"].to_pylist(), table[CLASS_IDS].to_pylist(), strict=True))


class PromptStore(Store):
    """What a language model, or a person, wrote about each class; dropped rows stay, with the reason."""

    name = "prompts"
    columns = (
        ("prompt_id", pa.string()),
        ("class_id", pa.int32()),
        ("image_id", pa.string()),
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("n_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("kept", pa.bool_()),
        ("drop_reason", pa.string()),
        ("answer", pa.string()),
        ("llm_name", pa.string()),
    )
    sort_by = ("class_id", "image_id", "question_id", "sample")
    made_by = "pipeline generate-prompts --dataset {dataset} --llm {llm}"

    def __init__(self, cache: Path, dataset: str, llm: str) -> None:
        super().__init__(cache, dataset=dataset, llm=llm)

    def provenance(self) -> PromptProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, PromptProvenance)
        return found


class TextStore(Store):
    """Unit text embeddings: templates (llm=none) and kept prompts (llm=the source)."""

    name = "text"
    columns = (
        ("prompt_id", pa.string()),
        ("kind", pa.string()),
        ("class_id", pa.int32()),
        ("image_id", pa.string()),
        ("text", pa.string()),
        ("encoder_name", pa.string()),
    )
    sort_by = ("class_id", "prompt_id")
    embedded = True
    made_by = "pipeline embed-text --dataset {dataset}"

    def __init__(self, cache: Path, dataset: str, encoder: str, llm: str) -> None:
        super().__init__(cache, dataset=dataset, encoder=encoder, llm=llm)

    def provenance(self) -> TextProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, TextProvenance)
        return found


class ImageStore(Store):
    """Unit image embeddings: view 0 is the centre crop, further views are augmentations."""

    name = "images"
    columns = (
        ("image_id", pa.string()),
        ("view", pa.int32()),
        ("class_id", pa.int32()),
        ("split", pa.string()),
        ("encoder_name", pa.string()),
    )
    sort_by = ("split", "class_id", "image_id", "view")
    embedded = True
    made_by = "pipeline embed-images --dataset {dataset}"

    def __init__(self, cache: Path, dataset: str, encoder: str) -> None:
        super().__init__(cache, dataset=dataset, encoder=encoder)

    def provenance(self) -> ImageProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, ImageProvenance)
        return found


STORES: tuple[type[Store], ...] = (ManifestStore, PromptStore, TextStore, ImageStore)


def partition_values(cache: Path, store: type[Store], key: str, **known: str) -> list[str]:
    """The values a partition key has on disk, sorted, e.g. the prompt sources of a data set.

    Args:
        known: values of the keys that come before `key` in the path.
    """
    folder = Path(cache).joinpath(store.name, *(f"{k}={slug(v)}" for k, v in known.items()))
    return sorted(p.name.split("=", 1)[1] for p in folder.glob(f"{key}=*") if any(p.rglob(PART)))


def encoder_of(cache: Path, dataset: str, wanted: str) -> str:
    """The encoder whose embeddings a data set came with, where it came as embeddings; else the one that is wanted."""
    manifest = ManifestStore(cache, dataset)
    return (manifest.provenance().encoder if manifest.exists() else None) or wanted


def refuse_other_encoder(cache: Path, datasets: Sequence[str], asked: str | None) -> None:
    """Refuse an encoder that is asked for by name where a data set came as embeddings of another one.

    Raises:
        UserError: names the data set and both.
    """
    for dataset in datasets:
        own = encoder_of(cache, dataset, asked or "")
        if asked is not None and slug(own) != slug(asked):
            raise UserError(
                f"{dataset} came as embeddings of {own}, and nothing of {asked} can be put beside them: "
                "leave --encoder away",
                exit_code=2,
            )


def only_encoder(cache: Path, wanted: str) -> str:
    """The one encoder whose embeddings the cache holds, where it holds none of the wanted one; else the wanted one."""
    there = {
        encoder
        for store in (TextStore, ImageStore)
        for dataset in partition_values(cache, store, "dataset")
        for encoder in partition_values(cache, store, "encoder", dataset=dataset)
    }
    return there.pop() if len(there) == 1 and slug(wanted) not in there else wanted


def read_together(*stores: Store) -> list[Provenance]:
    """The provenance of several stores, after checking that each pair belongs together."""
    found = [store.provenance() for store in stores]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            refuse_mixture(first, second)
    return found


def _precision(table: pa.Table) -> str:
    """The precision of a table's embeddings, by the name that params.yaml uses."""
    if "embedding" not in table.column_names:
        return "float16"
    return "float16" if pa.types.is_float16(table.schema.field("embedding").type.value_type) else "float32"


def _leaves(schema: pa.Schema) -> list[str]:
    """The Parquet paths of all leaf columns."""

    def below(path: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_struct(kind):
            return [leaf for field in kind for leaf in below(f"{path}.{field.name}", field.type)]
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            return below(f"{path}.list.element", kind.value_type)
        return [path]

    return [leaf for field in schema for leaf in below(field.name, field.type)]


def _comes_before(first: list[tuple[bool, Any]], second: list[tuple[bool, Any]]) -> bool:
    """Whether a row's keys sort before another's; an empty value comes last, as in Arrow."""
    for one, other in zip(first, second, strict=True):
        if one != other:
            return one < other
    return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
