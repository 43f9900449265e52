"""Sources to manifests: one reader a file, the first that understands the source reads it."""

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.images import ImageError, open_rgb
from pipeline.ingest.base import Entry, Listing, Reader
from pipeline.ingest.coop import CoOpReader
from pipeline.ingest.exported import ExportedReader, import_manifest
from pipeline.ingest.folders import FolderReader
from pipeline.ingest.packaged import PackageReader
from stages import ManifestStore, Provenance, UserError
from stages.artifacts import SPLITS
from stages.command import progress
from stages.params import DataParams, SplitParams

READERS: tuple[Reader, ...] = (PackageReader(), CoOpReader(), FolderReader())

__all__ = ["READERS", "Entry", "Listing", "Reader", "Summary", "classes_hash", "ingest"]


@dataclass(frozen=True)
class Summary:
    """What `ingest` found, for the user and for --json."""

    dataset: str
    images: dict[str, int]
    classes: int
    unreadable: list[str]
    ignored: int
    duplicates: list[str]


def classes_hash(class_names: dict[int, str]) -> str:
    """sha256 over the class list; everything made from class names alone depends on it."""
    return hashlib.sha256(json.dumps(sorted(class_names.items()), ensure_ascii=True).encode()).hexdigest()


def ingest(dataset: str, source: str, *, data: DataParams, cache: Path) -> Summary:
    """Read a source and write the manifest store of `dataset`.

    Every file is decoded once: one that cannot be is kept as a row with its `error`, counted and listed.

    Raises:
        UserError: missing or empty source, one class only, two class folders of one name, no readable image.
    """
    store = ManifestStore(cache, dataset)
    exported = ExportedReader()
    if exported.matches(source):
        return _summary(dataset, import_manifest(store, source), ignored=0)
    reader = next((r for r in READERS if r.matches(source)), None)
    if reader is None:
        raise UserError(f"source {source!r} does not exist; name a folder of images, or package:conformal-clip-data")
    listing = reader.read(source, data.class_names)
    if len(listing.class_names) < 2:
        raise UserError(f"{source}: only one class ({listing.class_names[0]!r}); a classifier needs at least two")
    entries = _split(listing.entries, data.split)
    with ThreadPoolExecutor() as pool:
        facts = list(progress(pool.map(_look, entries), what=f"reading {dataset}", total=len(entries), unit="image"))
    rows = [
        {
            "image_id": entry.image_id,
            "path": entry.file.relative_to(listing.root).as_posix(),
            "class_id": entry.class_id,
            "class_name": entry.class_name,
            "split": entry.split,
            **fact,
        }
        for entry, fact in zip(entries, facts, strict=True)
    ]
    if all(row["error"] for row in rows):
        raise UserError(f"{source}: none of {len(rows)} files can be read as an image (first: {rows[0]['error']})")
    seeded = any(entry.split is None for entry in listing.entries)
    provenance = Provenance(
        store="manifest",
        dataset=dataset,
        content="",
        inputs={"classes": classes_hash(listing.class_names)},
        settings={
            "source": source,
            "root": str(listing.root),
            "class_names": {str(i): name for i, name in listing.class_names.items()},
            "split": data.split.model_dump() if seeded else "as found",
            **listing.settings,
        },
    )
    table = pa.Table.from_pylist(rows, schema=store.schema())
    store.write(table, provenance)
    return _summary(dataset, table, ignored=listing.ignored)


def _look(entry: Entry) -> dict[str, Any]:
    """Hash and decode one file."""
    try:
        digest = hashlib.sha256(entry.file.read_bytes()).hexdigest()
    except OSError as error:
        return {"width": None, "height": None, "sha256": None, "error": f"cannot be read: {error.strerror}"}
    try:
        image = open_rgb(entry.file)
    except ImageError as error:
        return {"width": None, "height": None, "sha256": digest, "error": str(error)}
    return {"width": image.width, "height": image.height, "sha256": digest, "error": None}


def _split(entries: list[Entry], split: SplitParams) -> list[Entry]:
    """Give every entry a split: its own, or one drawn per class by seed. Shares are rounded, train takes the rest."""
    without = [e for e in entries if e.split is None]
    if not without:
        return entries
    chosen: dict[str, str] = {}
    for class_id in sorted({e.class_id for e in without}):
        ids = sorted(e.image_id for e in without if e.class_id == class_id)
        order = np.random.default_rng([split.seed, class_id]).permutation(len(ids))
        n_test, n_val = round(split.test * len(ids)), round(split.val * len(ids))
        for rank, position in enumerate(order):
            chosen[ids[position]] = "test" if rank < n_test else "val" if rank < n_test + n_val else "train"
    return [e if e.split else Entry(e.file, e.image_id, e.class_id, e.class_name, chosen[e.image_id]) for e in entries]


def _summary(dataset: str, table: pa.Table, *, ignored: int) -> Summary:
    rows = table.to_pylist()
    seen: dict[str, set[str]] = {}
    for row in rows:
        if row["sha256"]:
            seen.setdefault(row["sha256"], set()).add(row["split"])
    across = {digest for digest, splits in seen.items() if len(splits) > 1}
    counts = Counter(row["split"] for row in rows if not row["error"])
    return Summary(
        dataset=dataset,
        images={split: counts[split] for split in SPLITS},
        classes=len({row["class_id"] for row in rows}),
        unreadable=[f"{row['path']}: {row['error']}" for row in rows if row["error"]],
        ignored=ignored,
        duplicates=sorted(row["image_id"] for row in rows if row["sha256"] in across),
    )
