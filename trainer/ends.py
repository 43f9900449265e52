"""Choices that sit at an end of what was searched: the range, and not the images, may have decided them.

A method puts `at_end(...)` into its `info`; a run counts them, fit by fit, and says so in a note beside its tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

AT_END = "at_end"
"""Key of `info`."""
SHOWN = 6
"""Choices that a line names."""

Searched = tuple[float, Sequence[float]]
"""What was chosen, and the values that were tried."""


def at_end(**searched: Searched) -> dict[str, str]:
    """`{"at_end": "C = 1e+06, beta = 50"}`: the choices at the largest or the smallest value tried; {} without any.

    0 is no end: a part that is left out cannot be left out further, and nothing searched here is negative. Of two
    values each is an end, which says nothing. Leave out what was not searched, such as a default that was taken where
    there was nothing to choose by.

    Args:
        searched: by name the choice and the values tried, in any order; infinity among them marks an end as open.
    """
    found = [
        f"{name} = {chosen:.4g}"
        for name, (chosen, tried) in searched.items()
        if len(set(tried)) > 2 and chosen and chosen in (min(tried), max(tried))
    ]
    return {AT_END: ", ".join(found)} if found else {}


def end_notes(fits: Iterable[tuple[str, Mapping[str, object]]], *, where: str) -> list[str]:
    """One line on the choices at an end of their range, each with its number of fits; none where there are none.

    Args:
        fits: method and `info` of each fit.
        where: what the line begins with, such as the protocol's key.
    """
    total, ends = Counter[str](), Counter[tuple[str, str]]()
    for method, info in fits:
        total[method] += 1
        for choice in filter(None, str(info.get(AT_END) or "").split(", ")):
            ends[method, choice] += 1
    if not ends:
        return []
    each = [f"{method} {choice} ({count} of {total[method]})" for (method, choice), count in ends.most_common()]
    more = f", and {len(each) - SHOWN} more (`at_end` in run.json)" if len(each) > SHOWN else ""
    return [f"{where}: choices at an end of what is searched, in fits: {', '.join(each[:SHOWN])}{more}"]
