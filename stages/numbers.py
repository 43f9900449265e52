"""Numbers in settings: finite, of a size that a machine can hold, and written as people write them (`1e-3`)."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]{1,3}")


def _plain(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for text, and only `1.0e-3` for a number."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Number = Annotated[float, BeforeValidator(_plain), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1, le=65_536)]
"""Entries of a vector, heads, ...: what tensors are made with."""
Count = Annotated[int, Field(ge=1, le=10_000_000)]
"""Images, answers, steps, ..."""
Shots = Annotated[int, Field(ge=0, le=10_000_000)] | Literal["all"]
"""Training images a class, or every one that there is; 0 where a protocol shows none (vqa)."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy and PyTorch both take."""


def most(shots: Shots) -> float:
    """Images a class at most; without a bound where all are asked for."""
    return math.inf if shots == "all" else shots


def amount(shots: Shots, *, up_to: bool) -> str:
    """`16 shots`, `up to 16 shots`, `all shots`."""
    return f"{'up to ' if up_to and shots != 'all' else ''}{shots} shot{'s' * (shots != 1)}"
