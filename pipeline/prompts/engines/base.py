"""What an LLM engine is: questions in, answers out, in the same order, one seed a request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn (CuPL protocol, section 3.1 of the paper)."""

    temperature: float = 0.99
    top_p: float = 1.0
    max_tokens: int = 50


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to be answered `n` times, reproducibly: the same seed gives the same answers."""

    question: str
    seed: int
    n: int = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The raw text an LLM gave to one request, before any cleaning; `n_tokens` is None where a server does not say."""

    text: str
    n_tokens: int | None
    finish_reason: str


class Engine(Protocol):
    """A loaded language model.

    Attributes:
        name: as the user wrote it (`smollm2`, `llama3`, a hub id, a folder).
        fingerprint: what pins the weights: a sha256 (hex), a hub commit, or what a server calls its model.
        note: one honest line that every output repeats, empty when there is nothing to say.
        chats: whether questions go through a chat template; a server's model is known to have none once it was asked.
        refused: settings of a request that a server turned out not to take, `seed` for one; they were left out.
    """

    name: str
    fingerprint: str
    note: str
    chats: bool
    refused: Sequence[str]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Answer]]:
        """Answer all requests, in their order, each `n` times. One call is one batch, answered whole or not at all."""
        ...

    def close(self) -> None:
        """Free the model and its memory."""
        ...


@runtime_checkable
class ManyAtOnce(Protocol):
    """An engine that has several batches answered at once, each by another of its workers."""

    def generate_each(self, batches: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[list[Answer]]]:
        """Answer batch by batch, in their order, as `Engine.generate` does."""
        ...


def answered(engine: Engine, batches: Iterable[Sequence[Request]], sampling: Sampling) -> Iterator[list[list[Answer]]]:
    """The answers to each batch, in their order."""
    if isinstance(engine, ManyAtOnce):
        return engine.generate_each(batches, sampling)
    return (engine.generate(batch, sampling) for batch in batches)
