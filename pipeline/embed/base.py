"""What embedding images and embedding sentences share."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.encoders.base import Encoder
    from stages import Provenance
    from stages.params import EmbedParams
    from stages.stores.parts import Joining, Parts


class Mapper(Protocol):
    """Where images and sentences become embeddings: in this process, or elsewhere (`pipeline.cluster`)."""

    def images(self, root: Path, rows: "pa.Table", embed: "EmbedParams") -> "Iterator[np.ndarray | str]":
        """Yield the embeddings (1 + views, D) of each image, in order, or why it cannot be read."""
        ...

    def texts(self, chunks: Iterable[list[str]]) -> Iterator[np.ndarray]:
        """Yield the embeddings (N, D) of each list of sentences, in order."""
        ...

    def join(self, write: "Joining", parts: range) -> None:
        """Have every part of a store written, in any order."""
        ...


def finish(parts: "Parts", count: int, provenance: "Provenance", mapper: Mapper | None) -> None:
    """Join the finished parts; those of a large store are written where they were made."""
    if mapper is not None and parts.rows > parts.store.part_rows:
        parts.finish_by(mapper.join, parts=count, provenance=provenance)
    else:
        parts.finish(parts.tables(count), provenance=provenance)


@dataclass(frozen=True)
class EmbedSummary:
    """What was embedded, for the user and for --json.

    Attributes:
        unreadable: images that `ingest` could not read, each with the reason.
        left_out: images that it could read and that cannot be read now; the next call tries them again.
        kinds: kind of text -> how many of it, of a store of text.
        reused: images whose embeddings an earlier store had.
        fault: why a source of sentences was not embedded, and its mend.
    """

    dataset: str
    store: str
    encoder: str
    rows: int
    note: str
    llm: str | None = None
    views: int = 0
    unreadable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    skipped: bool = False
    reused: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    fault: str = ""


def facts_of(encoder: "Encoder") -> dict[str, Any]:
    """What the provenance of a store says about the encoder that fills it."""
    return {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "width": encoder.width,
        "note": encoder.note,
    }


def no_vectors(width: int) -> np.ndarray:
    """Embeddings (0, width)."""
    return np.zeros((0, width), dtype=np.float32)
