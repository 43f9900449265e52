"""What each addition of AAPE+ is worth: accuracy on training and validation images that a draw leaves over.

    python -m trainer.analysis.worth caltech101 eurosat --features cache/ --encoder lite

The test split is not read. Training and validation images are pooled; a seed draws the shots, min(shots, 4) images a
class to choose by, and judges on the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from stages.command import table
from stages.errors import UserError
from trainer.aape_plus import Voice
from trainer.data import ClassText, Images, Task
from trainer.draws import MOST_TO_CHOOSE_BY, split_off
from trainer.features import load_features
from trainer.methods.aape_plus import AAPEPlus, choose_text_head
from trainer.methods.common import class_sums
from trainer.methods.linear import LogisticRegression

SHOTS = (1, 2, 4, 8, 12)
SEEDS = (1, 2, 3)
STEPS: dict[str, tuple[Literal["text"] | Voice, ...]] = {
    "shots: ridge of the labels": ("labels",),
    "shots: Gaussian": ("gaussian",),
    "text + ridge of the labels": ("text", "labels"),
    "text + ridge of the residual": ("text", "residual"),
    "text + Gaussian": ("text", "gaussian"),
    "text + ridge of the labels + Gaussian": ("text", "labels", "gaussian"),
    "text + ridge of the residual + Gaussian": ("text", "residual", "gaussian"),
    "aape-plus": ("text", "labels", "residual", "gaussian"),
}


def variants(task: Task, x: Float[Tensor, "B D"], *, shots: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and logits of each step from zero-shot to AAPE+."""
    text = task.text
    if text.is_text:
        yield "text: template", x @ normalize(text.template.float(), dim=-1).T
        if text.prompts is not None:
            yield "text: mean of the prompts", x @ text.prompt_mean().T
        yield "text: as chosen", choose_text_head(text, Images.join(task.train, task.val)).logits(x, text)
    yield "shots: nearest centroid", x @ normalize(class_sums(task.train, len(text)), dim=-1).T
    for method in (LogisticRegression(), AAPEPlus.without_text()):
        yield f"shots: {method.name}", method.fit(task, seed=seed).logits(x, text)
    for name, voices in STEPS.items():
        if text.is_text or "text" not in voices:
            yield name, AAPEPlus(voices=voices).fit(task, seed=seed).logits(x, text)


def draw(images: Images, text: ClassText, *, shots: int, seed: int) -> tuple[Task, Images]:
    """A task, and the images that it leaves over.

    Raises:
        UserError: a class has too few images.
    """
    by = min(shots, MOST_TO_CHOOSE_BY)
    least = int(torch.bincount(images.labels, minlength=len(text)).min())
    if least <= shots + by:
        raise UserError(f"{shots} shots need more than {shots + by} images a class, and one class has {least}")
    train, rest = split_off(images, shots, seed=seed)
    val, left = split_off(rest, by, seed=seed)
    return Task(text, train, val), left


def main() -> None:
    """Print a table a data set: mean accuracy in percent over three seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--features", type=Path, default=Path("cache"))
    parser.add_argument("--encoder", default="lite")
    asked = parser.parse_args()
    for dataset in asked.datasets:
        features = load_features(asked.features, dataset, asked.encoder, device="cpu")
        images = Images.join(features.train.images.float32(), features.val.images.float32())
        text = features.text[features.sources[0] if features.sources else "none"]
        found: dict[str, list[list[float]]] = {}
        for shots in SHOTS:
            for seed in SEEDS:
                task, left = draw(images, text, shots=shots, seed=seed)
                for name, logits in variants(task, left.embeddings, shots=shots, seed=seed):
                    columns = found.setdefault(name, [[] for _ in SHOTS])
                    right = (logits.argmax(1) == left.labels).double().mean()
                    columns[SHOTS.index(shots)].append(100 * float(right))
        rows = [[name, *(f"{np.mean(column):.1f}" for column in columns)] for name, columns in found.items()]
        print(table([dataset, *(f"{shots} shots" for shots in SHOTS)], rows))


if __name__ == "__main__":
    main()
