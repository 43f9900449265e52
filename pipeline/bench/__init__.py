"""Speed against a plain implementation: ratios measured in one run, alternating, the median of several."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Measured:
    """One comparison.

    Attributes:
        name: what was measured.
        ours: our rate, in `unit`.
        reference: the plain rate, in `unit`.
        ratio: ours / reference.
        unit: such as images/s or MB/s.
        detail: facts about the run: sizes, repeats, peak memory.
    """

    name: str
    ours: float
    reference: float
    ratio: float
    unit: str
    detail: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For --json: all but the detail."""
        return {name: value for name, value in asdict(self).items() if name != "detail"}


def compare(
    name: str, *, ours: Callable[[], float], reference: Callable[[], float], repeats: int, unit: str, **detail: Any
) -> Measured:
    """Measure both rates `repeats` times in turn; the ratio is the median of the ratios of neighbours."""
    pairs = [(ours(), reference()) for _ in range(repeats)]
    return Measured(
        name,
        ours=median(a for a, _ in pairs),
        reference=median(b for _, b in pairs),
        ratio=median(a / b for a, b in pairs),
        unit=unit,
        detail={"repeats": repeats, **detail},
    )
