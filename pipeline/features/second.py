"""A second encoder's embeddings of images that are known already: a file of arrays, joined by image_id.

The store stands beside that of the first encoder and is of the same manifest; `trainer run --student-encoder` reads
both. Of the file `embedding` (N, D) and `image_id` (N) are read, and nothing else: classes and splits are those of the
manifest.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.features.stores import encoder_facts
from pipeline.features.vectors import check_vectors, unit_rows
from stages import ImageProvenance, ImageStore, ManifestStore, UserError
from stages.arrays import MAIN, hash_arrays, read_arrays
from stages.stores.artifacts import embedding_array
from stages.stores.provenance import FEATURES, SECOND


def import_second(dataset: str, source: Path, *, encoder: str, cache: Path, precision: str) -> tuple[int, int]:
    """Write the image store of another encoder from a file; the images of it, and rows of others that were passed over.

    Raises:
        UserError: no `embedding` or no `image_id`, an id twice, a vector without a direction, an image of the manifest
            that the file does not have, or an encoder whose store the data set came with or was embedded with here.
    """
    manifest = ManifestStore(cache, dataset)
    about = manifest.provenance()
    if about.encoder is not None and ImageStore(cache, dataset, encoder).file == ImageStore(
        cache, dataset, about.encoder
    ).file:  # fmt: skip
        raise UserError(f"{dataset} came as embeddings of {about.encoder}: give the second encoder another name")
    store = ImageStore(cache, dataset, encoder)
    if store.exists() and SECOND not in store.provenance().settings:
        raise UserError(
            f"{store.file}: embeddings that {encoder} made here of the pictures: give the second encoder another name "
            "(--encoder NAME)"
        )
    arrays = read_arrays(source)
    array, ids = arrays.get(MAIN), arrays.get("image_id")
    if array is None or isinstance(array, list) or array.ndim != 2 or ids is None or len(ids) != len(array):
        there = ", ".join(sorted(arrays))[:200] or "nothing"
        raise UserError(f"{source}: expected `{MAIN}` (N, D) and `image_id` (N); it has {there}")
    check_vectors(array, f"{source}: {MAIN}")
    place = {str(image_id): row for row, image_id in enumerate(ids)}
    if len(place) < len(array):
        twice = Counter(map(str, ids)).most_common(1)[0][0]
        raise UserError(f"{source}: image_id {twice!r} stands twice: leave one embedding an image")
    rows = manifest.read(["image_id", "class_id", "split", "error"])
    rows = rows.filter(pc.is_null(rows["error"])).drop_columns(["error"])
    wanted = rows["image_id"].to_pylist()
    lacking = [image_id for image_id in wanted if image_id not in place]
    if lacking:
        raise UserError(
            f"{source}: no embedding of {len(lacking)} of {len(wanted)} images of {dataset} (first: {lacking[0]!r}): "
            'the ids have to be the manifest\'s (`pipeline sql "SELECT image_id FROM manifest"`)'
        )
    found = unit_rows(array[np.array([place[image_id] for image_id in wanted], dtype=np.int64)])
    origin = ImageProvenance(
        dataset=dataset, content="", precision=precision, **encoder_facts(encoder, array.shape[1]),
        note=f"embeddings of {encoder} as was said, made elsewhere and taken from {source.name}",
        inputs={"manifest": about.content, "classes": about.inputs["classes"], FEATURES: hash_arrays(source)},
        settings={SECOND: source.name},
    )  # fmt: skip
    columns = {
        "image_id": rows["image_id"],
        "view": pa.array(np.zeros(len(rows), np.int32)),
        "class_id": rows["class_id"],
        "split": rows["split"],
        "encoder_name": pa.array([encoder] * len(rows), pa.string()),
        "embedding": embedding_array(found, precision=precision),
    }
    schema = ImageStore.schema(width=array.shape[1], precision=precision)
    with store.locked("pipeline embed-images"):
        store.write(pa.table([columns[name] for name in schema.names], schema=schema), origin)
    return len(rows), len(array) - len(rows)
