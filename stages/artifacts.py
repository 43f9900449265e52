"""The stores: one class each, with its place, its explicit Arrow schema, an atomic writer, a reader and `verify`.

Stores are Hive-partitioned Parquet (`cache/images/dataset=D/encoder=E/part-0.parquet`), so that pyarrow, DuckDB and
Polars read them without this code. Partition values are slugs; the full names stand in the footer and in a column.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from stages.errors import UserError, nearest
from stages.files import atomic_file
from stages.names import dataset_name, slug
from stages.provenance import Provenance, content_hash, refuse_mixture

PART = "part-0.parquet"
SPLITS = ("train", "val", "test")
NO_LLM = "none"
"""The `llm` partition of text that no language model wrote: templates."""


def embedding_type(width: int, *, precision: str = "float16") -> pa.DataType:
    """Arrow type of an embedding column: a fixed-size list of `width` float16 (default) or float32."""
    return pa.list_({"float16": pa.float16(), "float32": pa.float32()}[precision], width)


def embedding_array(embeddings: np.ndarray, *, precision: str = "float16") -> pa.Array:
    """Embeddings (N, D) as an Arrow fixed-size list array of float16 or float32."""
    flat = np.ascontiguousarray(embeddings, dtype=np.dtype(precision)).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), embeddings.shape[1])


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
    def schema(cls, *, width: int | None = None, precision: str = "float16") -> pa.Schema:
        """The Arrow schema, without metadata; embedding stores need the width."""
        fields = [pa.field(name, kind) for name, kind in cls.columns]
        if cls.embedded:
            if width is None:
                raise ValueError(f"the {cls.name} store needs the width of its embeddings")
            fields.append(pa.field("embedding", embedding_type(width, precision=precision)))
        return pa.schema(fields)

    def write(self, table: pa.Table, provenance: Provenance) -> Provenance:
        """Sort, check the schema, and put the file in its place in one step; returns the provenance as stored.

        Raises:
            UserError: the disk is full or read-only; the old store, if any, is untouched.
            ValueError: a column is missing or of another type.
        """
        precision = "float16"
        if self.embedded:
            precision = str(table.schema.field("embedding").type.value_type).replace("halffloat", "float16")
            precision = {"float": "float32"}.get(precision, precision)
        schema = self.schema(width=provenance.width, precision=precision)
        table = table.select(schema.names).cast(schema).sort_by([(key, "ascending") for key in self.sort_by])
        rows = table.drop_columns(["embedding"]) if self.embedded else table
        provenance = provenance.model_copy(
            update={"store": self.name, "dataset": self.dataset, "content": content_hash(rows)}
        )
        table = table.replace_schema_metadata(provenance.to_footer())
        with atomic_file(self.file) as work:
            pq.write_table(
                table,
                work,
                compression="zstd",
                use_dictionary=[name for name, kind in self.columns if kind == pa.string()],
                column_encoding=None,
                row_group_size=65_536,
                write_statistics=[name for name, _ in self.columns],
                store_schema=True,
            )
        return provenance

    def provenance(self) -> Provenance:
        """Read the footer alone.

        Raises:
            UserError: the store is missing, truncated or not ours.
        """
        self.require()
        try:
            schema = pq.read_schema(self.file)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self.file}: not a readable Parquet file ({_first_line(error)}); remove it") from error
        return Provenance.from_footer(schema, where=str(self.file))

    def read(self, columns: Sequence[str] | None = None, *, where: pads.Expression | None = None) -> pa.Table:
        """Read the store, or some columns of it, or the rows that a pyarrow filter keeps.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        found = self.provenance()
        schema = pq.read_schema(self.file)
        for name, kind in self.columns:
            if name not in schema.names:
                raise UserError(f"{self.file}: column {name!r} is missing; write the store again")
            if schema.field(name).type != kind:
                raise UserError(f"{self.file}: column {name!r} is {schema.field(name).type}, expected {kind}")
        if self.embedded:
            kind = schema.field("embedding").type if "embedding" in schema.names else None
            if kind is None or not pa.types.is_fixed_size_list(kind) or kind.list_size != found.width:
                raise UserError(f"{self.file}: column 'embedding' is {kind}, expected a list of {found.width}")
        try:
            return pq.read_table(
                self.file, columns=list(columns) if columns else None, filters=where, partitioning=None
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{self.file}: damaged ({_first_line(error)}); write the store again") from error

    def verify(self) -> list[str]:
        """Everything that is wrong with the file, one line each; empty when it is sound.

        Checks readability, schema, that the rows are those the footer promises, and for embeddings: no NaN, length 1.
        """
        try:
            found = self.provenance()
            table = self.read()
        except UserError as error:
            return [str(error)]
        faults = []
        rows = table.drop_columns(["embedding"]) if self.embedded else table
        if content_hash(rows) != found.content:
            faults.append(f"{self.file}: the rows are not those of the footer (edited by hand?); write the store again")
        if self.embedded and len(table):
            matrix = embedding_matrix(table["embedding"]).astype(np.float32)
            finite = np.isfinite(matrix).all(axis=1)
            bad = int((~finite).sum())
            off = int((np.abs(np.linalg.norm(matrix[finite], axis=1) - 1) > 1e-2).sum())
            faults += [f"{self.file}: {bad} embeddings hold NaN or infinity"] * (bad > 0)
            faults += [f"{self.file}: {off} embeddings do not have length 1"] * (off > 0)
        return faults


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
    )
    sort_by = ("split", "class_id", "image_id")
    made_by = "pipeline ingest {dataset} --source PATH"

    def __init__(self, cache: Path, dataset: str) -> None:
        super().__init__(cache, dataset=dataset)


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
    sort_by = ("class_id", "question_id", "sample")
    made_by = "pipeline generate-prompts --dataset {dataset} --llm {llm}"

    def __init__(self, cache: Path, dataset: str, llm: str) -> None:
        super().__init__(cache, dataset=dataset, llm=llm)


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


STORES: tuple[type[Store], ...] = (ManifestStore, PromptStore, TextStore, ImageStore)


def partition_values(cache: Path, store: type[Store], key: str, **known: str) -> list[str]:
    """The values a partition key has on disk, sorted, e.g. the prompt sources of a data set.

    Args:
        known: values of the keys that come before `key` in the path.
    """
    folder = Path(cache).joinpath(store.name, *(f"{k}={slug(v)}" for k, v in known.items()))
    return sorted(p.name.split("=", 1)[1] for p in folder.glob(f"{key}=*") if any(p.rglob(PART)))


def read_together(*stores: Store) -> list[Provenance]:
    """The provenance of several stores, after checking that each pair belongs together."""
    found = [store.provenance() for store in stores]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            refuse_mixture(first, second)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
