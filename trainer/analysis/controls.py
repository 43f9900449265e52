"""What h has a part in: AAPE beside its controls, on training and validation images that a draw leaves over.

    python -m trainer.analysis.controls imagenet --features cache/ --encoder clip-vit-b-32 --shots 1,2

The test split is not read (the same by `trainer sweep studies/controls.yaml`, on test images). Beside accuracy and
likelihood stand the measures that tell why: how far h has come towards p^a, how many of its units are alive, and what
is lost where every image gets the same h(x), the mean.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.command import table
from stages.training import TrainParams
from trainer.aape import Classifier, start_targets
from trainer.analysis.worth import draw
from trainer.data import Images, Task
from trainer.data.features import load_features
from trainer.likelihood import least_loss
from trainer.methods.aape import AAPE, AAPEPredictor
from trainer.text import class_weights

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "`aape`": {},
    "lambda = 0": {"lambda": 0.0},
    "h(x) = 0": {"image": False},
    "p^a: a random prompt of the class": {"aggregator": "random"},
    "p^a: prompts of another class": {"distill_prompts": "another"},
    "p^a: prompts that say nothing": {"distill_prompts": "random"},
    "p^a attended by the image": {"query": "mean+image"},
    "h at g's rate": {"generator_lr": 1.0},
    "`aape-classwise`": {"classwise": True},
    "`aape-classwise`, h(x) = 0": {"classwise": True, "image": False},
}
ALIVE = 0.05
"""A unit of h is alive if it speaks for this share of the images at least."""
ROWS = 128
"""Images scored at once where h(x) is given."""
COLUMNS = ("accuracy", "nats", "with the mean h(x)", "R^2 of p^a", "units alive", "zero-shot")


@torch.no_grad()
def measures(fitted: AAPEPredictor, task: Task, left: Images, *, seed: int) -> dict[str, float]:
    """What is seen of a classifier on images that it does not know: accuracy and shares in percent, the rest as is."""
    x, y = left.embeddings, left.labels
    weights, base = fitted.class_weights(task.text)
    scores = fitted.logits(x, task.text)
    found = {
        "accuracy": _percent(scores, y),
        "nats": least_loss(scores * fitted.tau, y)[0],
        "zero-shot": _percent(x @ class_weights(task.text, fitted.class_text).T, y),
    }
    classifier = fitted.classifier
    if classifier.h is None:
        return found
    generated = classifier.h(x)
    units = torch.relu(x @ classifier.h.down.T) > 0
    found["units alive"] = 100 * float((units.float().mean(0) >= ALIVE).float().mean())
    found["with the mean h(x)"] = _percent(_given(classifier, x, generated.mean(0), weights, base), y)
    targets = start_targets(task.text, fitted.settings, seed)
    if fitted.settings.lambda_ > 0 and targets.per_class:
        with torch.enable_grad():
            targets.fit(task.train)
        wanted = targets.of_classes()[y]
        spread = (wanted - wanted.mean(0)).square().sum(1).mean()
        found["R^2 of p^a"] = 1 - float((generated - wanted).square().sum(1).mean() / spread)
        found["spread of p^a"] = float(spread)
    return found


def _given(
    classifier: Classifier, x: Float[Tensor, "B D"], h: Float[Tensor, " D"], weights: Tensor, base: Tensor
) -> Float[Tensor, "B C"]:
    """The cosines as if h were the same for every image."""
    text = classifier.text_side(weights, base)
    return torch.cat([classifier.cosines(part, h.expand(len(part), -1), text) for part in x.split(ROWS)])  # type: ignore[no-untyped-call]


def _percent(scores: Float[Tensor, "B C"], labels: Tensor) -> float:
    return 100 * float((scores.argmax(1) == labels).double().mean())


def main() -> None:
    """Print a table a data set and number of shots: means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--features", type=Path, default=Path("cache"))
    parser.add_argument("--encoder", default="lite")
    parser.add_argument("--shots", default="1,2")
    parser.add_argument("--seeds", default="1,2,3")
    asked = parser.parse_args()
    for dataset in asked.datasets:
        features = load_features(asked.features, dataset, asked.encoder, device="cpu")
        images = Images.join(features.train.images.float32(), features.val.images.float32())
        text = features.text[features.sources[0] if features.sources else "none"]
        for shots in map(int, asked.shots.split(",")):
            rows = []
            for name, fields in SETTINGS.items():
                method = AAPE("aape", TrainParams.model_validate(fields))
                found = []
                for seed in map(int, asked.seeds.split(",")):
                    task, left = draw(images, text, shots=shots, seed=seed)
                    found.append(measures(method.fit(task, seed=seed), task, left, seed=seed))
                rows.append([name, *(_mean(found, column) for column in COLUMNS)])
                if "spread of p^a" in found[0] and not fields:
                    print(f"{dataset}: mean squared distance of p^a from its mean {found[0]['spread of p^a']:.3f}")
            print(table([f"{dataset}, {shots} shots", *COLUMNS], rows), flush=True)


def _mean(found: list[dict[str, float]], column: str) -> str:
    values = [each[column] for each in found if column in each]
    digits = {"nats": 3, "R^2 of p^a": 2, "units alive": 0}.get(column, 1)
    return f"{np.mean(values):.{digits}f}" if values else "-"


if __name__ == "__main__":
    main()
