"""Free space where the run writes, against what it will write."""

import os
import shutil
from pathlib import Path

from pipeline.doctor.check import Check, size
from pipeline.doctor.sources import to_fetch
from pipeline.embed.images import AHEAD, worker_count
from pipeline.prompts.gguf_files import models_folder
from pipeline.registry import card
from stages import ImageStore, ManifestStore, UserError
from stages.params import Params

RESULTS = 20_000_000
"""Bytes of tables, figures and checkpoints of one data set, about."""
SHARED = Path("/dev/shm")


def check_disk(
    params: Params, cache: Path, results: Path, hub: Path, *, width: int | None, downloads: dict[str, int | None],
    convert: int,
) -> list[Check]:  # fmt: skip
    """One finding a place: free space, and whether what is to come fits; of places that one disk has no room for there
    is one finding together.

    Args:
        hub: the hub's cache.
        width: D of the settings' encoder, None where it is not known.
        downloads: bytes that the hub's models will take in its cache.
        convert: bytes that the packaged LLM will take beside the other converted models.
    """
    needs = {
        cache: _stores(params, cache, width),
        **_data(params, cache),
        results: RESULTS * len(params.datasets),
        hub: sum(bytes_ or 0 for bytes_ in downloads.values()),
        models_folder(): convert,
    }
    by_disk: dict[int, dict[Path, int]] = {}
    for place, need in needs.items():
        by_disk.setdefault(_existing(place).stat().st_dev, {})[place] = need
    return [check for on_disk in by_disk.values() for check in _on_one_disk(on_disk)]


def check_shared_memory(params: Params, *, side: int) -> Check:
    """Whether the processes that decode images can hand their pictures over; containers often have 64 MB for that."""
    workers = worker_count(params.embed.workers, cpu=not Path("/proc/driver/nvidia").exists())
    need = workers * (AHEAD + 1) * params.embed.batch * 3 * side * side * 4
    if not SHARED.is_dir() or not workers:
        return Check("shared memory", "ok", "none needed: no worker processes" if not workers else "not used here")
    free = shutil.disk_usage(SHARED).free
    text = f"{size(free)} free, about {size(need)} needed by {workers} worker process{'es' * (workers != 1)}"
    if free < need:
        return Check("shared memory", "fault", text, "run the container with --shm-size, or set embed.workers: 0")
    return Check("shared memory", "ok", text)


def _stores(params: Params, cache: Path, width: int | None) -> int:
    """Bytes of the image stores still to be made: the parts and the store that they are joined into."""
    bytes_each = {"float16": 2, "float32": 4}[params.embed.precision]
    total = 0
    for dataset in params.stored:
        if width is None or ImageStore(cache, dataset, params.encoder).exists():
            continue
        total += 2 * _images(dataset, cache) * (1 + params.embed.views) * width * bytes_each
    return total


def _images(dataset: str, cache: Path) -> int:
    """Images of a data set: of its manifest, or as published; 0 where nothing is known."""
    try:
        return len(ManifestStore(cache, dataset).read(["split"]))
    except UserError:  # no manifest yet
        known = card(dataset)
        return sum(known.images_of.values()) if known else 0


def _data(params: Params, cache: Path) -> dict[Path, int]:
    """Folder that data sets lie in -> bytes of what is still to be fetched into it: the archives and what they hold."""
    needs: dict[Path, int] = {}
    for dataset in params.stored:
        source = params.of(dataset).source
        if source is None or ManifestStore(cache, dataset).exists():
            continue
        need = 2 * sum(item.bytes or 0 for item in to_fetch(dataset, source))
        if need:
            place = Path(source).parent
            needs[place] = needs.get(place, 0) + need
    return needs


def _on_one_disk(needs: dict[Path, int]) -> list[Check]:
    """What is found of places on one disk, which share its free space."""
    checks = []
    free = shutil.disk_usage(_existing(next(iter(needs)))).free
    full = sum(needs.values()) > free
    for place, need in needs.items():
        there = _existing(place)
        if need and not os.access(there, os.W_OK):
            mend = "name another folder, or make it writable"
            checks.append(Check(f"disk {place}", "fault", f"{there} cannot be written to", mend))
        elif not (need and full):
            text = f"{size(free)} free" + (f", about {size(need)} needed" if need else "")
            checks.append(Check(f"disk {place}", "ok", text))
    if full:
        each = {place: need for place, need in needs.items() if need}
        listed = ", ".join(f"{place} {size(need)}" for place, need in each.items()) if len(each) > 1 else ""
        text = f"{size(free)} free, about {size(sum(each.values()))} needed" + (f" ({listed})" if listed else "")
        checks.append(Check(f"disk of {', '.join(map(str, each))}", "fault", text, "free some space"))
    return checks


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
