"""Search past memory: a FAISS index of an image store on disk (IVF-PQ), beside the store, searched where it lies.

A vector is a code of D/8 bytes in one of about sqrt(rows) cells. The store is read once to build it, a piece at a time,
after cells and codes are learnt from a sample; the lists lie in a file that is mapped, not read. A search reads the
cells nearest to the query and compares what it finds there with the embeddings themselves, exactly. What it may miss:
images in other cells (`pipeline bench index` measures how many).

FAISS does not check what it reads: its file has a hash, and no byte of the lists can be more than a wrong candidate.
"""

import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int

from pipeline.search.approximate import COLUMNS, SEED, load_faiss
from pipeline.search.exact import cosines, nearest_rows
from stages import ImageStore, UserError
from stages.command import progress, say
from stages.files import replaced_folder, sha256_file
from stages.lock import store_lock

LARGE = 5_000_000
"""Images of a store from which on `pipeline search` takes the index by itself."""
SMALL = 1_000
"""Images below which there is nothing to learn cells from: the search is exact."""
PROBED = 8
"""One cell in so many is looked through, but at least `PROBED_LEAST`."""
PROBED_LEAST = 16
CANDIDATES = 50
"""For each image that is wanted, how many are compared exactly."""
BLOCK = 500_000
"""Vectors coded at once; their codes are merged on disk."""
FORMAT = 1
INDEX, LISTS, ABOUT = "index.faiss", "lists.ivfdata", "about.json"


@dataclass(frozen=True)
class About:
    """What an index was built from; another state of any of it makes the index stale.

    Attributes:
        content: hash of the store's rows.
        faiss: version of FAISS.
        index, lists: sha256 of the small file; bytes of the large one.
        ranges: split -> its first row in the store, and the one after its last.
        images: rows of view 0.
    """

    content: str
    faiss: str
    index: str
    lists: int
    ranges: dict[str, tuple[int, int]]
    images: int
    format: int = FORMAT


