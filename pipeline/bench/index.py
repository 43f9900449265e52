"""The index on disk at a million rows: how often it finds the nearest ten, and how fast, against exact search."""

import json
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int

from pipeline.bench import Measured
from stages import ImageProvenance, ImageStore
from stages.stores.artifacts import ROW_GROUP, embedding_array

CLASSES, PARTS, QUERIES, EXACT, TOP = 1000, 4, 100, 3, 10
SPREAD = 0.8
"""Length of what tells the images of a class apart, beside the 1 of their class."""
MEGA = 1e6
FOUND = "found.json"


def bench_index(*, rows: int = 1_000_000, width: int = 512, folder: Path | None = None) -> list[Measured]:
    """Build and search in processes of their own, so that each one's peak memory is its own.

    The vectors lie around the centres of a thousand classes, with a variance that falls with the dimension as that of
    embeddings does; queries are drawn in the same way and are not in the store.

    Args:
        rows: generated unit vectors of `width` numbers, float16, in `PARTS` parts.
        folder: where the store and the index lie meanwhile.
    """
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cache = Path(here)
        found: dict[str, Any] = {"idle_mb": round(_alone(_nothing, cache, rows, width)["peak_mb"])}
        for name, step in STEPS.items():
            done = _alone(step, cache, rows, width)
            found |= {f"{name}_{key}": value for key, value in done.items()}
        store, index = cache / "images", cache / ".index"
        detail = {key: round(value, 4) for key, value in found.items()}
        detail |= {"rows": rows, "width": width, "store_mb": _size(store), "index_mb": _size(index)}
        ours, reference = 1 / found["index_seconds"], 1 / found["exact_seconds"]
        return [Measured("search: index 10", ours, reference, ours / reference, "searches/s", detail)]


def _store(cache: Path) -> ImageStore:
    return ImageStore(cache, "bench", "generated")


def _drawn(classes: Int[np.ndarray, " N"], width: int, seed: int) -> Float32[np.ndarray, "N D"]:
    """Unit vectors of these classes."""
    spectrum = 1 / np.sqrt(np.arange(1, width + 1, dtype=np.float32))
    spectrum /= np.linalg.norm(spectrum)
    centres = np.random.default_rng(0).standard_normal((CLASSES, width), dtype=np.float32) * spectrum
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    noise = np.random.default_rng([1, seed]).standard_normal((len(classes), width), dtype=np.float32) * spectrum
    vectors = centres[classes] + SPREAD * noise
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _queries(width: int) -> Float32[np.ndarray, "queries D"]:
    return _drawn(np.random.default_rng(2).integers(CLASSES, size=QUERIES), width, 10**9)


def _tables(store: ImageStore, rows: int, width: int) -> Iterator[pa.Table]:
    schema = store.schema(width=width)
    for start in range(0, rows, ROW_GROUP):
        number = np.arange(start, min(rows, start + ROW_GROUP))
        classes = number * CLASSES // rows
        yield pa.table(
            [
                pa.array([f"image-{i:09d}" for i in number]), pa.array(np.zeros(len(number), np.int32)),
                pa.array(classes.astype(np.int32)), pa.array(["train"] * len(number)),
                pa.array(["generated"] * len(number)), embedding_array(_drawn(classes, width, start)),
            ],
            schema=schema,
        )  # fmt: skip


def _write(cache: Path, rows: int, width: int) -> dict[str, float]:
    store, start = _store(cache), perf_counter()
    origin = ImageProvenance(dataset="bench", content="", encoder="generated", width=width)
    with store.writing(origin, part_rows=-(-rows // PARTS)) as writer:
        for table in _tables(store, rows, width):
            writer.add(table)
    return {"seconds": perf_counter() - start}


def _build(cache: Path, rows: int, width: int) -> dict[str, float]:
    from pipeline.search.indexed import Indexed

    start = perf_counter()
    Indexed(_store(cache))
    return {"seconds": perf_counter() - start}


def _exact(cache: Path, rows: int, width: int) -> dict[str, float]:
    from pipeline.search.exact import nearest_rows

    start = perf_counter()
    for query in _queries(width)[:EXACT]:
        assert len(nearest_rows(_store(cache), query, top=TOP)) == TOP
    return {"seconds": (perf_counter() - start) / EXACT}


def _search(cache: Path, rows: int, width: int) -> dict[str, float]:
    from pipeline.search.indexed import Indexed

    index, queries = Indexed(_store(cache)), _queries(width)
    start = perf_counter()
    found = [index.nearest_rows(query, top=TOP) for query in queries]
    seconds = (perf_counter() - start) / len(queries)
    names = [[int(name.rpartition("-")[2]) for name in table["image_id"].to_pylist()] for table in found]
    (cache / FOUND).write_text(json.dumps(names))
    return {"seconds": seconds, "cells": index.cells}


def _recall(cache: Path, rows: int, width: int) -> dict[str, float]:
    found = json.loads((cache / FOUND).read_text())
    nearest = _nearest(_store(cache), _queries(width)).tolist()
    right = sum(len(set(mine) & set(row)) for mine, row in zip(found, nearest, strict=True))
    return {"at_10": right / (QUERIES * TOP)}


def _nearest(store: ImageStore, queries: Float32[np.ndarray, "queries D"]) -> Int[np.ndarray, "queries top"]:
    """The rows of highest cosine of each query, all compared."""
    best, rows, start = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64), 0
    for _, matrix in store.pieces(["view"]):
        scores = np.concatenate([best, queries @ matrix.astype(np.float32).T], axis=1)
        names = np.concatenate([rows, np.tile(np.arange(start, start + len(matrix)), (len(queries), 1))], axis=1)
        top = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        best, rows = (np.take_along_axis(each, top, axis=1) for each in (scores, names))
        start += len(matrix)
    return rows


def _size(folder: Path) -> int:
    return round(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MEGA)


def _nothing(cache: Path, rows: int, width: int) -> dict[str, float]:
    return {}


Step = Callable[[Path, int, int], dict[str, float]]


STEPS: dict[str, Step] = {"write": _write, "build": _build, "exact": _exact, "index": _search, "recall": _recall}


def _alone(step: Step, cache: Path, rows: int, width: int) -> dict[str, float]:
    """Run a step in a new process and add the most memory it held, in MB."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (step, cache, rows, width))


def _with_peak(step: Step, cache: Path, rows: int, width: int) -> dict[str, float]:
    import resource

    found = step(cache, rows, width)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
