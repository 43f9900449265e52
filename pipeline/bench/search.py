"""A search for one sentence from the command line, against a process that only loads the text model and embeds it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from pipeline.bench import Measured, compare
from pipeline.encoders import load_encoder
from stages import ImageProvenance, ImageStore, ManifestProvenance, ManifestStore
from stages.stores.artifacts import embedding_array

SENTENCE = "a photo of a cat."
BARE = f"""
import pyarrow, torch
from pipeline.encoders.minilm import MiniLM
MiniLM(torch.device("cpu"))([{SENTENCE!r}])
"""
"""What cannot be done without: the libraries, the text model, one sentence through it."""


def bench_search_text(*, rows: int = 10_000, repeats: int = 3) -> Measured:
    """`pipeline search` with `lite` over generated embeddings, from the start of its process to its end.

    Args:
        rows: generated images of the store.
    """
    encoder = load_encoder("lite", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        _stores(cache, rows, encoder.fingerprint, encoder.width)
        search = [sys.executable, "-m", "pipeline.cli", "search", SENTENCE, "--cache", folder, "--encoder", "lite"]
        seconds: list[float] = []

        def ours() -> float:
            seconds.append(_seconds([*search, "--device", "cpu"]))
            return 1 / seconds[-1]

        found = compare(
            "search-text", ours=ours, reference=lambda: 1 / _seconds([sys.executable, "-c", BARE]), repeats=repeats,
            unit="searches/s", rows=rows,
        )  # fmt: skip
        found.detail["seconds"] = round(float(np.median(seconds)), 2)
        return found


def _seconds(words: list[str]) -> float:
    start = perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return perf_counter() - start


def _stores(cache: Path, rows: int, fingerprint: str, width: int) -> None:
    """A manifest without image files, and unit vectors in place of embeddings."""
    names = pa.array([f"image-{i:09d}" for i in range(rows)])
    manifest, images = ManifestStore(cache, "bench"), ImageStore(cache, "bench", "lite")
    columns = {"image_id": names, "path": names, "class_id": pa.array([0] * rows, pa.int32())}
    columns |= {"class_name": pa.array(["thing"] * rows), "split": pa.array(["train"] * rows)}
    schema = manifest.schema()
    table = pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)
    origin = ManifestProvenance(dataset="bench", content="", inputs={"classes": "bench"}, class_names={0: "thing"})
    written = manifest.write(table, origin)
    vectors = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    columns |= {"view": pa.array([0] * rows, pa.int32()), "encoder_name": pa.array(["lite"] * rows)}
    columns["embedding"] = embedding_array(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    schema = images.schema(width=width)
    images.write(
        pa.table([columns[f.name] for f in schema], schema=schema),
        ImageProvenance(
            dataset="bench", content="", inputs={"classes": "bench", "manifest": written.content}, encoder="lite",
            encoder_fingerprint=fingerprint, width=width,
        ),
    )  # fmt: skip
