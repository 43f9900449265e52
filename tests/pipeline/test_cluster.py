"""Stage one on a real Ray cluster of two nodes on this machine: the same bytes as without one, whatever goes wrong."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import COLOURS, picture
from safetensors.torch import save_file
from test_embed import TINY

from pipeline.cluster.connection import connected
from pipeline.cluster.encoding import ClusterEncoder
from pipeline.cluster.workers import Workers
from pipeline.embed import embed_images, embed_text
from pipeline.encoders import load_encoder
from pipeline.encoders.base import Encoder
from pipeline.ingest import ingest
from pipeline.torchvision_mend import mend_torchvision
from stages import ImageStore, UserError
from stages.extras import installed
from stages.files import atomic_file
from stages.params import ClusterParams, DataParams, EmbedParams

pytestmark = pytest.mark.skipif(not installed("ray"), reason="Ray is not installed")
EMBED = EmbedParams(batch=4, workers=0, part=8)
MEMORY = "--object-store-memory=100000000"


@dataclass
class Cluster:
    """Two nodes of two cores: `left`, the head, and `right`, which sees other files and has what Ray takes for a GPU.

    Attributes:
        folder: with `packages`, first on the path of `right`, `disk`, small there, and what `views` names.
        views: folder -> what `right` sees in its place.
    """

    address: str
    folder: Path
    views: dict[Path, Path]
    nodes: list[psutil.Process]

    def params(self, **more: Any) -> ClusterParams:
        return ClusterParams(engine="ray", address=self.address, **{"cpus": 1, "gpus": 0, "batch": 4} | more)

    def view(self, name: str) -> tuple[Path, Path]:
        """A folder, and what `right` sees in its place."""
        return next(pair for pair in self.views.items() if pair[0].name == name)

    @property
    def workers(self) -> list[psutil.Process]:
        found = []
        for each in (below for node in self.nodes for below in node.children(recursive=True)):
            with suppress(psutil.Error):  # one that ends just now
                found += [each] if any("ray::Worker" in word for word in each.cmdline()) else []
        return found

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
def node(*arguments: str, log: Path, env: dict[str, str], before: str = "") -> Iterator[psutil.Process]:
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
        yield psutil.Process(process.pid)
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for each in family:
            with suppress(psutil.Error):
                each.kill()
        process.wait()


def until(reached: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True, scope="module")
def _as_many_threads_as_a_worker() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no process can have a file system of its own here")
    folder = tmp_path_factory.mktemp("c")
    views = {folder / name: folder / f"{name} of the second node" for name in ("model", "absent", "pictures")}
    for path in (*views, *views.values(), folder / "packages", folder / "disk"):
        path.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.2:{port}"
    env = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    mounts = " ".join(f"mount --bind '{there}' '{here}' &&" for here, there in views.items())
    mounts += f" mount -t tmpfs -o size=100k tmpfs '{folder / 'disk'}' &&"
    path = os.pathsep.join([str(folder / "packages"), os.environ.get("PYTHONPATH", "")])
    head = ("--head", f"--port={port}", "--node-ip-address=127.0.0.2", "--node-name=left", "--num-cpus=2")
    second = (f"--address={address}", "--node-ip-address=127.0.0.3", "--node-name=right")
    room = ("--num-cpus=2", "--num-gpus=1")
    with (
        node(*head, "--include-dashboard=false", "--num-gpus=0", log=folder / "left.log", env=env) as left,
        node(*second, *room, log=folder / "right.log", env={**env, "PYTHONPATH": path}, before=mounts) as right,
    ):
        yield Cluster(address, folder, views, [left, right])


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

    def mapped(self, model: Plain) -> int:
        if self.deadly is not None and (not self.deadly.exists() or not self.deadly.read_text()):
            if self.deadly.exists():
                self.deadly.write_text("once")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.value**2

    def __str__(self) -> str:
        return f"number {self.value}"


@dataclass(frozen=True)
class Meeting:
    """Waits until two workers are at work."""

    folder: Path
    value: int

    def mapped(self, model: Plain) -> int:
        (self.folder / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        return self.value**2


@dataclass(frozen=True)
class Writing:
    file: Path

    def mapped(self, model: Plain) -> None:
        with atomic_file(self.file) as work:
            work.write_bytes(b"x" * 2**20)


@dataclass(frozen=True)
class Listing:
    folder: Path

    def mapped(self, model: Plain) -> list[str]:
        return [path.name for path in self.folder.rglob("*") if path.is_file()]


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

    def numbers() -> Iterator[Meeting]:
        nonlocal taken
        for taken in range(1, 41):
            yield Meeting(tmp_path, taken)

    with workers(cluster.params(workers=2)) as made:
        found = []
        for square in made.map(numbers()):
            found.append(square)
            assert taken - len(found) <= 2 * 2 * 2
        assert found == [value**2 for value in range(1, 41)]
        assert len(list(tmp_path.iterdir())) == 2
        assert list(made.map([])) == []
        assert list(made.map([Number(3)])) == [9], "the same workers go on with the next"


def test_a_worker_that_dies_is_replaced_and_its_work_done_again_and_one_item_cannot_kill_them_all(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "once").write_text("")
    items = [Number(value, tmp_path / "once" if value == 5 else None) for value in range(20)]
    with workers(cluster.params(workers=2)) as made:
        assert list(made.map(items)) == [value**2 for value in range(20)]
        assert capsys.readouterr().err.count("has ended") == 1
        with pytest.raises(UserError, match=r"3 workers ended over number 7, the last one on node (left|right) \(127"):
            list(made.map([Number(7, tmp_path / "always"), *map(Number, range(8, 20))]))


def test_what_goes_wrong_on_a_node_is_one_line_that_names_it(cluster: Cluster) -> None:
    disk = cluster.folder / "disk"
    with workers(cluster.on_right) as made:
        with pytest.raises(UserError, match=r"^node right \(127.*\): .*the disk is full: free some space") as caught:
            list(made.map([Writing(disk / "cache" / "store.parquet")]))
        assert "\n" not in str(caught.value)
        assert list(made.map([Listing(disk)])) == [[]], "nothing half-written"
        with pytest.raises(UserError, match=r"^node right \(127.0.0.3\): ZeroDivisionError: no number$"):
            list(made.map([Broken()]))


def test_a_cluster_of_another_ray_is_one_line(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    real = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.1.0")
    line = rf"^the Ray cluster at {cluster.address} has Ray {real} and Python 3\S+, this command Ray 2.1.0 and Python 3"
    with pytest.raises(UserError, match=line), connected(cluster.params()):
        pass


# Embeddings


@pytest.fixture(scope="module")
def encoder(cluster: Cluster) -> Encoder:
    """As this process and `left` have it; `right` has another version of it."""
    a_model(cluster.view("model")[1], seed=1)
    (cluster.folder / "everywhere").mkdir()
    a_model(cluster.folder / "model", seed=0)
    return load_encoder(a_model(cluster.folder / "everywhere", seed=0), device="cpu")


@pytest.fixture(scope="module")
def mapper(cluster: Cluster, encoder: Encoder) -> Iterator[ClusterEncoder]:
    """Two workers, one on each node."""
    with closing(ClusterEncoder(encoder, cluster.params(workers=2), device="auto", precision="auto")) as made:
        yield made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 20 pictures each, one of which is none, and the stores that this process makes of them."""
    folder = tmp_path_factory.mktemp("weaves")
    for name in ("red weave", "blue weave"):
        (folder / "weaves" / name).mkdir(parents=True)
        for i in range(20):
            picture(COLOURS[name], i).save(folder / "weaves" / name / f"{i:02d}.png")
    (folder / "weaves" / "red weave" / "07.png").write_text("no picture")
    ingest("w", str(folder / "weaves"), data=DataParams(), cache=folder / "cache")
    return folder


