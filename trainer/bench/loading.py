"""Loading: the image store to a tensor on the device, against a raw read of as many bytes from the same disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from stages import ImageStore, Provenance
from stages.files import user_errors
from stages.stores.artifacts import ROW_GROUP, embedding_array
from trainer.bench.rows import Ratio, Sizes, in_turn, wait


def loading_rows(sizes: Sizes, device: torch.device) -> Iterator[Ratio]:
    """Megabytes a second, both files in the page cache.

    Raises:
        UserError: the temporary folder has no room.
    """
    width = sizes.widths[0]
    with tempfile.TemporaryDirectory() as name, user_errors(Path(name)):
        store, raw = ImageStore(Path(name), "bench", "generated"), Path(name) / "raw"
        _write(store, raw, rows=sizes.rows, width=width)

        def ours() -> None:
            torch.from_numpy(store.embeddings()).to(device)
            wait(device)

        def reference() -> None:
            torch.from_numpy(np.fromfile(raw, np.float16).reshape(-1, width)).to(device)
            wait(device)

        seconds, plain = in_turn(ours, reference, runs=sizes.runs)
        megabytes = raw.stat().st_size / 1e6
    yield Ratio.of(f"loading {sizes.rows:,} embeddings, D={width}", megabytes / seconds, megabytes / plain, "MB/s")


def _write(store: ImageStore, raw: Path, *, rows: int, width: int) -> None:
    """A store of generated vectors, and the same numbers as bare bytes."""
    rng = np.random.default_rng(0)
    provenance = Provenance(store="images", dataset="bench", content="", encoder="generated", width=width)
    with store.writing(provenance) as writer, raw.open("wb") as handle:
        for first in range(0, rows, ROW_GROUP):
            count = min(ROW_GROUP, rows - first)
            vectors = rng.standard_normal((count, width), dtype=np.float32).astype(np.float16)
            vectors.tofile(handle)
            columns = {
                "image_id": [f"{i:09d}" for i in range(first, first + count)],
                "view": pa.array(np.zeros(count, np.int32)),
                "class_id": pa.array(np.zeros(count, np.int32)),
                "split": ["train"] * count,
                "encoder_name": ["generated"] * count,
                "embedding": embedding_array(vectors),
            }
            writer.add(pa.table(columns))
