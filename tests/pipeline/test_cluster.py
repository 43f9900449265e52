"""Stage one on a real Ray cluster of two nodes on this machine: the same bytes as without one, whatever goes wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from test_embed import TINY

from pipeline.cluster.workers import Workers
from pipeline.torchvision_mend import mend_torchvision
from stages import UserError
from stages.extras import installed
from stages.files import atomic_file
from stages.params import ClusterParams, EmbedParams

pytestmark = pytest.mark.skipif(not installed("ray"), reason="Ray is not installed")
EMBED = EmbedParams(batch=4, workers=0, part=8)
MEMORY = "--object-store-memory=100000000"


@dataclass
class Cluster:
    """Two nodes of one core: `left`, the head, and `right`, which sees other files and has what Ray takes for a GPU.

    Attributes:
        folder: with `packages`, a folder first on the path of `right`, and three whose place another one takes there.
        views: folder -> what `right` sees in its place.
    """

    address: str
    folder: Path
    views: dict[Path, Path]

    def params(self, **more: Any) -> ClusterParams:
        return ClusterParams(
            engine="ray", address=self.address, **{"cpus": 1, "gpus": 0, "batch": 4, "wait": 60.0} | more
        )

    @property
    def on_right(self) -> ClusterParams:
        """One worker, on `right`."""
        return self.params(workers=1, gpus=1)


def a_model(folder: Path, seed: int) -> str:
    """A small open_clip model with random weights, as a folder that open_clip reads."""
    mend_torchvision()
    import open_clip

    torch.manual_seed(seed)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return f"open_clip:local-dir:{folder}"


@contextmanager
def node(*arguments: str, log: Path, env: dict[str, str], before: str = "") -> Iterator[None]:
    """`ray start` in a process of its own, with a view of the file system of its own."""
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", MEMORY, *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f'{before} exec "$@"', "sh", *program],
            stdout=out, stderr=out, env={**os.environ, **env}, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for each in family:
            each.kill()
        process.wait()


def until(reached: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no process can have a file system of its own here")
    folder = tmp_path_factory.mktemp("c")
    views = {folder / name: folder / f"{name} of the second node" for name in ("model", "absent", "pictures")}
    for path in (*views, *views.values(), folder / "packages"):
        path.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.2:{port}"
    env = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    mounts = " ".join(f"mount --bind '{there}' '{here}' &&" for here, there in views.items())
    path = os.pathsep.join([str(folder / "packages"), os.environ.get("PYTHONPATH", "")])
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.2", "--node-name=left", "--num-cpus=1")
    second = (f"--address={address}", "--node-ip-address=127.0.0.3", "--node-name=right", "--num-cpus=1")
    with (
        node(*head, "--include-dashboard=false", "--num-gpus=0", log=folder / "left.log", env=env),
        node(*second, "--num-gpus=1", log=folder / "right.log", env={**env, "PYTHONPATH": path}, before=mounts),
    ):
        yield Cluster(address, folder, views)


# What the workers are handed below is sent by value: a cluster gets the code of this project, and not its tests.


@dataclass(frozen=True)
class Plain:
    """A worker without a model."""

    what: str = "nothing"
    fingerprint: str = "same"

    def load(self, threads: int | None) -> "Plain":
        return self


@dataclass(frozen=True)
class Number:
    value: int
    deadly: Path | None = None  # ends its worker; where this file is there, for the first time alone

    def mapped(self, model: Plain) -> tuple[int, int]:
        if self.deadly is not None and (not self.deadly.exists() or not self.deadly.read_text()):
            if self.deadly.exists():
                self.deadly.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.value**2, os.getpid()

    def __str__(self) -> str:
        return f"number {self.value}"


@dataclass(frozen=True)
class Writing:
    file: Path

    def mapped(self, model: Plain) -> None:
        with atomic_file(self.file) as work:
            work.write_bytes(b"x" * 2**20)


@dataclass(frozen=True)
class Broken:
    def mapped(self, model: Plain) -> None:
        raise ZeroDivisionError("no\nnumber")


@contextmanager
def workers(params: ClusterParams) -> Iterator[Workers]:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with closing(Workers(params, Plain(), threads=1)) as made:
        yield made


def test_results_come_in_order_from_both_nodes_and_the_backlog_is_bounded(cluster: Cluster, tmp_path: Path) -> None:
    taken = 0

    def numbers() -> Iterator[Number]:
        nonlocal taken
        for taken in range(1, 61):
            yield Number(taken)

    with workers(cluster.params(workers=2)) as made:
        found = []
        for found_one in made.map(numbers()):
            found.append(found_one)
            assert taken - len(found) <= 2 * 2 * 2
        assert [square for square, _ in found] == [value**2 for value in range(1, 61)]
        assert len({process for _, process in found}) == 2
        assert list(made.map([])) == []
        assert [square for square, _ in made.map([Number(3)])] == [9], "the same workers go on with the next"


def test_a_worker_that_dies_is_replaced_and_its_work_done_again_and_one_item_cannot_kill_them_all(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "once").write_text("")
    items = [Number(value, tmp_path / "once" if value == 5 else None) for value in range(20)]
    with workers(cluster.params(workers=2)) as made:
        assert [square for square, _ in made.map(items)] == [value**2 for value in range(20)]
        assert capsys.readouterr().err.count("has ended") == 1
        with pytest.raises(UserError, match=r"3 workers ended over number 7, the last one on node (left|right) \(127"):
            list(made.map([Number(7, tmp_path / "always")]))


def test_what_goes_wrong_on_a_node_is_one_line_that_names_it(cluster: Cluster, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with workers(cluster.params(workers=1)) as made:
            with pytest.raises(
                UserError, match=r"^node left \(127.0.0.2\): .*the disk is full: free some space"
            ) as caught:
                list(made.map([Writing(disk / "cache" / "store.parquet")]))
            assert "\n" not in str(caught.value)
            assert not [path for path in disk.rglob("*") if path.is_file()]
            with pytest.raises(UserError, match=r"^node left \(127.0.0.2\): ZeroDivisionError: no number$"):
                list(made.map([Broken()]))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
