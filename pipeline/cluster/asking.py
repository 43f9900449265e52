"""A language model on a cluster, in the place of vLLM in this process."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.cluster.workers import Workers
from pipeline.prompts.engines import Answer, EngineOptions, Request, Sampling
from pipeline.prompts.llms import ResolvedLLM
from stages.params import ClusterParams


@dataclass(frozen=True, kw_only=True)
class EngineJob:
    """A worker that holds a language model in vLLM."""

    what: str
    fingerprint: str
    name: str
    revision: str | None
    aliases: Mapping[str, str]
    options: EngineOptions

    def load(self, threads: int | None) -> Any:
        """The engine; on a CPU it computes with so many threads."""
        import os

        from pipeline.prompts.engines.vllm import VLLMEngine
        from pipeline.prompts.llms import resolve_llm
        from pipeline.prompts.process import before_torch

        before_torch()
        if threads is not None and threads < len(os.sched_getaffinity(0)):
            # Left alone, vLLM binds its threads to all cores, the same ones in every worker.
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        llm = resolve_llm(self.name, revision=self.revision, aliases=self.aliases)
        if llm.fingerprint != self.fingerprint:  # before minutes of loading
            return llm
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        return VLLMEngine(llm, self.options)


@dataclass(frozen=True)
class Questions:
    """One batch of requests: an answer leans a little on its batch."""

    requests: Sequence[Request]
    sampling: Sampling

    def mapped(self, engine: Any) -> list[list[Answer]]:
        """The answers to each request."""
        found: list[list[Answer]] = engine.generate(self.requests, self.sampling)
        return found

    def __str__(self) -> str:
        return f"{len(self.requests)} questions from {self.requests[0].question[:60]!r} on"


class ClusterEngine:
    """A language model that the workers of a cluster hold; implements `pipeline.prompts.engines.Engine`.

    Args:
        llm: as this process found it; the workers' fingerprints are compared with its own.
    """

    def __init__(
        self, llm: ResolvedLLM, options: EngineOptions, aliases: Mapping[str, str], params: ClusterParams
    ) -> None:
        import torch

        self.name, self.fingerprint, self.note = llm.name, llm.fingerprint, llm.note
        self.chats = True  # until a worker has loaded it
        self.refused: Sequence[str] = ()
        job = EngineJob(
            what=f"LLM {llm.name}", fingerprint=llm.fingerprint, name=llm.name,
            # A commit, so that all have the same; a folder has none.
            revision=llm.revision or options.revision, aliases=dict(aliases), options=options,
        )  # fmt: skip
        self.workers = Workers(params, job, gpus=options.tensor_parallel_size, threads=torch.get_num_threads())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        """Answer all requests, in their order, each `n` times; one call is one batch."""
        return next(self.generate_each([requests], sampling), [])

    def generate_each(self, batches: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[list[Answer]]]:
        """Answer batch by batch, in their order, several at once."""
        for answers in self.workers.map(Questions(batch, sampling) for batch in batches):
            self.chats = bool(self.workers.facts["chats"])
            yield answers

    def close(self) -> None:
        """End the workers."""
        self.workers.close()
