"""Exact search: every row of a store is compared, piece by piece, so that the store need not fit into memory."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32

from stages.stores.artifacts import Store

BLOCK = 8192
"""Rows turned to float32 at once."""

Keep = Callable[[pa.Table], Bool[np.ndarray, " rows"]]


def nearest_rows(store: Store, query: Float32[np.ndarray, " D"], *, top: int, keep: Keep | None = None) -> pa.Table:
    """The rows of highest cosine, best first, without their embeddings and with a column `score`.

    Rows that score the same stay in the order of the store; rows whose embedding holds NaN are never found.

    Args:
        store: one that holds embeddings of length 1.
        query: of length 1.
        top: how many rows, at most.
        keep: which rows of a piece count; default all.

    Raises:
        UserError: the store is missing or damaged.
    """
    names = [name for name, _ in store.columns]
    best: list[pa.Table] = []
    for piece, matrix in store.pieces(names):
        kept = keep(piece) if keep else np.ones(len(piece), bool)
        if not kept.any():
            continue
        scores = cosines(matrix, query)
        scores[~kept | np.isnan(scores)] = -np.inf
        best = [_top(pa.concat_tables([*best, _scored(piece, scores)]), top)]
    if not best:
        empty = store.schema(width=len(query)).empty_table().select(names)
        return _scored(empty, np.empty(0, np.float32))
    return best[0].combine_chunks()


def cosines(matrix: Float32[np.ndarray, "rows D"], query: Float32[np.ndarray, " D"]) -> Float32[np.ndarray, " rows"]:
    """The products of unit rows, of any float type, with one unit vector."""
    found = np.empty(len(matrix), np.float32)
    for i in range(0, len(matrix), BLOCK):
        found[i : i + BLOCK] = matrix[i : i + BLOCK].astype(np.float32, copy=False) @ query
    return found


def _scored(table: pa.Table, scores: Float32[np.ndarray, " rows"]) -> pa.Table:
    return table.replace_schema_metadata(None).append_column("score", pa.array(scores, pa.float32()))


def _top(table: pa.Table, top: int) -> pa.Table:
    scores = table["score"].to_numpy()
    order = np.argsort(-scores, kind="stable")[:top]
    return table.take(order[scores[order] > -np.inf])
