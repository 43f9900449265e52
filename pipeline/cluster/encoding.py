"""Images and sentences to embeddings on a cluster, in the place of the encoder of this process."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.cluster.workers import Workers
from pipeline.embed.base import no_vectors
from stages.errors import UserError
from stages.params import ClusterParams, EmbedParams
from stages.stores.parts import Joining

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder


@dataclass(frozen=True, kw_only=True)
class EncoderJob:
    """A worker that holds an encoder."""

    what: str
    fingerprint: str
    name: str
    device: str
    precision: str

    def load(self, threads: int | None) -> "Encoder":
        """The encoder, on the worker's GPU, or computing with so many threads."""
        import torch

        from pipeline.encoders import load_encoder

        if threads is not None:
            torch.set_num_threads(threads)
        return load_encoder(self.name, device=self.device if threads is None else "cpu", precision=self.precision)


@dataclass(frozen=True)
class Pictures:
    """Some images of a manifest, whole batches of the encoder."""

    root: Path
    rows: pa.Table
    embed: EmbedParams

    def mapped(self, encoder: "Encoder") -> tuple[np.ndarray, list[str | None]]:
        """Embeddings (readable, 1 + views, D), and of each image why it could not be read."""
        from pipeline.embed.images import vectors

        if not self.root.exists():
            raise UserError(f"image folder {self.root} is not there: every node has to see it under this name")
        found = list(vectors(encoder, self.root, self.rows, self.embed))
        read = [each for each in found if not isinstance(each, str)]
        stacked = np.stack(read) if read else no_vectors(encoder.width)
        return stacked, [each if isinstance(each, str) else None for each in found]

    def __str__(self) -> str:
        return f"{len(self.rows)} images from {self.rows['path'][0].as_py()} on"


@dataclass(frozen=True)
class Sentences:
    """Some sentences."""

    texts: list[str]

    def mapped(self, encoder: "Encoder") -> np.ndarray:
        """Embeddings (N, D)."""
        return encoder.encode_text(self.texts).numpy()

    def __str__(self) -> str:
        return f"{len(self.texts)} sentences from {self.texts[0][:60]!r} on"


@dataclass(frozen=True)
class StorePart:
    """One part of a store whose pieces lie in the cache."""

    write: Joining
    index: int

    def mapped(self, encoder: "Encoder") -> bool:
        """Whether the part is written: not where the cache cannot be seen."""
        if not self.write.writer.folder.is_dir():
            return False
        self.write(self.index)
        return True

    def __str__(self) -> str:
        return f"part {self.index} of {self.write.writer.folder}"


class ClusterEncoder:
    """Maps images and sentences to embeddings with the workers of a cluster (`pipeline.embed.base.Mapper`).

    Args:
        encoder: as this process has it; the workers' fingerprints are compared with its own.
        device: of the workers, where they have GPUs.
    """

    def __init__(self, encoder: "Encoder", params: ClusterParams, *, device: str, precision: str) -> None:
        import torch

        job = EncoderJob(
            what=f"encoder {encoder.name}", fingerprint=encoder.fingerprint, name=encoder.name, device=device,
            precision=precision,
        )  # fmt: skip
        self._params = params
        self.workers = Workers(params, job, threads=torch.get_num_threads())

    def images(self, root: Path, rows: pa.Table, embed: EmbedParams) -> Iterator[np.ndarray | str]:
        """Yield the embeddings (1 + views, D) of each image, in order, or why it cannot be read."""
        at_once = max(1, embed.batch // (1 + embed.views))
        size = max(1, -(-self._params.batch // at_once)) * at_once
        # A worker decodes with threads: processes would have to be started for every item.
        own = embed.model_copy(update={"workers": 0})
        rows = rows.select(["path", "image_id"])
        items = (Pictures(root.absolute(), _alone(rows.slice(top, size)), own) for top in range(0, len(rows), size))
        for found, errors in self.workers.map(items):
            vectors = iter(found)
            for error in errors:
                yield error or next(vectors)

    def texts(self, chunks: Iterable[list[str]]) -> Iterator[np.ndarray]:
        """Yield the embeddings (N, D) of each list of sentences."""
        yield from self.workers.map(map(Sentences, chunks))

    def join(self, write: Joining, parts: range) -> None:
        """Have every part of a store written by the workers that see the cache, the others by this process."""
        everywhere = _absolute(write)
        done = self.workers.map(StorePart(everywhere, index) for index in parts)
        for index, written in zip(parts, done, strict=True):
            if not written:
                write(index)

    def close(self) -> None:
        """End the workers."""
        self.workers.close()


def _absolute(write: Joining) -> Joining:
    """The same with paths that hold in other working folders."""
    writer = replace(write.writer, folder=write.writer.folder.absolute())
    cuts = tuple(tuple((file.absolute(), first, rows) for file, first, rows in cut) for cut in write.cuts)
    return Joining(writer, cuts)


def _alone(rows: pa.Table) -> pa.Table:
    """The rows without the table that they are a part of: a slice would be sent with all of it."""
    return rows.take(pa.array(range(len(rows)))).combine_chunks()