class Indexed:
    """The index of an image store, built where there is none, or one of another state of the store.

    Args:
        store: of images.

    Raises:
        UserError: FAISS is not installed, the store is missing or damaged, another command builds the index, or the
            disk is full.
    """

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.folder = store.cache / ".index" / "+".join(store.partitions.values())
        self.about = _about(self.folder)
        content = store.provenance().content
        why = _stale(self.about, self.folder, content)
        if why:
            say(f"{self.folder}: {why}: it is built")
            with store_lock(self.folder, what="pipeline search"):
                self.about = build(store, self.folder)
        self._index = None if self.about is None or not self.about.lists else _opened(self.folder)
        self._vectors = store.rows(check_all=False)

    @property
    def cells(self) -> int:
        """Cells of the index; none where the store is so small that it is searched exactly."""
        return int(self._index.nlist) if self._index is not None else 0

    def nearest_rows(self, query: Float32[np.ndarray, " D"], *, top: int, split: str | None = None) -> pa.Table:
        """As `exact.nearest_rows` of view 0; may miss some of the nearest.

        Raises:
            UserError: the store or the index is damaged.
        """
        if self._index is None or self.about is None:
            return nearest_rows(self.store, query, top=top, keep=lambda t: _kept(t, split))
        rows = max(stop for _, stop in self.about.ranges.values())
        first, stop = self.about.ranges.get(split, (0, 0)) if split else (0, rows)
        found = self._candidates(query, top, first, stop)
        scores = cosines(self._vectors(found), query)
        scores[np.isnan(scores)] = -np.inf
        order = np.lexsort((found, -scores))[:top]
        order = order[scores[order] > -np.inf]
        return self.store.at(found[order], COLUMNS).append_column("score", pa.array(scores[order], pa.float32()))

    def _candidates(self, query: Float32[np.ndarray, " D"], top: int, first: int, stop: int) -> Int[np.ndarray, " M"]:
        """The rows, of those between the two, whose codes are nearest."""
        faiss = load_faiss()
        assert self._index is not None
        cells = self._index.nlist
        for probed in (max(PROBED_LEAST, cells // PROBED), cells):
            chosen = faiss.SearchParametersIVF(nprobe=min(cells, probed), sel=faiss.IDSelectorRange(first, stop))
            _, [found] = self._index.search(query[None], max(200, top * CANDIDATES), params=chosen)
            if (found >= 0).sum() >= top:  # else too few images of this split lie in those cells
                break
        found = np.unique(found[found >= 0])
        if len(found) and not (first <= found[0] and found[-1] < stop):
            raise UserError(f"{self.folder}: damaged: remove it, and it is built again")
        return np.asarray(found, np.int64)


def build(store: ImageStore, folder: Path) -> About:
    """Build the index of a store; memory holds a sample, `BLOCK` codes and one piece of the store.

    Raises:
        UserError: as `Indexed`; the old index, if any, is untouched.
    """
    faiss = load_faiss()
    origin = store.provenance()
    chosen, ranges = _places(store)
    say(f"{store.dataset}: building an index of {len(chosen)} images")
    with replaced_folder(folder) as work:
        lists = 0
        if len(chosen) >= SMALL:
            index = _trained(store, chosen, int(origin.width or 0))
            blocks = work / "blocks"
            blocks.mkdir()
            _add(store, index, blocks)
            lists = _merge(index, sorted(blocks.iterdir()), work)
            shutil.rmtree(blocks)
            faiss.write_index(index, str(work / INDEX))
        else:
            (work / INDEX).touch()
        digest = sha256_file(work / INDEX)
        about = About(origin.content, faiss.__version__, digest, lists, ranges, len(chosen))
        (work / ABOUT).write_text(json.dumps(asdict(about)), encoding="utf-8")
    return about


def size_of(store: ImageStore) -> int:
    """Images of a store; of its footers nothing but the counts is read."""
    import pyarrow.parquet as pq

    views = int(getattr(store.provenance(), "views", 0))
    rows = sum(int(pq.read_metadata(file).num_rows) for file in store.files())
    return rows // (1 + views)


def _places(store: ImageStore) -> tuple[Int[np.ndarray, " N"], dict[str, tuple[int, int]]]:
    """The rows of view 0, and where each split lies; splits lie together."""
    chosen, ranges, start = [], dict[str, tuple[int, int]](), 0
    for table in store.batches(["view", "split"]):
        chosen.append(start + np.flatnonzero(table["view"].to_numpy() == 0))
        for split in np.unique(table["split"].to_numpy(zero_copy_only=False)).tolist():
            ranges[split] = (ranges.get(split, (start, start))[0], start + len(table))
        start += len(table)
    return np.concatenate([np.empty(0, np.int64), *chosen]), ranges


def _trained(store: ImageStore, chosen: Int[np.ndarray, " N"], width: int) -> Any:
    """Cells and codes, learnt from 64 images a cell drawn by the seed, and enough for the codes."""
    faiss = load_faiss()
    cells = max(1, round(len(chosen) ** 0.5))
    pieces = max(m for m in range(1, max(1, width // 8) + 1) if width % m == 0)
    index = faiss.index_factory(width, f"IVF{cells},PQ{pieces}x8np", faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp):
        clustering.seed, clustering.min_points_per_centroid = SEED, 1
    sample = min(len(chosen), max(64 * cells, 64 * 256))
    drawn = np.sort(np.random.default_rng(SEED).choice(chosen, sample, replace=False))
    vectors = np.ascontiguousarray(store.rows(check_all=False)(drawn), np.float32)
    index.train(vectors[np.isfinite(vectors).all(axis=1)])
    return index


def _add(store: ImageStore, index: Any, blocks: Path) -> None:
    """Code all images, and write a block whenever one is full."""
    faiss = load_faiss()
    start, block = 0, faiss.clone_index(index)

    def write() -> None:
        faiss.write_index(block, str(blocks / f"{start:015d}.faiss"))
        block.reset()

    for table, matrix in progress(store.pieces(["view"]), what=f"index {store.dataset}", unit="piece"):
        kept = np.flatnonzero((table["view"].to_numpy() == 0) & np.isfinite(matrix).all(axis=1))
        block.add_with_ids(np.ascontiguousarray(matrix[kept], np.float32), (start + kept).astype(np.int64))
        start += len(table)
        if block.ntotal >= BLOCK:
            write()
    if block.ntotal:
        write()


def _merge(index: Any, blocks: list[Path], work: Path) -> int:
    """Join the blocks, which are mapped, into one file of lists; its bytes."""
    from faiss.contrib.ondisk import merge_ondisk

    with _silent():
        merge_ondisk(index, [str(block) for block in blocks], str(work / LISTS))
    return (work / LISTS).stat().st_size


def _about(folder: Path) -> About | None:
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        about = About(**found)
        return About(**{**found, "ranges": {s: (int(a), int(b)) for s, (a, b) in about.ranges.items()}})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _stale(about: About | None, folder: Path, content: str) -> str:
    """Why an index cannot be taken; nothing where it can."""
    if about is None:
        return "no index yet" if not folder.exists() else "the index is not whole"
    if about.content != content:
        return "the index is of another state of the store"
    if (about.faiss, about.format) != (load_faiss().__version__, FORMAT):
        return f"the index was built with FAISS {about.faiss}"
    lists = folder / LISTS
    if sha256_file(folder / INDEX) != about.index or (about.lists and lists.stat().st_size != about.lists):
        return "the index has changed on disk"
    return ""


def _opened(folder: Path) -> Any:
    faiss = load_faiss()
    with _silent():
        return faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what FAISS prints about its files out of a result on standard output."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _kept(rows: pa.Table, split: str | None) -> Bool[np.ndarray, " rows"]:
    kept: Bool[np.ndarray, " rows"] = rows["view"].to_numpy() == 0
    return kept if split is None else kept & (rows["split"].to_numpy(zero_copy_only=False) == split)
