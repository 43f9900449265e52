"""The workers of a command: items go out to all of them with a bounded backlog, and what comes of them comes in order.

A worker whose process or machine ends is replaced, and the items it had are handed out again, so that nothing is lost
and nothing comes twice. Whoever holds an item, its result is the same: what decides it is in the item.
"""

import heapq
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import connected, node_names
from pipeline.cluster.worker import Fault, Item, Job, Started, Worker, installed_versions
from stages.command import say
from stages.errors import UserError
from stages.params import ClusterParams
from stages.stopping import as_stopped
from stages.text import counted

DEATHS = 3
"""Workers that may end over one item, or while they load their model, before the command does."""


@dataclass(order=True)
class _Task:
    """An item on its way: its place in the order, and the workers that ended while they had it."""

    index: int
    item: Item
    deaths: int = 0


class Workers:
    """Workers that hold one model; connects and starts them when the first item is there, and keeps them until `close`.

    Args:
        job: what each of them loads.
        gpus: GPUs a worker where the settings leave it open and the cluster has some.
        threads: that this process computes with on a CPU.

    Attributes:
        count: workers, once it has connected.
        facts: what they say about their model.
    """

    def __init__(self, params: ClusterParams, job: Job, *, gpus: int = 1, threads: int) -> None:
        self._params, self._job, self._gpus, self._threads = params, job, gpus, threads
        self._stack = ExitStack()
        self._ray: Any = None
        self._make: Any = None
        self.count = 0
        self._need = ""
        self._starting: dict[Any, Any] = {}
        self._at_work: dict[Any, int] = {}  # worker -> items it has
        self._nodes: dict[Any, str] = {}
        self._out: dict[Any, tuple[Any, _Task]] = {}
        self._early_deaths = 0
        self.facts: dict[str, Any] = {}

    def map(self, items: Iterable[Item]) -> Iterator[Any]:
        """What comes of each item, in their order.

        Raises:
            UserError: the cluster cannot be used, a worker is refused, or an item cannot be mapped; names the node.
        """
        tasks = (_Task(index, item) for index, item in enumerate(items))
        first = next(tasks, None)
        if first is None:
            return
        if self._ray is None:
            self._connect()
        again = [first]  # a heap: the earliest first
        done: dict[int, Any] = {}
        turn = 0
        try:
            while True:
                while turn in done:
                    yield done.pop(turn)
                    turn += 1
                while (again or len(done) + len(self._out) < self._window) and (worker := self._free()) is not None:
                    task = heapq.heappop(again) if again else next(tasks, None)
                    if task is None:
                        break
                    self._at_work[worker] += 1
                    self._out[worker.map.remote(task.item)] = worker, task
                if not self._out and not again:
                    return
                self._wait(done, again)
        finally:  # whoever takes no more results gets none of them with the next items
            for worker, _ in self._out.values():
                if worker in self._at_work:
                    self._at_work[worker] -= 1
            self._out.clear()

    def start(self) -> None:
        """Wait until every worker holds its model; `map` by itself begins with the first one.

        Raises:
            UserError: as `map`.
        """
        if self._ray is None:
            self._connect()
        while self._starting:
            self._wait({}, [])

    def close(self) -> None:
        """End the workers, and a cluster of our own with them."""
        for worker in (*self._starting.values(), *self._at_work):
            with suppress(self._ray.exceptions.RayError):  # the cluster has ended
                self._ray.kill(worker)
        self._starting.clear()
        self._at_work.clear()
        self._stack.close()
        self._ray = None

    @property
    def _window(self) -> int:
        """Items that may be out or wait for an earlier one."""
        return 2 * self.count * self._params.ahead

    def _free(self) -> Any:
        """The worker that has least to do, None where all have enough."""
        worker = min(self._at_work, key=self._at_work.__getitem__, default=None)
        return None if worker is None or self._at_work[worker] >= self._params.ahead else worker

    def _connect(self) -> None:
        """Join the cluster and start the workers.

        Raises:
            UserError: the cluster has no room for one worker, or this machine not for as many as are asked for.
        """
        self._require_cores()
        self._ray = self._stack.enter_context(connected(self._params))
        has = self._ray.cluster_resources()
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        asked = self._params
        gpus = (self._gpus if has.get("GPU") else 0) if asked.gpus == "auto" else asked.gpus
        cpus: int = asked.cpus if asked.cpus != "auto" else _cores(nodes, gpus, self._threads)
        room = sum(_fits(node, cpus, gpus) for node in nodes)
        self._need = f"a worker takes {counted(cpus, 'CPU core')}" + (f" and {_gpus(gpus)}" if gpus else "")
        cores = counted(int(has.get("CPU", 0)), "core")
        offers = f"the cluster has {cores} and {_gpus(has.get('GPU', 0))} on {counted(len(nodes), 'node')}"
        self.count = room if asked.workers == "auto" else asked.workers
        short = f"{self._need}, and {offers}: room for {room}: lower cluster.cpus, cluster.gpus or cluster.workers"
        if not self.count or (self.count > room and asked.address is None):
            raise UserError(short)
        if self.count > room:  # a cluster may grow
            say(f"{short}; the others start when there is more")
        threads = None if gpus else cpus
        # Beside a GPU one item is decoded while another is computed.
        actor = self._ray.remote(Worker).options(
            num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD", max_concurrency=2 if gpus else 1
        )
        if threads not in (None, self._threads):
            say(
                f"workers compute with {counted(threads or 0, 'thread')}, this process with {self._threads}: the last "
                "bits may differ from those of a local run (cluster.cpus)"
            )
        names = node_names(self._ray)
        self._make = lambda: actor.remote(self._job, installed_versions(), threads, names)
        for _ in range(self.count):
            self._start_one()

    def _require_cores(self) -> None:
        """Tell what cannot be on this machine before a cluster is started on it, which takes many seconds.

        Raises:
            UserError: it has fewer cores than the settings' numbers take.
        """
        asked, ray = self._params, sys.modules.get("ray")
        if asked.address is not None or (ray is not None and ray.is_initialized()):
            return
        there = os.cpu_count() or 1
        beside_gpus = asked.gpus != 0 and Path("/proc/driver/nvidia").exists()
        cpus: int = asked.cpus if asked.cpus != "auto" else 1 if beside_gpus else min(self._threads, there)
        workers = 1 if asked.workers == "auto" else asked.workers
        if workers * cpus > there:
            raise UserError(
                f"{counted(workers, 'worker')} of {counted(cpus, 'CPU core')} each, and this machine has "
                f"{counted(there, 'core')}: lower cluster.cpus or cluster.workers"
            )

    def _start_one(self) -> None:
        worker = self._make()
        self._starting[worker.start.remote()] = worker

    def _wait(self, done: dict[int, Any], again: list[_Task]) -> None:
        """Wait for whatever comes next: a result, a worker that has started, or one that has ended."""
        since = time.monotonic()
        while True:
            with as_stopped():
                ready, _ = self._ray.wait([*self._starting, *self._out], num_returns=1, timeout=1.0)
            if ready:
                break
            if not self._at_work and time.monotonic() - since > self._params.wait:
                has = self._ray.available_resources()
                raise UserError(
                    f"no worker could start within {self._params.wait:g} s: {self._need}, and of the cluster "
                    f"{counted(int(has.get('CPU', 0)), 'core')} and {_gpus(has.get('GPU', 0))} are free: see `ray "
                    "status`, or give cluster.wait"
                )
        for ref in ready:
            if ref in self._starting:
                self._started(ref)
            else:
                self._returned(ref, done, again)

    def _started(self, ref: Any) -> None:
        worker = self._starting.pop(ref)
        try:
            found = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._early_deaths += 1
            if self._early_deaths >= DEATHS:
                raise UserError(f"workers end while they load {self._job.what}: {_cause(error)}") from error
            self._start_one()
            return
        if isinstance(found, Fault):
            raise _refused(found)
        assert isinstance(found, Started)
        self.facts, self._early_deaths = found.facts, 0
        self._at_work[worker], self._nodes[worker] = 0, found.node

    def _returned(self, ref: Any, done: dict[int, Any], again: list[_Task]) -> None:
        worker, task = self._out[ref]
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # not in our code, which returns its faults
            raise UserError(f"node {self._nodes[worker]}: {_cause(error)}") from error
        except self._ray.exceptions.RayError as error:
            self._lost(worker, error)
            del self._out[ref]
            heapq.heappush(again, task)
            return
        del self._out[ref]
        if isinstance(result, Fault):
            raise _refused(result)
        self._at_work[worker] -= 1
        done[task.index] = result

    def _lost(self, worker: Any, error: Exception) -> None:
        """A worker has ended: say so once, and start another.

        Raises:
            UserError: the item that it had in work has ended too many.
        """
        if self._at_work.pop(worker, None) is None:
            return
        self._ray.kill(worker)  # one that is only out of reach would keep its cores
        where, why = self._nodes[worker], _cause(error)
        task = next(task for at, task in self._out.values() if at is worker)
        task.deaths += 1
        if task.deaths >= DEATHS:
            raise UserError(
                f"{task.deaths} workers ended over {task.item}, the last one on node {where}: {why}"
            ) from error
        say(f"a worker on node {where} has ended ({why}): its work is done again by another")
        self._start_one()


