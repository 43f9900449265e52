"""The image store at a million rows: writing, reading, SQL and search, against copying the same bytes as a file."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bench import Measured
from stages import ImageStore, Provenance
from stages.stores.artifacts import ROW_GROUP, embedding_array

CLASSES = 1000
MEGA = 1e6


def bench_store(*, rows: int = 1_000_000, width: int = 512, folder: Path | None = None) -> list[Measured]:
    """Each step in a process of its own, so that its peak memory is its own.

    Args:
        rows: generated unit vectors of `width` numbers, float16.
        folder: where the store lies meanwhile; its disk is what is measured.
    """
    with tempfile.TemporaryDirectory(dir=folder) as here:
        cache = Path(here)
        base = _alone(_nothing, cache, rows, width)["peak_mb"]
        steps: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
            "write": _write, "read": _read, "verify": _verify, "sql: rows a class": _sql_count,
            "sql: nearest 10": _sql_nearest, "search: exact 10": _search,
        }  # fmt: skip
        found = []
        for name, step in steps.items():
            mine = _alone(step, cache, rows, width)
            raw = _alone(_copy, cache, rows, width)
            size = sum(file.stat().st_size for file in _store(cache).files()) / MEGA
            found.append(
                Measured(
                    name, ours=size / mine["seconds"], reference=size / raw["seconds"],
                    ratio=raw["seconds"] / mine["seconds"], unit="MB/s",
                    detail={
                        "rows": rows, "width": width, "store_mb": round(size), "seconds": round(mine["seconds"], 3),
                        "rows_per_s": round(rows / mine["seconds"]), "peak_mb": round(mine["peak_mb"]),
                        "idle_mb": round(base),
                    },
                )
            )  # fmt: skip
        return found


def _store(cache: Path) -> ImageStore:
    return ImageStore(cache, "bench", "generated")


def _vectors(rows: int, width: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _tables(store: ImageStore, rows: int, width: int) -> Iterator[pa.Table]:
    """The rows in the store's order, a row group at a time; one block of vectors is reused, rotated."""
    schema = store.schema(width=width)
    block = _vectors(ROW_GROUP, width, 0).astype(np.float16)
    for start in range(0, rows, ROW_GROUP):
        n = min(ROW_GROUP, rows - start)
        number = np.arange(start, start + n)
        yield pa.table(
            [
                pa.array([f"image-{i:09d}" for i in number]), pa.array(np.zeros(n, np.int32)),
                pa.array((number * CLASSES // rows).astype(np.int32)), pa.array(["train"] * n),
                pa.array(["generated"] * n), embedding_array(np.roll(block, start // ROW_GROUP, axis=1)[:n]),
            ],
            schema=schema,
        )  # fmt: skip


def _write(cache: Path, rows: int, width: int) -> dict[str, Any]:
    store = _store(cache)
    origin = Provenance(store="images", dataset="bench", content="", encoder="generated", width=width)
    tables = _tables(store, rows, width)
    seconds = 0.0
    with store.writing(origin) as writer:
        for table in tables:  # making the vectors is not writing
            start = perf_counter()
            writer.add(table)
            seconds += perf_counter() - start
        start = perf_counter()
    return {"seconds": seconds + perf_counter() - start}


def _read(cache: Path, rows: int, width: int) -> dict[str, Any]:
    start = perf_counter()
    found = np.empty((rows, width), np.float16)
    filled = 0
    for table, matrix in _store(cache).pieces(["class_id"]):
        found[filled : filled + len(table)] = matrix
        filled += len(table)
    assert filled == rows
    return {"seconds": perf_counter() - start}


def _verify(cache: Path, rows: int, width: int) -> dict[str, Any]:
    start = perf_counter()
    assert not _store(cache).verify()
    return {"seconds": perf_counter() - start}


def _sql_count(cache: Path, rows: int, width: int) -> dict[str, Any]:
    return _sql(cache, "SELECT class_id, count(*) FROM images GROUP BY ALL ORDER BY ALL LIMIT 10")


def _sql_nearest(cache: Path, rows: int, width: int) -> dict[str, Any]:
    vector = ", ".join(f"{value:.4f}" for value in _vectors(1, width, 1)[0])
    return _sql(
        cache,
        f"SELECT image_id, array_cosine_similarity(embedding, [{vector}]::FLOAT[{width}]) AS cosine FROM images "
        "ORDER BY cosine DESC LIMIT 10",
    )


def _sql(cache: Path, sql: str) -> dict[str, Any]:
    from pipeline.catalog import query

    start = perf_counter()
    assert len(query(cache, "generated", sql)[1]) == 10
    return {"seconds": perf_counter() - start}


def _search(cache: Path, rows: int, width: int) -> dict[str, Any]:
    from pipeline.search.exact import nearest_rows

    query = _vectors(1, width, 1)[0]
    start = perf_counter()
    assert len(nearest_rows(_store(cache), query, top=10)) == 10
    return {"seconds": perf_counter() - start}


def _copy(cache: Path, rows: int, width: int) -> dict[str, Any]:
    """Copy the store's files, to the disk and not only to memory."""
    target = cache / "copy"
    seconds = 0.0
    for file in _store(cache).files():
        start = perf_counter()
        shutil.copyfile(file, target)
        handle = os.open(target, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        seconds += perf_counter() - start
        target.unlink()
    return {"seconds": seconds}


def _nothing(cache: Path, rows: int, width: int) -> dict[str, Any]:
    return {}


def _alone(step: Callable[[Path, int, int], dict[str, Any]], cache: Path, rows: int, width: int) -> dict[str, Any]:
    """Run a step in a new process and add the most memory it held, in MB."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (step, cache, rows, width))


def _with_peak(step: Callable[[Path, int, int], dict[str, Any]], cache: Path, rows: int, width: int) -> dict[str, Any]:
    import resource

    found = step(cache, rows, width)
    return {**found, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
