"""Finished fits on disk, so that an interrupted run goes on where it was and ends with the same bytes.

A fit takes seconds and depends on nothing but its method, settings, task and seed: it is kept whole, or not at all.
One safetensors file each; the predictor's tree and the hash of what decides it stand in its header. Never pickle.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stages.files import write_bytes
from trainer.data import Images, Task, Unlabelled
from trainer.data.features import StoredFeatures
from trainer.data.pairs import CaptionTask
from trainer.multilabel.data import LabelTask
from trainer.packing import canonical, pack, unpack
from trainer.several.tasks import SeveralTask

FITS_A_PROCESS = 12
"""Fewer fits than this a process are not worth starting it."""
LONG_FITS_AT_ONCE = 4
"""Processes that hold a language model each, where `--jobs` does not say."""


@dataclass(frozen=True)
class FinishedFits:
    """The fits of one run.

    Args:
        folder: where they lie; made when the first one is kept.
    """

    folder: Path

    def file(self, method: Any, task: Task | CaptionTask | SeveralTask | LabelTask, seed: int) -> Path:
        """Where this fit lies: its name is a hash of everything that decides it."""
        digest = hashlib.sha256(json.dumps([_code(), seed, pack(method)[0]], sort_keys=True).encode())
        if isinstance(task, CaptionTask | LabelTask):
            digest.update(task.digest)
        elif isinstance(task, SeveralTask):
            for name, each in task.tasks.items():
                digest.update(json.dumps([name, name == task.own]).encode())
                digest.update(_digest(each))
        else:
            digest.update(_digest(task))
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def load(self, file: Path, *, device: torch.device | str = "cpu") -> tuple[Any, float] | None:
        """A finished fit and its seconds; None where there is none, none that can be read, or one of something else."""
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                about = opened.metadata()
            if about["key"] != file.stem or about["seal"] != _seal(about, tensors):
                return None
            predictor = unpack(json.loads(about["predictor"]), tensors)
            return predictor, float(about["seconds"])
        except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError):
            return None

    def keep(self, file: Path, predictor: Any, seconds: float) -> None:
        """Write a finished fit in one step.

        Args:
            file: of `file`, for what was fitted.

        Raises:
            UserError: the folder cannot be written, or the disk is full.
        """
        tree, tensors = pack(predictor)
        cpu = {name: value.cpu() for name, value in tensors.items()}
        about = {"key": file.stem, "predictor": json.dumps(tree), "seconds": repr(seconds)}
        write_bytes(file, save(cpu, metadata=about | {"seal": _seal(about, cpu)}))


def timed_fit(method: Any, task: Task | CaptionTask | SeveralTask | LabelTask, seed: int) -> tuple[Any, float]:
    """One fit with one thread, as a file would give it back, and its seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = perf_counter()
    try:
        return canonical(method.fit(task, seed=seed)), perf_counter() - start
    finally:
        torch.set_num_threads(threads)


def processes(features: StoredFeatures, fits: int, asked: int | None, *, long: bool = False) -> int:
    """Processes to start: none beside this one for a handful of fits, or where a GPU does the work.

    Args:
        long: each fit takes minutes, and a copy of a language model.
    """
    if features.device.type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0))
    if long:
        return max(1, min(asked or min(cores, LONG_FITS_AT_ONCE), fits))
    return min(asked or cores, max(1, fits // FITS_A_PROCESS))


def fit_or_load(
    fits: Sequence[tuple[Any, Any, int]], *, jobs: int, keep: Path | None, device: torch.device
) -> Iterator[tuple[Any, float]]:
    """All fits, in their order: those that an interrupted run finished from disk, the others new, each kept at once."""
    if keep is None:
        yield from _fit_all(fits, jobs=jobs)
        return
    finished = FinishedFits(keep)
    files = [finished.file(*each) for each in fits]
    each_once = dict(zip(reversed(files), reversed(fits), strict=True))  # captioning and vqa learn the same
    kept = {file: finished.load(file, device=device) for file in files}  # once: the folder may be cleared meanwhile
    fresh = _fit_all([each_once[file] for file, found in kept.items() if found is None], jobs=jobs)
    for file in files:
        found = kept[file]
        if found is None:
            found = kept[file] = next(fresh)
            finished.keep(file, *found)
        yield found


def _fit_all(fits: Sequence[tuple[Any, Any, int]], *, jobs: int) -> Iterator[tuple[Any, float]]:
    """All fits, in their order, as they get ready."""
    if jobs == 1:
        return (timed_fit(*each) for each in fits)
    from joblib import Parallel, delayed, parallel_config

    # a process that has grown large is replaced between two fits, and nothing is lost by it
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
    with parallel_config("loky", inner_max_num_threads=1):
        ready: Iterator[tuple[Any, float]] = Parallel(n_jobs=jobs, return_as="generator")(
            delayed(timed_fit)(*each) for each in fits
        )
        return ready


@functools.cache
def _code() -> str:
    """sha256 over the trainer's own code and torch's version: another version's fits are not taken."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _seal(about: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash over a fit, so that one with a changed bit is fitted again."""
    digest = hashlib.sha256(json.dumps([about[name] for name in ("key", "predictor", "seconds")]).encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _digest(task: Task) -> bytes:
    """A hash of all that is in a task."""
    digest = hashlib.sha256(json.dumps([task.text.names, task.text.is_text]).encode())
    text = [task.text.template, task.text.templates, task.text.prompts, task.text.mask]
    further = [] if task.unlabelled is None else _tensors(task.unlabelled)
    digest.update(b"transductive" if task.transductive else b"")
    for tensor in [*text, *_tensors(task.train), *_tensors(task.val), *further]:
        digest.update(b"-" if tensor is None else f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(_bytes(tensor))
    return digest.digest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _tensors(images: Images | Unlabelled) -> list[torch.Tensor | None]:
    labels = [images.labels] if isinstance(images, Images) else []
    return [images.embeddings, *labels, images.views, images.student]