def _cores(nodes: list[dict[str, float]], gpus: float, threads: int) -> int:
    """CPU cores a worker: an equal share of those beside the GPUs; without these as many as this process has."""
    if not gpus:
        return max(1, min(threads, int(max((node.get("CPU", 0) for node in nodes), default=1))))
    shares = [node.get("CPU", 0) * gpus / node["GPU"] for node in nodes if node.get("GPU", 0) >= min(gpus, 1)]
    return max(1, int(min(shares, default=1)))


def _gpus(count: float) -> str:
    return f"{count:g} GPU{'s' * (count != 1)}"


def _fits(node: dict[str, float], cpus: int, gpus: float) -> int:
    """Workers that a node has room for."""
    by_gpu = int(node.get("GPU", 0) / gpus + 1e-9) if gpus else 1 << 30
    return min(int(node.get("CPU", 0) // cpus), by_gpu)


def _refused(fault: Fault) -> UserError:
    error = UserError(f"node {fault.node}: {fault.line}", exit_code=fault.exit_code)
    if fault.trace:
        error.__cause__ = RuntimeError(fault.trace)
    return error


def _cause(error: Exception) -> str:
    """A few words on why a worker is gone."""
    text = str(error)
    if "memory" in text.lower() and "oom" in text.lower() and "Worker exit detail" not in text:
        return "out of memory"
    exit_type = text.partition("Worker exit type: ")[2].split()[:1]
    detail = text.partition("Worker exit detail: ")[2].partition(". ")[0]
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return detail or " ".join(exit_type) or first[:200]
