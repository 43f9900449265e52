"""Embedding columns: fixed-size lists of float16 or float32, and what else is particular about the stores' Parquet."""

import numpy as np
import pyarrow as pa

DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError)
"""What pyarrow raises on a file that is none, or no longer one."""


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


def precision_of(table: pa.Table) -> str:
    """The precision of a table's embeddings, by the name that params.yaml uses; float16 where it has none."""
    if "embedding" not in table.column_names:
        return "float16"
    return "float16" if pa.types.is_float16(table.schema.field("embedding").type.value_type) else "float32"


def leaves(schema: pa.Schema) -> list[str]:
    """The Parquet paths of all leaf columns."""

    def below(path: str, kind: pa.DataType) -> list[str]:
        if pa.types.is_struct(kind):
            return [leaf for field in kind for leaf in below(f"{path}.{field.name}", field.type)]
        if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            return below(f"{path}.list.element", kind.value_type)
        return [path]

    return [leaf for field in schema for leaf in below(field.name, field.type)]


def first_line(error: Exception) -> str:
    """The first line of what pyarrow complains about."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
