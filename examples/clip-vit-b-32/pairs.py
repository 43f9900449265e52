"""Stores of 500 real pairs of COCO image and caption, as OpenAI CLIP ViT-B/32 embeds them, for `trainer run`.

    python examples/clip-vit-b-32/pairs.py FOLDER cache
    trainer run --features cache --dataset coco500 --encoder clip-vit-b-32 --protocol retrieval \
        --seeds 1,2,3,4,5 --set 'evaluation.folds={coco500: 5}'

FOLDER holds `coco500_image_caption_features.npy` (2, 500, 512), images then captions. Before anything is learned R@1
must be 55 % image to text and 51 % text to image. The words of the captions are not in the file.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages import ImageProvenance, ImageStore, ManifestProvenance, ManifestStore, TextProvenance, TextStore
from stages.files import sha256_file
from stages.stores.artifacts import NO_LLM, Store, embedding_array
from stages.stores.provenance import FEATURES, named_fingerprint

DATASET, ENCODER = "coco500", "clip-vit-b-32"


def table(store: Store, rows: list[dict[str, object]], embeddings: np.ndarray) -> pa.Table:
    """Rows of an embedding store, each with its unit vector."""
    schema = store.schema(width=embeddings.shape[1])
    plain = pa.Table.from_pylist(rows, schema=pa.schema([field for field in schema if field.name != "embedding"]))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return plain.append_column("embedding", embedding_array(unit)).cast(schema)


def main(folder: Path, cache: Path) -> None:
    """Write manifest, images and captions; all images are training images, to be cross-validated."""
    file = folder / "coco500_image_caption_features.npy"
    images, captions = np.load(file, allow_pickle=False).astype(np.float32)
    ids = [f"{i:03d}" for i in range(len(images))]
    texts = {i: f"caption of image {i} (its words are not in the file)" for i in ids}
    manifest = ManifestStore(cache, DATASET)
    rows = [{"image_id": i, "path": i, "split": "train", "captions": [texts[i]]} for i in ids]
    made_from = {FEATURES: sha256_file(file)}
    written = manifest.write(
        pa.Table.from_pylist(rows, schema=manifest.schema()),
        ManifestProvenance(dataset=DATASET, content="", inputs=made_from, source=str(file)),
    )
    facts = {
        "dataset": DATASET, "content": "", "encoder": ENCODER, "width": images.shape[1],
        "encoder_fingerprint": named_fingerprint(ENCODER, images.shape[1]),
        "inputs": made_from | {"manifest": written.content},
    }  # fmt: skip
    store = ImageStore(cache, DATASET, ENCODER)
    pictures = [{"image_id": i, "view": 0, "split": "train", "encoder_name": ENCODER} for i in ids]
    store.write(table(store, pictures, images), ImageProvenance(**facts))
    text = TextStore(cache, DATASET, ENCODER, NO_LLM)
    said = [
        {"prompt_id": f"caption-{i}-000", "kind": "caption", "image_id": i, "text": texts[i], "encoder_name": ENCODER}
        for i in ids
    ]
    text.write(table(text, said, captions), TextProvenance(**facts))
    print(f"wrote {len(ids)} pairs of {DATASET} to {cache}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
