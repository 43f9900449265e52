"""What views of the judged image are worth, on labelled images that a draw leaves over; no test image is read.

    python examples/four-sets/views.py CACHE DATASET:SHOTS ...

The stores need views (`pipeline embed-images --views 16`). Each method is fitted on centre crops. Columns: the crop
alone; the mean probability over all views; over the surest tenth, third and half of them; all weighed by
softmax(-entropy / 0.5) as AWT weighs views.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from stages.training import TrainParams
from trainer.data import Images, Task
from trainer.data.draws import few_shot, left_over
from trainer.data.features import load_features
from trainer.methods import methods
from trainer.methods.family.test_time import confident, entropy

NAMES = ("zero-shot", "cupl", "logistic", "aape-plus")
SEEDS = (1, 2, 3)


def pooled(shares: Tensor) -> dict[str, Tensor]:
    """Ways to join the probabilities (B, V, C) of an image's views, the centre crop first."""
    found = {"crop": shares[:, 0], "mean": shares.mean(1)}
    for word, share in (("tenth", 0.1), ("third", 0.3), ("half", 0.5)):
        rows = confident(shares.clamp_min(1e-30).log(), share)[..., None]
        found[word] = shares.gather(1, rows.expand(-1, -1, shares.shape[2])).mean(1)
    return found | {"weighed": ((-entropy(shares) / 0.5).softmax(1)[..., None] * shares).sum(1)}


def rows(cache: Path, dataset: str, shots: int) -> None:
    """Print a line for each method: mean accuracy over the seeds, in percent."""
    features = load_features(cache, dataset, "lite")
    text = features.text[features.sources[0]]
    total: dict[tuple[str, str], float] = {}
    for seed in SEEDS:
        train, val = few_shot(features, shots, seed=seed)
        held: Images = left_over(features, shots, seed=seed)
        assert held.views is not None, "run pipeline embed-images --views 16"
        every = torch.cat([held.embeddings[:, None], held.views], 1).float()
        task = Task(text, train.centre_crops(), val.centre_crops())
        for method in methods(NAMES, settings=TrainParams()):
            found = method.fit(task, seed=seed)
            shares = torch.stack([found.logits(every[:, v], text).softmax(-1) for v in range(every.shape[1])], 1)
            for word, joined in pooled(shares).items():
                right = float((joined.argmax(1) == held.labels).double().mean())
                total[method.name, word] = total.get((method.name, word), 0.0) + 100 * right / len(SEEDS)
    for name in NAMES:
        cells = [f"{word} {value:.1f}" for (method, word), value in total.items() if method == name]
        print(f"{dataset}, {shots} shots, {name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        name, _, number = each.partition(":")
        rows(Path(sys.argv[1]), name, int(number))
