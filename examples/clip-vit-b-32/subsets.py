"""Stores of four data sets of ImageNet in CLIP ViT-B/32's space that share no class, for `multitask` and `meta`.

    python examples/clip-vit-b-32/subsets.py FOLDER cache
    trainer run --features cache --dataset imagenet-birds --encoder clip-vit-b-32 --protocol meta \
        --together imagenet-dogs,imagenet-described,imagenet-24 --shots 4

FOLDER holds `imagenet_few_shot.npz` (4 training, 1 validation, 2 test images a class; `--source` of `pipeline ingest`
takes the whole of it). Birds: 59 classes; dogs: 118; described: the 275 others with a description by GPT-3; 24: drawn
by seed from the rest. Prompts of a class are its name, the photo template and its mean description.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

BIRDS = [*range(7, 25), *range(80, 101), *range(127, 147)]
DOGS = [*range(151, 269)]


def main(folder: Path, cache: Path) -> None:
    """Cut the file and ingest each part."""
    given = dict(np.load(folder / "imagenet_few_shot.npz", allow_pickle=False))
    with_description = given["prompt_class_id"][given["prompt_source"] == "gpt3-descriptions"]
    described = np.setdiff1d(with_description, [*BIRDS, *DOGS])
    rest = np.setdiff1d(np.arange(len(given["class_names"])), [*BIRDS, *DOGS, *described])
    drawn = np.sort(np.random.default_rng(7).choice(rest, 24, replace=False))
    parts = {"birds": BIRDS, "dogs": DOGS, "described": described, "24": drawn}
    with TemporaryDirectory() as made:
        for name, classes in parts.items():
            place = np.full(len(given["class_names"]), -1)
            place[classes] = np.arange(len(classes))
            images, prompts = place[given["class_id"]] >= 0, place[given["prompt_class_id"]] >= 0
            whose = np.concatenate([place[given["prompt_class_id"][prompts]], np.arange(len(classes))])
            file = Path(made) / f"{name}.npz"
            np.savez(
                file, embedding=given["embedding"][images], class_id=place[given["class_id"][images]],
                split=given["split"][images], class_names=given["class_names"][classes],
                text_template=given["text_template"][classes], prompt_class_id=whose,
                prompts=np.concatenate([given["prompts"][prompts], given["text_template"][classes]]),
                prompt_source=np.full(len(whose), "texts"),
            )  # fmt: skip
            ingest = ["pipeline", "ingest", f"imagenet-{name}", "--source", str(file)]
            subprocess.run([*ingest, "--encoder-name", "clip-vit-b-32", "--cache", str(cache)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
