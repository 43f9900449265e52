"""What users hand in, NumPy or torch, as checked arrays of unit rows. A length says nothing here: cosines are compared.

Errors are `ValueError`s in scikit-learn's own words, since that is who the estimators' users expect to hear from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError

ArrayLike = npt.ArrayLike | Tensor
"""A NumPy array, a torch tensor on any device, or nested lists."""
DTYPES = (np.float64, np.float32, np.float16)
"""Types that are taken as they are; others become the first."""


def as_array(values: Any) -> Any:
    """A tensor as a NumPy array, wherever it lies and whatever its type; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def unit_rows(values: Float[np.ndarray, "*rows D"], *, name: str) -> Float[np.ndarray, "*rows D"]:
    """Each row over its length, float32 and contiguous; no length overflows or underflows.

    Args:
        values: finite numbers.
        name: as the caller knows it.

    Raises:
        ValueError: a row is zero and has no direction.
    """
    precision = np.float64 if values.dtype == np.float64 else np.float32
    rows: npt.NDArray[np.floating[Any]] = np.array(values, dtype=precision, order="C")
    largest = np.maximum(rows.max(axis=-1, keepdims=True), -rows.min(axis=-1, keepdims=True))
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        raise ValueError(
            f"Input {name} contains {len(zero)} zero vectors (first: row {zero[0]}): they have no direction to compare."
        )
    rows /= largest
    rows /= np.sqrt(np.einsum("...d,...d->...", rows, rows))[..., None]
    return rows.astype(np.float32, copy=False)


def checked(values: Any, *, name: str, dims: Sequence[int] = (2,)) -> Float[np.ndarray, "*rows D"]:
    """An array of finite numbers with one of these numbers of dimensions, as unit rows.

    Raises:
        ValueError: it is not; names the argument.
    """
    from sklearn.utils import check_array

    array = check_array(
        as_array(values), dtype=DTYPES, allow_nd=True, ensure_2d=False, ensure_min_samples=0, ensure_min_features=0,
        input_name=name,
    )  # fmt: skip
    if array.ndim not in dims:
        expected = " or ".join(f"{each}D" for each in dims)
        raise ValueError(f"Expected {expected} array for {name}, got {array.ndim}D array of shape {array.shape}.")
    if 0 in array.shape:
        raise ValueError(f"Found array with nothing in it for {name} (shape={array.shape}).")
    return unit_rows(array, name=name)


@contextmanager
def plain_errors() -> Iterator[None]:
    """The trainer's errors as `ValueError`, which is what estimators raise; the line stays the same."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error)) from error


@contextmanager
def one_thread() -> Iterator[None]:
    """As `trainer run` fits: the same bytes for any number of cores, and no thread beside those of a caller's pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
