"""Two checks in CLIP's own space, on real features of OpenAI ViT-B/32: 500 COCO pairs and 1,000 ImageNet class texts.

    python examples/clip-vit-b-32/check.py FOLDER

FOLDER holds `coco500_image_caption_features.npy` (2, 500, 512), images then captions, and `imagenet_text_features.pt`
(1000, 512).

1. The features are what they are said to be: recall of a pair's other half, and the residual head at its start equals
   the zero-shot classifier of 1,000 classes.
2. Methods beside their controls: the captions are clustered into 20 topics, the label of an image is the topic of its
   caption, and the captions of the training images are the prompts. No real data set: labels come from text, so text
   has all the say that it can have.
"""

import sys
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.command import table
from stages.params import Params
from trainer.aape.classifier import Classifier
from trainer.data import ClassText, Images, Task
from trainer.methods import methods
from trainer.metrics import interval95

TOPICS, SHOTS, BY, SEEDS = 20, 8, 4, (1, 2, 3, 4, 5)
BASELINES = ("zero-shot", "nearest-centroid", "logistic", "gda")
METHODS = (*BASELINES, "aape", "aape-no-distill", "aape-no-image", "aape-literal", "aape-classwise", "aape-plus")


def recall(queries: Tensor, found: Tensor, at: int) -> float:
    """Share of queries whose own pair is among the `at` nearest, in percent."""
    top = (queries @ found.T).topk(at).indices
    return 100 * float((top == torch.arange(len(queries))[:, None]).any(1).double().mean())


def draw(images: Tensor, captions: Tensor, seed: int) -> tuple[Task, Images]:
    """Topics by k-means of the captions; up to 8 shots a topic, up to 4 images to choose by, the rest to judge on."""
    kmeans = faiss.Kmeans(captions.shape[1], TOPICS, seed=seed, nredo=5, spherical=True, min_points_per_centroid=1)
    kmeans.train(captions.numpy())
    labels = torch.from_numpy(kmeans.index.search(captions.numpy(), 1)[1][:, 0])
    shuffled = np.random.default_rng(seed)
    train, val, test = [], [], []
    for topic in range(TOPICS):
        own = shuffled.permutation(np.flatnonzero(labels.numpy() == topic))
        shots, by = max(1, min(SHOTS, len(own) // 3)), max(1, min(BY, len(own) // 6))
        train += list(own[:shots])
        val += list(own[shots : shots + by])
        test += list(own[shots + by :])
    parts = [Images(images[rows], labels[rows]) for rows in map(torch.tensor, (train, val, test))]
    prompts = torch.zeros(TOPICS, SHOTS, captions.shape[1])
    mask = torch.zeros(TOPICS, SHOTS, dtype=torch.bool)
    for topic in range(TOPICS):
        own_captions = captions[torch.tensor(train)[parts[0].labels == topic]]
        prompts[topic, : len(own_captions)] = own_captions
        mask[topic, : len(own_captions)] = True
    names = normalize(prompts.sum(1), dim=-1)
    return Task(ClassText(tuple(f"topic {i}" for i in range(TOPICS)), names, prompts, mask), *parts[:2]), parts[2]


def main() -> None:
    """Print both checks."""
    folder = Path(sys.argv[1])
    pairs = torch.from_numpy(np.load(folder / "coco500_image_caption_features.npy")).float()
    images, captions = normalize(pairs, dim=-1)
    loaded = torch.load(folder / "imagenet_text_features.pt", weights_only=True, map_location="cpu")
    classes = normalize(loaded.float(), dim=-1)
    rows = [[at, f"{recall(images, captions, at):.1f}", f"{recall(captions, images, at):.1f}"] for at in (1, 5, 10)]
    print(table(["recall at", "image to text", "text to image"], rows))
    start = Classifier(width=512, hidden=32, head="residual", image=True, rng=torch.Generator().manual_seed(0))
    with torch.no_grad():
        far = float((start(images, classes) - images @ classes.T).abs().max())
    print(
        f"\n500 images x 1,000 ImageNet classes: the residual head at its start is off zero-shot by at most {far:.1e}\n"
    )
    train = Params().train
    asked = {method.name: method for method in methods(METHODS, settings=train)}
    found: dict[str, list[float]] = {name: [] for name in asked}
    for seed in SEEDS:
        task, test = draw(images, captions, seed)
        for name, method in asked.items():
            logits = method.fit(task, seed=seed).logits(test.embeddings, task.text)
            found[name].append(100 * float((logits.argmax(1) == test.labels).double().mean()))
    rows = []
    for name, each in found.items():
        mean, half = interval95(each)
        rows.append([name, f"{mean:.1f} ± {half:.1f}"])
    print(table([f"{TOPICS} topics, {len(SEEDS)} seeds", "accuracy in percent ± 95 % interval"], rows))


if __name__ == "__main__":
    main()
