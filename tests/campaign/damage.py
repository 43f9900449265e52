"""How files and settings are damaged: everything is drawn from the generator that is given."""

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]
WORDS = (
    "", "x", "../../../escaped", "/etc/passwd", "a/b", "..", "\x00", "x" * 20_000, "名前", "\N{CAT FACE}", "1e5", "007",
    "null", "{}", "{} {}", "%s", "$(touch escaped)", "; rm -rf .", "<b>", "\x1b[31m", "nan", "-0", "\u202e", "True",
    "a: b", "&a *a",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 0.5, -0.0, 2**31, 2**32, 2**63, 2**64, 10**25, 10**400, 1e308, 1e-300, float("inf"), float("nan"),
)  # fmt: skip


def hostile(rng: Random) -> Any:
    """A value that no one expects."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(WORDS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice([None, True, False])
    if kind == 3:
        return rng.choice([[], {}, [[]], {"": None}, DEEP, [None] * 50])
    if kind == 4:
        return [hostile(rng) for _ in range(rng.randrange(4))]
    return {rng.choice(WORDS): hostile(rng) for _ in range(rng.randrange(3))}


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything below the top."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *nodes(value, (*path, key)))]


def change(tree: Any, rng: Random) -> tuple[Any, tuple[Any, ...]]:
    """A copy with one change somewhere: another value, a key gone, renamed or new; and where it is."""
    tree = copy.deepcopy(tree)
    paths = nodes(tree)
    if not paths:
        return hostile(rng), ()
    path = rng.choice(paths)
    here = tree
    for key in path[:-1]:
        here = here[key]
    kind = rng.randrange(8)
    if kind == 0:
        del here[path[-1]]
    elif kind == 1 and isinstance(here, dict):
        here[rng.choice(WORDS) if rng.randrange(2) else f"{path[-1]}x"] = here.pop(path[-1])
    elif kind == 2 and isinstance(here, list):
        here.insert(rng.randrange(len(here) + 1), copy.deepcopy(here[path[-1]]))
    elif kind == 3 and isinstance(here, dict):
        here[rng.choice(WORDS)] = hostile(rng)
    else:
        here[path[-1]] = hostile(rng)
    return tree, path


def bytes_changed(data: bytes, rng: Random, other: bytes) -> bytes:
    """Flipped bits, a piece gone, doubled, zeroed or from elsewhere, an end cut off or put on."""
    kind = rng.randrange(9)
    if kind == 0 or not data:
        return rng.choice([b"", b"\0", b"{}", b"\xff\xfe", b"[" * 5000, other])
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice([1, 2, 8, 64, 500]))
    if kind in (1, 2, 3):
        found = bytearray(data)
        for place in (start, *(rng.randrange(len(data)) for _ in range(rng.choice([0, 0, 0, 3])))):
            found[place] ^= 1 << rng.randrange(8)
        return bytes(found)
    if kind == 4:
        return data[:start]
    if kind == 5:
        return data[:start] + data[stop:]
    if kind == 6:
        return data[:start] + bytes(stop - start) + data[stop:]
    if kind == 7:
        return data[:stop] + data[start:stop] + data[stop:]
    return data[:start] + other[start:stop] + data[stop:]


def json_changed(text: str, rng: Random) -> str:
    """Another value somewhere in a JSON file."""
    found = json.dumps(change(json.loads(text), rng)[0], indent=1)
    return found.replace('"format": 3', '"format": 3, "format": 3') if rng.randrange(20) == 0 else found


def csv_changed(text: str, rng: Random) -> str:
    """Another cell, a line more or less, a quote left open."""
    lines = text.split("\n")
    place = rng.randrange(max(1, len(lines) - 1))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, rng.choice(lines))
    elif kind == 2:
        lines[place] += rng.choice([",", ",1", '"', "\r"])
    else:
        cells = lines[place].split(",")
        cells[rng.randrange(len(cells))] = str(rng.choice([*WORDS, *NUMBERS[:-6], 1e308, "inf"]))
        lines[place] = ",".join(cells)
    return "\n".join(lines)


def damage(file: Path, others: list[Path], rng: Random) -> str:
    """Damage one file in a way that suits it; a word on how."""
    data = file.read_bytes()
    suffix = file.suffix if rng.randrange(2) else ""
    if suffix == ".json":
        new = json_changed(data.decode(), rng).encode("utf-8", "surrogatepass")
    elif suffix == ".csv":
        new = csv_changed(data.decode(), rng).encode("utf-8", "surrogatepass")
    else:
        suffix = "bytes"
        new = bytes_changed(data, rng, rng.choice(others).read_bytes())
    if rng.randrange(40) == 0:
        file.unlink()
        if rng.randrange(2):
            file.mkdir()
        return "gone, or a folder"
    file.write_bytes(new)
    return suffix
