"""Small stores of images with captions, for tests that start from stores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import normalize

from stages import ImageProvenance, ImageStore, ManifestProvenance, ManifestStore, TextProvenance, TextStore
from stages.params import Params
from stages.stores.artifacts import embedding_array
from trainer.data.pairs import Held, Pairs

WIDTH = 16
SMALL = {"hidden": 16, "batch": 8, "epochs": 4, "lr_grid": [0.003]}


def quick(**evaluation: object) -> Params:
    """Settings of a quick run of retrieval with seed 1, unless these say otherwise."""
    asked = {"protocols": ["retrieval"], "methods": ["aape", "zero-shot"], "seeds": [1], **evaluation}
    return Params.model_validate({"train": {"captions": SMALL, "aggregator_steps": 3}, "evaluation": asked})


def some_pairs(counts: Sequence[int], *, width: int = WIDTH, seed: int = 0, noise: float = 0.5) -> Pairs:
    """Images with so many captions each, which lie near their image turned by one matrix."""
    rng = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(99)))[0]
    images = normalize(torch.randn(len(counts), width, generator=rng), dim=-1)
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    captions = (images @ turn)[owner] + noise * torch.randn(len(owner), width, generator=rng) / width**0.5
    first = torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(counts).cumsum(0)])
    ids = tuple(f"{i:03d}.jpg" for i in range(len(counts)))
    texts = tuple(f"caption {i} of {o}" for i, o in enumerate(owner.tolist()))
    return Pairs(Held(images), Held(normalize(captions, dim=-1)), first, ids, texts)


def make_caption_stores(
    cache: Path, *, dataset: str = "photos", per_split: Mapping[str, int] | None = None, captions: int = 3,
    change: Mapping[str, Sequence[str]] | None = None, noise: float = 0.5, fingerprint: str = "f", width: int = WIDTH,
    same: Sequence[tuple[int, int]] = (), questions: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
) -> None:  # fmt: skip
    """Stores as `pipeline` writes them: captions lie near their image, turned by one matrix for all data sets.

    Args:
        change: image id -> other captions than the usual ones.
        same: pairs of images with the same embedding.
        questions: image id -> what is asked about it, as the manifest keeps it.
    """
    counts = per_split or {"train": 24, "val": 6, "test": 10}
    ids = [f"{split}/{i:02d}.jpg" for split, count in counts.items() for i in range(count)]
    splits = [split for split, count in counts.items() for _ in range(count)]
    texts = {i: [f"photograph {i}, caption {k}" for k in range(captions)] for i in ids} | dict(change or {})
    pairs = some_pairs([captions] * len(ids), width=width, seed=len(dataset), noise=noise)
    vectors, of_caption = pairs.images.all().numpy(), pairs.captions.all().numpy()
    for one, other in same:
        vectors[other] = vectors[one]
    manifest = ManifestStore(cache, dataset)
    rows = [
        {
            "image_id": i,
            "path": i,
            "class_id": None,
            "class_name": None,
            "split": s,
            "captions": list(texts[i]),
            "questions": list((questions or {}).get(i, ())),
        }
        for i, s in zip(ids, splits, strict=True)
    ]
    written = manifest.write(
        pa.Table.from_pylist(rows, schema=manifest.schema()),
        ManifestProvenance(dataset=dataset, content="", inputs={"classes": "none"}),
    )
    facts = {
        "dataset": dataset, "content": "", "encoder": "lite", "encoder_fingerprint": fingerprint, "width": width,
        "inputs": {"classes": "none", "manifest": written.content},
    }  # fmt: skip
    images = ImageStore(cache, dataset, "lite")
    table = pa.Table.from_pylist(
        [{"image_id": i, "view": 0, "class_id": None, "split": s, "encoder_name": "lite"}
         for i, s in zip(ids, splits, strict=True)],
        schema=pa.schema([field for field in images.schema(width=width) if field.name != "embedding"]),
    ).append_column("embedding", embedding_array(vectors))  # fmt: skip
    images.write(table.cast(images.schema(width=width)), ImageProvenance(**facts))
    store = TextStore(cache, dataset, "lite", "none")
    said = [
        {"prompt_id": f"caption-{i}-{k:03d}", "kind": "caption", "class_id": None, "image_id": i, "text": text,
         "encoder_name": "lite"}
        for i in ids for k, text in enumerate(texts[i])
    ]  # fmt: skip
    place = [of_caption[n * captions + min(k, captions - 1)] for n, i in enumerate(ids) for k in range(len(texts[i]))]
    table = pa.Table.from_pylist(
        said, schema=pa.schema([field for field in store.schema(width=width) if field.name != "embedding"])
    ).append_column("embedding", embedding_array(np.stack(place) if place else np.zeros((0, width), np.float32)))
    store.write(table.cast(store.schema(width=width)), TextProvenance(**facts))