@pytest.fixture(scope="module")
def undisturbed(sources: Path, encoder: Encoder) -> dict[str, bytes]:
    cache = sources / "cache"
    embed_images("w", encoder, embed=EMBED, cache=cache)
    embed_text("w", encoder, data=DataParams(templates=["a {}.", "the {}."]), embed=EMBED, cache=cache)
    return stores(cache)


def stores(cache: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(cache)): file.read_bytes()
        for name in ("images", "text")
        for file in sorted((cache / name).rglob("*.parquet"))
    }


@pytest.fixture
def cache(sources: Path, tmp_path: Path) -> Path:
    """The manifest alone."""
    shutil.copytree(sources / "cache" / "manifest", tmp_path / "cache" / "manifest")
    return tmp_path / "cache"


class Killing:
    """Maps as another does, and kills a worker after the first image."""

    def __init__(self, mapper: ClusterEncoder, worker: psutil.Process) -> None:
        self.mapper, self.worker = mapper, worker

    def images(self, root: Path, rows: Any, embed: EmbedParams) -> Iterator[Any]:
        for place, found in enumerate(self.mapper.images(root, rows, embed)):
            if place == 0:
                self.worker.kill()
            yield found


def test_a_store_is_the_same_bytes_whether_a_worker_is_killed_or_not(
    cluster: Cluster, mapper: ClusterEncoder, encoder: Encoder, undisturbed: dict[str, bytes], cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    embed_text("w", encoder, data=DataParams(templates=["a {}.", "the {}."]), embed=EMBED, cache=cache, mapper=mapper)
    summary = embed_images("w", encoder, embed=EMBED, cache=cache, mapper=mapper)
    assert (summary.rows, len(summary.unreadable), summary.left_out) == (39, 1, [])
    assert stores(cache) == undisturbed
    shutil.rmtree(cache / "images")
    capsys.readouterr()
    summary = embed_images("w", encoder, embed=EMBED, cache=cache, mapper=Killing(mapper, cluster.workers[0]))
    assert "has ended" in capsys.readouterr().err
    assert stores(cache) == undisturbed
    assert not (cache / ".work").exists() or not any((cache / ".work").rglob("*.parquet"))


def test_the_parts_of_a_large_store_are_written_by_the_workers_that_see_the_cache_and_the_others_by_the_command(
    cluster: Cluster, mapper: ClusterEncoder, encoder: Encoder, sources: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hidden = cluster.view("pictures")[0] / "cache"  # from `right`
    shutil.copytree(cache, hidden)
    monkeypatch.setattr(ImageStore, "part_rows", 7)
    embed_images("w", encoder, embed=EMBED, cache=cache)
    embed_images("w", encoder, embed=EMBED, cache=hidden, mapper=mapper)
    found = stores(hidden)
    assert len(found) == 6
    assert found == stores(cache)


def test_an_image_that_one_node_alone_cannot_read_is_left_out_with_its_line_and_taken_by_the_next_call(
    cluster: Cluster, encoder: Encoder, undisturbed: dict[str, bytes], sources: Path, tmp_path: Path
) -> None:
    here, there = cluster.view("pictures")
    for folder in (here / "weaves", there / "weaves", here / "left alone"):
        shutil.copytree(sources / "weaves", folder)
    half = there / "weaves" / "blue weave" / "03.png"
    whole = half.read_bytes()
    half.write_bytes(b"half")
    with closing(ClusterEncoder(encoder, cluster.on_right, device="auto", precision="auto")) as right:
        ingest("w", str(here / "weaves"), data=DataParams(), cache=tmp_path)
        summary = embed_images("w", encoder, embed=EMBED, cache=tmp_path, mapper=right)
        assert summary.left_out == ["blue weave/03.png: undecodable: not an image that can be read"]
        half.write_bytes(whole)
        assert embed_images("w", encoder, embed=EMBED, cache=tmp_path, mapper=right).left_out == []
        assert stores(tmp_path).items() <= undisturbed.items()
        ingest("w", str(here / "left alone"), data=DataParams(), cache=tmp_path / "other")
        with pytest.raises(UserError, match=r"^node right \(127.0.0.3\): image folder .*left alone is not there"):
            embed_images("w", encoder, embed=EMBED, cache=tmp_path / "other", mapper=right)


def test_a_worker_with_another_model_or_none_or_other_packages_is_refused_by_the_name_of_its_node(
    cluster: Cluster, cache: Path
) -> None:
    def refused(name: str) -> str:
        encoder = load_encoder(f"open_clip:local-dir:{cluster.folder / name}", device="cpu")
        with (
            closing(ClusterEncoder(encoder, cluster.on_right, device="auto", precision="auto")) as right,
            pytest.raises(UserError) as caught,
        ):
            embed_images("w", encoder, embed=EMBED, cache=cache, mapper=right)
        assert "\n" not in str(caught.value)
        assert not (cache / "images").exists()
        return str(caught.value)

    a_model(cluster.folder / "absent", seed=0)
    assert re.match(r"node right \(127.0.0.3\): holds another version of encoder open_clip:.*", refused("model"))
    assert re.match(r"node right \(127.0.0.3\): .*absent.*", refused("absent"))
    other = cluster.folder / "packages" / "pillow-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.0\n")
    version = metadata.version("pillow")
    try:
        assert refused("everywhere") == (
            f"node right (127.0.0.3): has pillow 1.0, this command pillow {version}: install the same version on both, "
            "then run this again"
        )
    finally:
        shutil.rmtree(other)


DRIVER = """
import os, sys, time
from pathlib import Path
from pipeline.cluster.encoding import ClusterEncoder
from pipeline.embed import embed_images
from pipeline.encoders import load_encoder
from stages.params import ClusterParams, EmbedParams

name, params, embed, cache = sys.argv[1], *sys.argv[2:]
encoder = load_encoder(name, device="cpu")

class Stuck:
    def __init__(self, mapper):
        self.mapper = mapper
    def images(self, *all):
        for place, found in enumerate(self.mapper.images(*all)):
            if place == 20:
                (Path(cache) / "stuck").touch()
                time.sleep(300)
            yield found

mapper = ClusterEncoder(encoder, ClusterParams.model_validate_json(params), device="auto", precision="auto")
embed = EmbedParams.model_validate_json(embed)
embed_images("w", encoder, embed=embed, cache=Path(cache), mapper=Stuck(mapper))
"""


class Counting:
    """Maps as another does, and counts."""

    def __init__(self, mapper: ClusterEncoder) -> None:
        self.mapper, self.seen = mapper, 0

    def images(self, root: Path, rows: Any, embed: EmbedParams) -> Iterator[Any]:
        self.seen += len(rows)
        return self.mapper.images(root, rows, embed)


def test_the_command_killed_goes_on_with_a_second_call_and_meanwhile_nobody_else_writes_the_store(
    cluster: Cluster, mapper: ClusterEncoder, encoder: Encoder, undisturbed: dict[str, bytes], cache: Path
) -> None:
    about = (encoder.name, cluster.on_right.model_dump_json(), EMBED.model_dump_json(), str(cache))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *about])
    try:
        until(lambda: (cache / "stuck").exists() or driver.poll() is not None)
        with pytest.raises(UserError, match=r"`pipeline embed-images` \(process .* has been writing it since"):
            embed_images("w", encoder, embed=EMBED, cache=cache, mapper=mapper)
    finally:
        driver.kill()
        driver.wait()
    kept = len(list((cache / ".work").rglob("part-*.parquet")))
    assert kept in (1, 2)
    assert not (cache / "images").exists()
    counting = Counting(mapper)
    embed_images("w", encoder, embed=EMBED, cache=cache, mapper=counting)
    assert counting.seen == 39 - kept * EMBED.part
    assert stores(cache).items() <= undisturbed.items()
