"""Approximate search through FAISS: an index of an image store, built once and kept in `cache/.index/`.

An index is a copy that can be built again: it carries the content hash of its store and is rebuilt when that differs.
FAISS reads its files without checking them, so that a file from a stranger could do harm. One is read only where its
sidecar fits and is sealed with a key that lies in the user's own state folder: an index that came with somebody else's
cache is built anew, never opened.

`ivf` looks through the nearest of many cells (inverted lists); `hnsw` walks a graph of neighbours. Both hold the
vectors in float16 and are built from a fixed seed.
"""

import hashlib
import hmac
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from stages import ImageStore, UserError
from stages.artifacts import embedding_matrix
from stages.command import progress, say
from stages.files import atomic_file, sha256_file, write_text

Kind = Literal["ivf", "hnsw"]
SEED = 1
SAMPLE = 64
"""Vectors a cell that the cells are learnt from."""
PROBED = 8
"""One cell in so many is looked through."""
LINKS, WIDTH_BUILD, WIDTH_SEARCH = 32, 128, 128
"""HNSW: neighbours a node, candidates kept while building and while searching."""
COLUMNS = ("image_id", "view", "class_id", "split")


class Approximate:
    """The index of view 0 of an image store, loaded or built, to be asked as often as is wanted.

    Args:
        store: of images.
        kind: `ivf` or `hnsw`.

    Raises:
        UserError: FAISS is not installed, the store is missing, damaged or empty, or the index cannot be written.
    """

    def __init__(self, store: ImageStore, kind: Kind) -> None:
        self.kind = kind
        self.rows = _rows(store)
        self.index = load(store, kind) or build(store, kind)

    def nearest_rows(self, query: Float32[np.ndarray, " D"], *, top: int, split: str | None = None) -> pa.Table:
        """As `exact.nearest_rows`, over view 0; may miss some of the nearest."""
        faiss = load_faiss()
        inside = np.flatnonzero(self.rows["split"].to_numpy() == split) if split else np.arange(len(self.rows))
        if not len(inside):
            return self.rows.slice(0, 0).append_column("score", pa.array([], pa.float32()))
        more: dict[str, Any] = {}
        index = self.index
        if split:  # a store is sorted by split: the rows of one are neighbours
            more["sel"] = faiss.IDSelectorRange(int(inside[0]), int(inside[-1]) + 1)
        elif self.kind == "ivf":  # FAISS knows no choice of rows on a GPU
            index = _to_gpu(faiss, index)
        wanted = min(top, len(inside))
        effort, most = (
            (-(-index.nlist // PROBED), index.nlist) if self.kind == "ivf" else (WIDTH_SEARCH, len(self.rows))
        )
        while True:
            if self.kind == "ivf":
                params = faiss.SearchParametersIVF(nprobe=min(effort, most), **more)
            else:
                params = faiss.SearchParametersHNSW(efSearch=min(effort, most), **more)
            scores, found = (values[0] for values in index.search(query[None], wanted, params=params))
            good = found >= 0
            # A split may hide where was not looked: look further.
            if good.sum() >= wanted or effort >= most:
                break
            effort *= 2
        scores, found = scores[good], found[good]
        order = np.lexsort((found, -scores))
        return self.rows.take(found[order]).append_column("score", pa.array(scores[order], pa.float32()))


def build(store: ImageStore, kind: Kind) -> Any:
    """Build the index of a store's view 0, keep it, and return it.

    Memory holds the vectors once, in float16, and a sample of them in float32.

    Raises:
        UserError: FAISS is not installed, or the store is missing, damaged or empty.
    """
    faiss = load_faiss()
    rows, width = len(_rows(store)), int(store.provenance().width or 0)
    if not rows:
        raise UserError(f"{store.file}: no image embeddings to make an index of")
    say(f"{store.dataset}: building the {kind} index of {rows} images")
    if kind == "ivf":
        cells = max(1, min(int(4 * rows**0.5), rows // 39))  # FAISS asks for 39 vectors a cell
        index = faiss.index_factory(width, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.min_points_per_centroid = SEED, 1
        index = _to_gpu(faiss, index)
        index.train(_sample(store, rows, min(rows, cells * SAMPLE)))
    else:
        index = faiss.index_factory(width, f"HNSW{LINKS}_SQfp16", faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = WIDTH_BUILD
        index.train(_sample(store, rows, 1))
    threads = faiss.omp_get_max_threads()
    try:
        if kind == "hnsw":  # several threads would link the graph in the order in which they happen to come
            faiss.omp_set_num_threads(1)
        for vectors in progress(_vectors(store), what=f"{kind} {store.dataset}", unit="piece"):
            index.add(vectors)
    finally:
        faiss.omp_set_num_threads(threads)
    if kind == "ivf" and _gpus(faiss):
        index = faiss.index_gpu_to_cpu(index)
    file = place(store, kind)
    with atomic_file(file) as work:
        faiss.write_index(index, str(work))
    facts = {**_facts(store, kind), "sha256": sha256_file(file)}
    write_text(_sidecar(file), json.dumps({**facts, "seal": _seal(facts)}, indent=1, sort_keys=True) + "\n")
    return index


def load(store: ImageStore, kind: Kind) -> Any:
    """The kept index, None where there is none, it is stale or damaged, or another user made it."""
    file = place(store, kind)
    try:
        facts = json.loads(_sidecar(file).read_text(encoding="utf-8"))
        seal = facts.pop("seal")
        fits = hmac.compare_digest(seal, _seal(facts)) and facts == {**_facts(store, kind), "sha256": sha256_file(file)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return load_faiss().read_index(str(file)) if fits else None


def place(store: ImageStore, kind: Kind) -> Path:
    """Where the index of a store is kept."""
    return store.cache.joinpath(".index", *store.folder.relative_to(store.cache).parts, f"{kind}.faiss")


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
            '--index needs FAISS, which is not installed: pip install "aape[cpu]" (or gpu), or leave --index away',
            exit_code=2,
        ) from error
    return faiss


def _facts(store: ImageStore, kind: Kind) -> dict[str, Any]:
    """What an index depends on."""
    return {
        "content": store.provenance().content,
        "faiss": load_faiss().__version__,
        "kind": kind,
        "settings": [SEED, SAMPLE, LINKS, WIDTH_BUILD],
    }


def _sidecar(file: Path) -> Path:
    return file.with_suffix(".json")


def _seal(facts: dict[str, Any]) -> str:
    """What only this user can put under the facts of an index."""
    return hmac.new(_key(), json.dumps(facts, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """This user's secret, made at the first need."""
    from platformdirs import user_state_path

    file = user_state_path("aape") / "index.key"
    if not file.exists():
        with atomic_file(file) as work:
            work.touch(mode=0o600)
            work.write_bytes(os.urandom(32))
    return file.read_bytes()


def _rows(store: ImageStore) -> pa.Table:
    """The rows of view 0, in the order in which an index numbers them."""
    table = store.read(COLUMNS)
    return table.filter(pa.array(table["view"].to_numpy() == 0)).combine_chunks()


def _vectors(store: ImageStore) -> Iterator[Float32[np.ndarray, "rows D"]]:
    for piece in store.batches(["view", "embedding"]):
        matrix = embedding_matrix(piece["embedding"])[piece["view"].to_numpy() == 0]
        yield np.ascontiguousarray(matrix, np.float32)


def _sample(store: ImageStore, rows: int, size: int) -> Float32[np.ndarray, "chosen D"]:
    """Some of the vectors, drawn by the seed."""
    drawn = np.sort(np.random.default_rng(SEED).choice(rows, size, replace=False))
    found, seen = [], 0
    for vectors in _vectors(store):
        found.append(vectors[drawn[(drawn >= seen) & (drawn < seen + len(vectors))] - seen])
        seen += len(vectors)
    return np.concatenate(found)


def _gpus(faiss: Any) -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def _to_gpu(faiss: Any, index: Any) -> Any:
    """The index on the first GPU, where faiss-gpu is installed and sees one; else as it is."""
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index) if _gpus(faiss) else index
