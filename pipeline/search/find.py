"""From a sentence or a picture to the nearest images or sentences of the stores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32

from pipeline.search.exact import nearest_rows
from stages import ImageStore, ManifestStore, TextStore, UserError, nearest, slug
from stages.command import say
from stages.extras import installed
from stages.stores.artifacts import Store, embedding_matrix, encoder_of, partition_values, read_together
from stages.stores.provenance import NAMED, named_fingerprint

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder


@dataclass(frozen=True)
class ImageHit:
    """One image that was found.

    Attributes:
        rank: from 1.
        score: cosine with the query.
        root: folder of the image files; None where the data set came without pixels.
        path: below the root.
    """

    rank: int
    score: float
    dataset: str
    image_id: str
    class_name: str
    split: str
    root: str | None
    path: str

    @property
    def place(self) -> str:
        """The path as a user would open it."""
        return f"{self.root}/{self.path}" if self.root else self.path


@dataclass(frozen=True)
class SentenceHit:
    """One sentence that was found; `llm` is its source, `none` for templates, captions, questions and answers."""

    rank: int
    score: float
    dataset: str
    llm: str
    kind: str
    prompt_id: str
    class_name: str
    image_id: str | None
    text: str


def image_stores(cache: Path, encoder: str, dataset: str | None = None) -> list[ImageStore]:
    """The image stores of an encoder: of one data set, or of all there are.

    Raises:
        UserError: there is none, or it does not belong to its manifest.
    """
    encoder = encoder if dataset is None else encoder_of(cache, dataset, encoder)
    found = [ImageStore(cache, name, encoder) for name in _datasets(cache, dataset, ImageStore)]
    stores = [s for s in found if dataset is not None or s.exists()]
    if not stores:
        raise _nothing(cache, encoder, ImageStore, "embed-images")
    for store in stores:
        read_together(ManifestStore(cache, store.dataset), store)
    return stores


def sentence_stores(cache: Path, encoder: str, dataset: str | None = None) -> list[TextStore]:
    """The text stores of an encoder, every source: of one data set, or of all there are.

    Raises:
        UserError: there is none, or it does not belong to its manifest.
    """
    encoder = encoder if dataset is None else encoder_of(cache, dataset, encoder)
    stores = [
        TextStore(cache, name, encoder, source)
        for name in _datasets(cache, dataset, TextStore)
        for source in partition_values(cache, TextStore, "llm", dataset=name, encoder=encoder)
    ]
    if not stores:
        raise _nothing(cache, encoder, TextStore, "embed-text")
    for store in stores:
        read_together(ManifestStore(cache, store.dataset), store)
    return stores


def embed_query(encoder: "Encoder", *, text: str | None = None, image: Path | None = None) -> Float32[np.ndarray, " D"]:
    """The embedding of a sentence or of a picture file, length 1.

    Raises:
        UserError: the file cannot be read as a picture.
    """
    import torch

    from pipeline.images import ImageError, open_rgb

    with torch.inference_mode():
        if image is None:
            return np.asarray(encoder.encode_text([text or ""])[0].numpy(), np.float32)
        try:
            pixels = encoder.preprocess(open_rgb(image))
        except ImageError as error:
            raise UserError(f"{image}: cannot be read as a picture ({error})") from error
        return np.asarray(encoder.encode_images(pixels[None])[0].numpy(), np.float32)


def stored_query(stores: Sequence[ImageStore], image_id: str) -> Float32[np.ndarray, " D"]:
    """The embedding of an image that is in one of the stores.

    Raises:
        UserError: it is in none of them, or in several.
    """
    found = []
    for store in stores:
        table = store.read(["view", "embedding"], where={"image_id": [image_id]})
        found += [(store, row) for row in embedding_matrix(table["embedding"])[table["view"].to_numpy() == 0]]
    if len(found) != 1:
        where = ", ".join(store.dataset for store, _ in found) or ", ".join(store.dataset for store in stores)
        what = "is in several data sets" if found else "is in no store"
        mend = "name one with --dataset" if found else "the manifest has all in its column image_id"
        raise UserError(f"image {image_id[:120]!r} {what} ({where[:200]}): {mend}")
    vector = found[0][1].astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def require_known_encoder(stores: Sequence[Store], known: Sequence[str]) -> None:
    """Tell at once where the query cannot be embedded, since the encoder of the stores was only ever named.

    Raises:
        UserError: names it, and what can be searched for instead.
    """
    for store in stores:
        found = store.provenance()
        unknown = not (found.encoder or "").startswith(tuple(name.partition(":")[0] for name in known))
        if (found.encoder_fingerprint or "").startswith(NAMED) and unknown:
            raise UserError(
                f"{store.dataset} came as embeddings of {found.encoder}, an encoder that is not at hand to embed the "
                "query: search by an image of the stores, with --like IMAGE_ID"
            )


def check_encoder(stores: Sequence[Store], encoder: "Encoder") -> None:
    """Check that the query is embedded as the stores were.

    Raises:
        UserError: other weights, preprocessing or tokenizer.
    """
    for store in stores:
        found = store.provenance()
        if found.encoder_fingerprint == named_fingerprint(encoder.name, encoder.width):
            continue  # what the embeddings were named as is at hand; that they are so, nobody can tell
        if found.encoder_fingerprint != encoder.fingerprint:
            raise UserError(
                f"{store.file} was embedded with {found.encoder} ({(found.encoder_fingerprint or '')[:12]}), the query "
                f"with {encoder.name} ({encoder.fingerprint[:12]}): run `{store.made_by.format(**store.partitions)}` "
                "again"
            )


def find_images(
    stores: Sequence[ImageStore],
    query: Float32[np.ndarray, " D"],
    *,
    top: int,
    split: str | None = None,
    approximate: bool = False,
    index: bool | None = False,
) -> list[ImageHit]:
    """The images (view 0) of highest cosine over all stores, best first.

    Args:
        approximate: through a FAISS index in memory, which is built first and may miss some.
        index: through one on disk, which is built where there is none and may miss some; None: where a store is large.

    Raises:
        UserError: a store is missing or damaged, or FAISS is not installed.
    """

    def keep(piece: pa.Table) -> Bool[np.ndarray, " N"]:
        kept: Bool[np.ndarray, " N"] = piece["view"].to_numpy() == 0
        return kept if split is None else kept & (piece["split"].to_numpy() == split)

    best = []
    for store in stores:
        if approximate:
            from pipeline.search.approximate import Approximate

            rows = Approximate(store, split=split).nearest_rows(query, top=top)
        elif index or (index is None and _is_large(store)):
            from pipeline.search.indexed import Indexed

            rows = Indexed(store).nearest_rows(query, top=top, split=split)
        else:
            rows = nearest_rows(store, query, top=top, keep=keep)
        best += [(store, row) for row in rows.to_pylist()]
    best = sorted(best, key=lambda found: -found[1]["score"])[:top]
    manifests = {store.dataset: ManifestStore(store.cache, store.dataset) for store, _ in best}
    origins = {name: manifest.provenance() for name, manifest in manifests.items()}
    names = {name: origin.class_names for name, origin in origins.items()}
    several = {name: manifest.class_ids() for name, manifest in manifests.items() if manifest.is_multi_label}

    def named(dataset: str, row: dict[str, Any]) -> str:
        own = several[dataset].get(row["image_id"], []) if dataset in several else [row["class_id"]]
        return ", ".join(names[dataset][class_id] for class_id in own if class_id in names[dataset])

    paths = {
        name: _paths(manifest, [row["image_id"] for store, row in best if store.dataset == name])
        for name, manifest in manifests.items()
    }
    return [
        ImageHit(
            rank=rank,
            score=row["score"],
            dataset=store.dataset,
            image_id=row["image_id"],
            class_name=named(store.dataset, row),
            split=row["split"],
            root=origins[store.dataset].root,
            path=paths[store.dataset][row["image_id"]],
        )
        for rank, (store, row) in enumerate(best, 1)
    ]


def _is_large(store: ImageStore) -> bool:
    from pipeline.search.indexed import LARGE, size_of

    if size_of(store) < LARGE:
        return False
    if installed("faiss"):
        return True
    say(f"{store.dataset}: {LARGE} images and more are searched sooner through an index, which needs FAISS")
    return False


def find_sentences(stores: Sequence[TextStore], query: Float32[np.ndarray, " D"], *, top: int) -> list[SentenceHit]:
    """The sentences of highest cosine over all stores, best first.

    Raises:
        UserError: a store is missing or damaged.
    """
    best = [(s, row) for s in stores for row in nearest_rows(s, query, top=top).to_pylist()]
    best = sorted(best, key=lambda found: -found[1]["score"])[:top]
    names = {s.dataset: ManifestStore(s.cache, s.dataset).provenance().class_names for s, _ in best}
    return [
        SentenceHit(
            rank=rank,
            score=row["score"],
            dataset=store.dataset,
            llm=store.partitions["llm"],
            kind=row["kind"],
            prompt_id=row["prompt_id"],
            class_name=names[store.dataset].get(row["class_id"], ""),
            image_id=row["image_id"],
            text=row["text"],
        )
        for rank, (store, row) in enumerate(best, 1)
    ]


def _datasets(cache: Path, dataset: str | None, store: type[Store]) -> list[str]:
    """The data sets to look into: the one that was named, or all that have such a store.

    Raises:
        UserError: one has no manifest; without it nothing says what its rows are.
    """
    names = [dataset] if dataset is not None else partition_values(cache, store, "dataset")
    for name in names:
        ManifestStore(cache, name).require()
    return names


def _paths(manifest: ManifestStore, image_ids: list[str]) -> dict[str, str]:
    table = manifest.read(["image_id", "path"], where={"image_id": image_ids})
    return dict(zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True))


def _nothing(cache: Path, encoder: str, store: type[Store], maker: str) -> UserError:
    there = sorted(
        {e for d in partition_values(cache, ManifestStore, "dataset")
         for e in partition_values(cache, store, "encoder", dataset=d)}
    )  # fmt: skip
    known = f" ({nearest(slug(encoder), there)})" if there else ""
    return UserError(f"{cache}: no {store.name} store of encoder {encoder}: run `pipeline {maker}` first{known}")
