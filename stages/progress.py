"""Progress for people who look on, and for those who read a log later."""

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
ENOUGH = 10
"""Fewer steps than this, and than a fifth of all, say too little of how long the others take."""
SECONDS = 30.0
"""Between two lines where standard error is no terminal; what is done sooner writes none."""


class Lines(tqdm):  # type: ignore[type-arg]
    """A plain line every half minute, count, total, rate and time left, in place of a bar."""

    monitor_interval = 0  # no thread beside the work

    def __init__(
        self, items: Iterable[Any] | None = None, *, desc: str, total: int | None, unit: str, say: Callable[[str], None]
    ) -> None:
        self._say = say
        super().__init__(
            items, desc=desc, total=total, unit=unit, file=io.StringIO(), mininterval=SECONDS, delay=SECONDS,
            miniters=1, leave=False,
        )  # fmt: skip

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Say how far it is."""
        if msg is None:
            self._say(self.line())

    def line(self) -> str:
        """`images euro: 12,800 of 300,000 (41.3 image/s, 1:55:54 left)`."""
        found = self.format_dict
        done, total = found["n"], found["total"]
        rate = found["rate"] or done / max(found["elapsed"], 1e-9)
        of = f" of {total:,}" if total else ""
        known = total and rate and (done >= ENOUGH or done * 5 >= total)
        left = f", {tqdm.format_interval((total - done) / rate)} left" if known else ""
        return f"{self.desc}: {done:,}{of} ({rate:,.{0 if rate >= 100 else 2}f} {self.unit}/s{left})"


def bar(
    items: Iterable[Any] | None = None, *, what: str, total: int | None, unit: str, say: Callable[[str], None]
) -> "tqdm[Any]":
    """A bar where standard error is a terminal, lines by `say` elsewhere; without `items`, to be updated by hand."""
    if sys.stderr.isatty():
        return tqdm(items, desc=what, total=total, unit=unit, leave=False, dynamic_ncols=True)
    return Lines(items, desc=what, total=total, unit=unit, say=say)
