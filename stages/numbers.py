"""Numbers in settings: finite, of a size that a machine can hold, and written as people write them (`1e-3`)."""

import re
from typing import Annotated, Any

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
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy and PyTorch both take."""
