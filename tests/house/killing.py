"""What the kill tests run in processes of their own, and how they kill them.

Imported by the fork server before anything else, so that each of the many processes starts with the heavy imports done.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from pipeline.torchvision_mend import mend_torchvision

mend_torchvision()
import open_clip  # noqa: E402, F401  (for the processes)
import torch  # noqa: E402

from pipeline.embed import embed_images, embed_text  # noqa: E402
from pipeline.encoders import load_encoder  # noqa: E402
from pipeline.ingest import ingest  # noqa: E402
from stages.params import DataParams, EmbedParams  # noqa: E402

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["killing"])
NAME, SEED = "w", 20


def do_ingest(source: Path, cache: Path) -> None:
    """The manifest of a folder of images."""
    ingest(NAME, str(source), data=DataParams(), cache=cache)


def do_images(encoder: str, embed: EmbedParams, cache: Path) -> None:
    """The image store."""
    multiprocessing.set_start_method("fork", force=True)  # the decoding processes, as they start in a command
    torch.set_num_threads(1)
    embed_images(NAME, load_encoder(encoder, device="cpu"), embed=embed, cache=cache)


def do_text(encoder: str, embed: EmbedParams, cache: Path) -> None:
    """The text stores of the templates and of every prompt source."""
    torch.set_num_threads(1)
    embed_text(NAME, load_encoder(encoder, device="cpu"), data=DataParams(), embed=embed, cache=cache)


@dataclass
class Story:
    """What happened until the work was done.

    Attributes:
        kills: processes that were killed while they ran.
        in_write: how many of them while a file was being written.
        kept: parts that were there after a kill, summed over the kills.
        redone: parts that were there after one kill and had been written again by the next.
    """

    kills: int = 0
    in_write: int = 0
    kept: int = 0
    redone: list[str] = field(default_factory=list)


def start_server() -> None:
    """Start the process that all others are forked from; it takes this module's imports with it."""
    with pytest.MonkeyPatch.context() as patch:  # the server does not get sys.path, but it reads this
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    warm = PROCESSES.Process(target=int)  # waits for the imports
    warm.start()
    warm.join()


def timed(work: Callable[..., None], *args: Any) -> float:
    """Let the work run undisturbed in a process of its own; seconds it took."""
    start = time.monotonic()
    process = PROCESSES.Process(target=work, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - start


def killed(
    work: Callable[..., None], *args: Any, cache: Path, stores: list[Path], kills: int, seconds: float, writes: int
) -> Story:
    """Start the work again and again and kill it, then let it finish.

    The moments are drawn over `seconds`, and every second time over the next `writes` files that it is seen to write.
    Where it finishes too soon, its stores are removed and it begins anew.
    """
    rng, story = random.Random(SEED), Story()
    before: dict[Path, tuple[int, int]] = {}
    while True:
        seen, n_writes = below(cache, ".part"), 0
        moment, nth_write = time.monotonic() + rng.uniform(0, seconds), rng.randint(1, writes)
        at_write, last = story.kills % 2 == 1, story.kills >= kills
        process = PROCESSES.Process(target=work, args=args)
        process.start()
        while process.is_alive() and not last:
            writing = below(cache, ".part")
            n_writes += len(writing - seen)
            seen |= writing
            if (n_writes >= nth_write and writing) if at_write else time.monotonic() >= moment:
                process.kill()
                story.kills += 1
                story.in_write += at_write
                break
        process.join()
        now = parts(cache)
        story.redone += [str(path) for path, mark in before.items() if path in now and now[path] != mark]
        if process.exitcode == 0:
            if last:
                return story
            for file in stores:
                file.unlink()
            now = {}
        else:
            assert process.exitcode == -9, process.exitcode
            story.redone += [f"{path} is gone" for path in before if path not in now and not _joined(path, cache)]
        story.kept += len(now)
        before = now


def parts(cache: Path) -> dict[Path, tuple[int, int]]:
    """The finished parts of unfinished stores, and what tells whether they were written again."""
    found = {}
    for path in sorted(below(cache / ".work", ".parquet")):
        with suppress(FileNotFoundError):
            found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def below(folder: Path, suffix: str) -> set[Path]:
    """Files of this suffix; unlike rglob it bears folders that go away meanwhile."""
    return {Path(here) / name for here, _, names in os.walk(folder) for name in names if name.endswith(suffix)}


def _joined(part: Path, cache: Path) -> bool:
    """Whether the store that a part belonged to is there: its parts are removed then."""
    kind, *_ = part.parent.parent.name.split("+")
    return any((cache / kind).rglob("part-0.parquet"))


def rests(cache: Path) -> list[str]:
    """Everything in a cache that is no store."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    return [str(path.relative_to(cache)) for path in files if path.name != "part-0.parquet" or ".work" in path.parts]
