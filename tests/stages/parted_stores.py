"""Small stores of many parts, and what processes of their own do to them; imports little, so that these start soon."""

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages import ImageStore, Provenance
from stages.stores.artifacts import embedding_array

ORIGIN = Provenance(store="images", dataset="d", content="", encoder="e", encoder_fingerprint="f", width=3)


def table(rows: int, *, seed: int = 0, precision: str = "float16", width: int = 3) -> pa.Table:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = [
        pa.array([f"i{k:06d}" for k in range(rows)], pa.string()), pa.array([0] * rows, pa.int32()),
        pa.array([None if k % 5 == 4 else 0 for k in range(rows)], pa.int32()),
        pa.array(["train"] * rows, pa.string()), pa.array(["e"] * rows, pa.string()),
        embedding_array(vectors, precision=precision),
    ]  # fmt: skip
    made = pa.table(columns, schema=ImageStore.schema(width=width, precision=precision))
    return made.sort_by([(key, "ascending") for key in ImageStore.sort_by])


def write(
    store: ImageStore, rows: pa.Table, part_rows: int, *, pieces: int = 0, precision: str = "float16",
    origin: Provenance = ORIGIN,
) -> str:  # fmt: skip
    with store.writing(origin, part_rows=part_rows, precision=precision) as writer:
        for first in range(0, len(rows), pieces or max(1, len(rows))):
            writer.add(rows.slice(first, pieces or len(rows)))
    return writer.provenance.content


def some(job: tuple[bytes, int, int]) -> None:
    writer, index, part_rows = job
    rows = table(23).slice(index * part_rows, part_rows)
    pickle.loads(writer).write(index, [rows])


def replace_again_and_again(cache: Path) -> None:
    """Two states of a store, one after the other, for ever."""
    store = ImageStore(cache, "d", "e")
    while True:
        for seed, part_rows in ((1, 5), (2, 4), (1, 50)):
            write(store, table(23, seed=seed), part_rows)


def write_and_be_killed(cache: Path) -> None:
    """Two parts and a half, and then the end."""
    with ImageStore(cache, "d", "e").writing(ORIGIN, part_rows=5) as writer:
        writer.add(table(13))
        os.kill(os.getpid(), signal.SIGKILL)
