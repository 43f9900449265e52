"""What embedding images and embedding sentences share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import Provenance
from stages.artifacts import Store

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder


@dataclass(frozen=True)
class Summary:
    """What was embedded, for the user and for --json; `fault` says why a source was not, and its mend."""

    dataset: str
    store: str
    encoder: str
    rows: int
    note: str
    llm: str | None = None
    views: int = 0
    unreadable: list[str] = field(default_factory=list)
    skipped: bool = False
    fault: str = ""


def origin_of(store: Store, encoder: "Encoder", **more: Any) -> Provenance:
    """The provenance of a store that `encoder` is about to fill."""
    return Provenance(
        store=store.name,
        dataset=store.dataset,
        content="",
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        width=encoder.width,
        note=encoder.note,
        **more,
    )


def no_vectors(width: int) -> np.ndarray:
    """Embeddings (0, width)."""
    return np.zeros((0, width), dtype=np.float32)
