"""Approximate search through FAISS, for a program that asks one image store many times; on a GPU where there is one.

The index looks through the nearest of many cells (inverted lists) and holds the vectors in float16. It is built in
memory from a fixed seed and never read from a file: FAISS does not check what it reads. A single question is answered
sooner by `exact`: a million rows take about a second.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32

from stages import ImageStore, UserError
from stages.command import progress, say
from stages.stores.artifacts import embedding_matrix

SEED = 1
SAMPLE = 64
"""Vectors a cell that the cells are learnt from."""
PROBED = 8
"""One cell in so many is looked through."""
COLUMNS = ("image_id", "view", "class_id", "split")


class Approximate:
    """The index of view 0 of an image store, or of one split of it, to be asked as often as is wanted.

    Args:
        store: of images.
        split: images of train, val or test alone.

    Raises:
        UserError: FAISS is not installed, or the store is missing or damaged.
    """

    def __init__(self, store: ImageStore, *, split: str | None = None) -> None:
        table = store.read(COLUMNS)
        kept = _kept(table, split)
        self.rows = table.filter(pa.array(kept)).combine_chunks()
        self.index = _build(store, split, int(kept.sum())) if kept.any() else None

    def nearest_rows(self, query: Float32[np.ndarray, " D"], *, top: int) -> pa.Table:
        """As `exact.nearest_rows`; may miss some of the nearest."""
        if self.index is None:
            return self.rows.append_column("score", pa.array([], pa.float32()))
        wanted = min(top, len(self.rows))
        for probed in (-(-self.index.nlist // PROBED), self.index.nlist):
            params = load_faiss().SearchParametersIVF(nprobe=probed)
            scores, found = (values[0] for values in self.index.search(query[None], wanted, params=params))
            if (found >= 0).all():  # else there are fewer rows in those cells than are wanted
                break
        order = np.lexsort((found, -scores))
        return self.rows.take(found[order]).append_column("score", pa.array(scores[order], pa.float32()))


def load_faiss() -> Any:
    """The module `faiss`.

    Raises:
        UserError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of SWIG's wrapper types, on some Pythons
            import faiss
    except ImportError as error:
        raise UserError(
            '--approximate and --index need FAISS, which is not installed: pip install "aape[cpu]" (or gpu), or leave '
            "them away",
            exit_code=2,
        ) from error
    return faiss


def _build(store: ImageStore, split: str | None, rows: int) -> Any:
    """The index of some rows of a store; memory holds them once, in float16, and a sample of them in float32."""
    faiss = load_faiss()
    say(f"{store.dataset}: building an index of {rows} images")
    cells = max(1, min(int(4 * rows**0.5), rows // 39))  # FAISS asks for 39 vectors a cell
    index = faiss.index_factory(int(store.provenance().width or 0), f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.min_points_per_centroid = SEED, 1
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    index.train(_sample(store, split, rows, min(rows, cells * SAMPLE)))
    for vectors in progress(_vectors(store, split), what=f"index {store.dataset}", unit="piece"):
        index.add(vectors)
    return index


def _kept(rows: pa.Table, split: str | None) -> Bool[np.ndarray, " N"]:
    kept: Bool[np.ndarray, " N"] = rows["view"].to_numpy() == 0
    return kept if split is None else kept & (rows["split"].to_numpy() == split)


def _vectors(store: ImageStore, split: str | None) -> Iterator[Float32[np.ndarray, "N D"]]:
    for piece in store.batches(["view", "split", "embedding"]):
        yield np.ascontiguousarray(embedding_matrix(piece["embedding"])[_kept(piece, split)], np.float32)


def _sample(store: ImageStore, split: str | None, rows: int, size: int) -> Float32[np.ndarray, "chosen D"]:
    """Some of the vectors, drawn by the seed."""
    drawn = np.sort(np.random.default_rng(SEED).choice(rows, size, replace=False))
    found, seen = [], 0
    for vectors in _vectors(store, split):
        found.append(vectors[drawn[(drawn >= seen) & (drawn < seen + len(vectors))] - seen])
        seen += len(vectors)
    return np.concatenate(found)
