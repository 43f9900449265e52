"""Rows of numbers as unit vectors, a block at a time: what is none is refused, another length than 1 is counted."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from stages.errors import UserError
from stages.stores.artifacts import ROW_GROUP

OFF = 2e-3
"""How far from 1 a length may be that float16 rounding explains."""


def check_vectors(array: Float[np.ndarray, "N D"], where: str) -> int:
    """The number of rows whose length is not 1.

    Raises:
        UserError: not floating-point numbers; rows with NaN or infinity, or of zeros, which have no direction.
    """
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise UserError(f"{where}: of type {array.dtype}; expected float16, float32 or float64")
    bad: list[int] = []
    zero: list[int] = []
    off = 0
    for start in range(0, len(array), ROW_GROUP):
        block = np.asarray(array[start : start + ROW_GROUP])
        largest = np.abs(block).max(axis=1, initial=0)
        finite = np.isfinite(largest)
        bad += (start + np.flatnonzero(~finite)).tolist()
        zero += (start + np.flatnonzero(largest == 0)).tolist()
        kept = block[finite & (largest > 0)]
        with np.errstate(over="ignore", under="ignore"):  # far from 1 all the same
            lengths = np.sqrt(np.einsum("nd,nd->n", kept, kept, dtype=np.float64, casting="same_kind"))
        off += int((np.abs(lengths - 1) > OFF).sum())
    for rows, what in ((bad, "hold NaN or infinity"), (zero, "are zero and have no direction")):
        if rows:
            raise UserError(f"{where}: {len(rows)} of {len(array)} rows {what} (first: row {rows[0]}): leave them out")
    return off


def unit_rows(block: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Each row over its length; no length overflows or underflows."""
    rows = np.array(block, dtype=np.float64)
    rows /= np.abs(rows).max(axis=1, keepdims=True, initial=0)
    rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return rows


def unit_blocks(
    array: Float[np.ndarray, "N D"], rows: Int[np.ndarray, " M"]
) -> Iterator[tuple[Int[np.ndarray, " M"], Float[np.ndarray, "M D"]]]:
    """These rows of an array, in this order, as unit vectors, with their positions in `rows`."""
    for start in range(0, len(rows), ROW_GROUP):
        positions = np.arange(start, min(start + ROW_GROUP, len(rows)))
        yield positions, unit_rows(array[rows[positions]])
