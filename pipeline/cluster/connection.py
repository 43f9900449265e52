"""Being part of a Ray cluster while a command runs: one of its own on this machine, or one that has an address.

Quiet and shut off: no usage statistics, no dashboard, a cluster of our own listens on the loopback address alone and
asks for Ray's token. A cluster that cannot be used is one line within seconds; left alone, Ray tries for minutes.
"""

import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pipeline
import stages
from stages.errors import UserError
from stages.params import ClusterParams
from stages.stopping import SIGNALS, as_stopped

SECONDS = 3.0
"""A cluster that is silent for longer is none."""
OBJECTS = 256 * 2**20
"""Shared memory of a cluster of our own, bytes: what is handed over lies in it for a moment."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a gRPC client says first; the answer of any gRPC server begins with a frame of type 4 (RFC 9113, 3.4)."""
START = "start one with `ray start --head`, or leave the address away to have one for this command alone"


def check_address(params: ClusterParams) -> None:
    """Tell at once, before a model is loaded, that no cluster is at the address.

    Raises:
        UserError: nothing listens there, or something that is no Ray cluster; (exit code 2) no address.
    """
    address = params.address
    if address in (None, "auto"):
        return
    host, colon, port = str(address).rpartition(":")
    if not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65_536):
        raise UserError(f"cluster.address {address!r}: expected HOST:PORT, such as 10.0.0.1:6379, or auto", exit_code=2)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), SECONDS) as line:
            if os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
                return
            line.sendall(PREFACE)
            head = line.recv(9)
    except TimeoutError as error:
        raise UserError(f"no Ray cluster answers at {address}: {START}") from error
    except OSError as error:
        raise UserError(f"nothing listens at {address} ({error.strerror or error}): {START}") from error
    if len(head) < 4 or head[3] != 4:
        raise UserError(f"what listens at {address} is no Ray cluster: {START}")


@contextmanager
def connected(params: ClusterParams) -> Iterator[Any]:
    """The module `ray`, connected while the block runs; as it is where this process is connected already.

    Raises:
        UserError: the cluster cannot be used; the line says which version, address or token is the wrong one.
    """
    check_address(params)
    own = params.address is None
    _set_up(own=own)
    import ray

    if ray.is_initialized():  # a program that is part of a cluster stays so
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    if own:
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS}
    else:
        code = [str(Path(each.__file__ or "").parent) for each in (stages, pipeline)]
        settings |= {"address": params.address, "runtime_env": {"py_modules": code, "env_vars": _environment()}}
    with tempfile.TemporaryFile() as said, as_stopped(), _signals_kept(), _stderr_to(said):
        try:
            ray.init(**settings)
        except Exception as error:
            said.seek(0)
            raise UserError(_refusal(params.address, f"{error}\n{said.read().decode(errors='replace')}")) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _set_up(*, own: bool) -> None:
    """What Ray reads when it is imported, unless the user has set it."""
    wanted = dict.fromkeys(("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"), "0")
    wanted["RAY_NUM_REDIS_GET_RETRIES"] = "5"  # seconds that it tries to connect
    if own:
        # Ray's own switch for machines that are no cluster: all its servers then listen on the loopback address.
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        wanted |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the command without a word."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


@contextmanager
def _stderr_to(file: IO[bytes]) -> Iterator[None]:
    """Keep what Ray's native code says while it connects: a line a second where it cannot."""
    sys.stderr.flush()
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def node_names(ray: Any) -> dict[str, str]:
    """Node id -> what people know a node by: its name and its address."""
    found = {}
    for node in ray.nodes():
        name, address = node["NodeName"], node["NodeManagerAddress"]
        found[node["NodeID"]] = address if name == address else f"{name} ({address})"
    return found


def _environment() -> dict[str, str]:
    """How threads of a worker wait, as in this process (`stages.command`, `pipeline.prompts.process`)."""
    return {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"), "TORCH_CPP_LOG_LEVEL": "ERROR"}


def _refusal(address: str | None, text: str) -> str:
    """One line on why Ray would not connect."""
    where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
    if "ersion mismatch" in text and len(versions) == 2:
        (their_ray, their_python), (our_ray, our_python) = versions
        return (
            f"{where} has Ray {their_ray} and Python {their_python}, this command Ray {our_ray} and Python "
            f"{our_python}: install the same versions on both"
        )
    if "AuthToken" in text or ("auth" in text.lower() and "token" in text.lower()):
        return f"{where} asks for its token: RAY_AUTH_MODE=token, and ~/.ray/auth_token or RAY_AUTH_TOKEN of its head"
    if address == "auto":
        return f"no Ray cluster runs on this machine: {START}"
    if address is None:
        slow = "timed out" in text or "overloaded" in text
        said = "did not start in time" if slow else f"did not start ({_first(text)})"
        return (
            f"{where} {said}: the machine may be busy, or out of memory or disk; run this again when it has less to "
            "do, or leave --engine ray away"
        )
    return f"{where} cannot be used: {_first(text)}"


def _first(text: str) -> str:
    """Ray's first line, without its end where it is long."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    return first if len(first) <= 160 else f"{first[:157]}..."
