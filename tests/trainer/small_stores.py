"""Small stores of a data set with four classes, for tests that start from stores."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.ingest import classes_hash
from stages import ImageProvenance, ImageStore, ManifestProvenance, ManifestStore, Provenance, TextStore
from stages.params import Params
from stages.stores.artifacts import embedding_array

WIDTH, CLASSES = 16, 4
NAMES = {i: name for i, name in enumerate(["plain, weave", 'slub "yarn"', "<b>hole</b>", "stain$x$"])}
FAST = Params.model_validate({"train": {"epochs": 12}})


def fast(**evaluation: object) -> Params:
    """Settings of a quick run: few-shot with 4 shots and seed 1, unless these say otherwise."""
    asked = {"protocols": ["few-shot"], "shots": 4, "seeds": [1], **evaluation}
    return Params.model_validate({"train": {"epochs": 12}, "evaluation": asked})


def make_stores(
    cache: Path, *, dataset: str = "w", per_split: dict[str, int] | None = None,
    sources: tuple[str, ...] = ("llm", "people"), views: int = 0, names: dict[int, str] = NAMES, noise: float = 0.9,
    train: dict[int, int] | None = None,
) -> None:  # fmt: skip
    """Stores of well-separated classes, as `pipeline` would write them; two data sets share the classes' places.

    Args:
        train: label -> training images of this class, where it has others than `per_split` says.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH))[: len(names)]

    def near(label: int, noise: float) -> np.ndarray:
        vector = centres[label] + noise * rng.normal(size=WIDTH)
        return vector / np.linalg.norm(vector)

    classes = {"classes": classes_hash(names)}
    rows = [
        (f"{split}/{label}/{i}", split, label)
        for split, count in (per_split or {"train": 8, "val": 3, "test": 12}).items()
        for label in names
        for i in range((train or {}).get(label, count) if split == "train" else count)
    ]
    manifest = ManifestStore(cache, dataset)
    table = pa.Table.from_pylist(
        [{"image_id": i, "path": i, "class_id": c, "class_name": names[c], "split": s} for i, s, c in rows],
        schema=manifest.schema(),
    )
    origin = ManifestProvenance(dataset=dataset, content="", inputs=classes, class_names=names)
    written = manifest.write(table, origin)
    facts = {
        "dataset": dataset,
        "content": "",
        "encoder": "lite",
        "encoder_fingerprint": "f",
        "width": WIDTH,
        "note": "not CLIP",
    }
    images = ImageStore(cache, dataset, "lite")
    crops = [(i, s, c, near(c, noise)) for i, s, c in rows]
    each = 1 + views
    drawn = [(i, v, s, c, x if v == 0 else near(c, noise)) for i, s, c, x in crops for v in range(each)]
    vectors = embedding_array(np.stack([x for *_, x in drawn]))
    columns = [
        pa.array([i for i, *_ in drawn]), pa.array([v for _, v, *_ in drawn], pa.int32()),
        pa.array([c for *_, c, _ in drawn], pa.int32()),
        pa.array([s for _, _, s, _, _ in drawn]), pa.array(["lite"] * len(drawn)), vectors,
    ]  # fmt: skip
    images.write(
        pa.table(columns, schema=images.schema(width=WIDTH)),
        ImageProvenance(
            inputs={**classes, "manifest": written.content},
            views=views,
            **facts,
        ),
    )
    for source, count, spread in (("none", 1, 0.8), *((s, 5, 0.5) for s in sources)):
        store = TextStore(cache, dataset, "lite", source)
        labels = [label for label in names for _ in range(count)]
        columns = [
            pa.array([f"{label:05d}-{source}-{k % count:03d}" for k, label in enumerate(labels)]),
            pa.array([("prompt", "template")[source == "none"]] * len(labels)),
            pa.array(labels, pa.int32()),
            pa.array([None] * len(labels), pa.string()), pa.array(["text"] * len(labels)),
            pa.array(["lite"] * len(labels)),
            embedding_array(np.stack([near(label, spread) for label in labels])),
        ]  # fmt: skip
        origin = Provenance(store="text", inputs=classes, llm=source, **facts)  # type: ignore[arg-type]
        store.write(pa.table(columns, schema=store.schema(width=WIDTH)), origin)
