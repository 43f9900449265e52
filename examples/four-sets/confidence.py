"""The comparisons behind docs/confidence.md, on images of train and val alone: no test image is read.

    python examples/four-sets/confidence.py temperature eurosat-small clothing-small textile
    python examples/four-sets/confidence.py distance textile caltech101 eurosat-small clothing-small

Run where the stores of examples/four-sets/params.yaml lie in cache/ (docs/results.md). `temperature` fits T in several
ways on the images of the choices and on images held out of the shots, and judges it on images left over. `distance`
compares scores that tell images of other sets, and of the other half of the classes, from those of the classes.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import normalize

from stages.params import load_params
from trainer.confidence import measures, observe
from trainer.confidence.distance import distances, known_rows
from trainer.confidence.held_out import CHOSEN_ON, HELD_OUT, LEFT_OVER, every_kind
from trainer.data import Images, Task
from trainer.data.draws import few_shot, left_over
from trainer.data.features import Features
from trainer.methods import methods
from trainer.protocols import halves
from trainer.protocols.base import only_classes
from trainer.runs.inputs import load_training

PARAMS = load_params(Path(__file__).with_name("params.yaml"))
CACHE = Path("cache")
RULES = {
    "likelihood": (0.0, 0.0),
    "Platt": (1.0, 0.0),
    "prior": (0.0, 1.0),
    "both": (1.0, 1.0),
    "both, stronger": (1.0, 2.0),
}
"""Weight of an image's other classes in 1 / (n + 2), and of (log T)^2 in nats."""


def task_of(features: Features, source: str, shots: int, seed: int) -> tuple[Task, Images]:
    """The few-shot task, and the labelled images left over."""
    train, val = few_shot(features, shots, seed=seed)
    return Task(features.text[source], train, val), left_over(features, shots, seed=seed)


def fitted(logits: Tensor, labels: Tensor, smooth: float, prior: float) -> float:
    """T by a grid."""
    z, n = logits.double(), len(labels)
    other = smooth / (n + 2)
    losses = {}
    for log_t in np.linspace(np.log(1 / 32), np.log(32), 120):
        found = (z / np.exp(log_t)).log_softmax(1)
        loss = -((1 - other) * found.gather(1, labels[:, None])[:, 0] + other * found.mean(1)).sum()
        losses[float(np.exp(log_t))] = float(loss) + prior * log_t**2
    return min(losses, key=lambda t: losses[t])


def temperature(names: list[str]) -> None:
    """Mean negative log-likelihood and ECE on images left over, by kind of images and rule."""
    found = defaultdict(list)
    usual = ["zero-shot", "logistic", "gda", "aape-plus", "nearest-centroid", "tip-adapter-f", "aape"]
    for features in [load_training(PARAMS, name, cache=CACHE, device="cpu") for name in names]:
        for shots in (4, 16):
            for seed in (1, 2, 3, 4, 5):
                for method in methods(usual, settings=PARAMS.train):
                    source = features.sources[0] if method.uses_prompts else "none"
                    task, rest = task_of(features, source, shots, seed)
                    predictor = method.fit(task, seed=seed)
                    kinds = {each.source: each for each in every_kind(task, rest, seed=seed)}
                    judged = predictor.logits(kinds[LEFT_OVER].images.embeddings.float(), task.text)
                    labels = kinds[LEFT_OVER].images.labels
                    for kind in (CHOSEN_ON, HELD_OUT):
                        if kind not in kinds:
                            continue
                        again = kinds[kind].refit
                        scorer = predictor if again is None else method.fit(again, seed=seed)
                        on = kinds[kind].images
                        logits = scorer.logits(on.embeddings.float(), task.text)
                        taus = {rule: fitted(logits, on.labels, *how) for rule, how in RULES.items()} | {"none": 1.0}
                        for rule, tau in taus.items():
                            seen = measures(observe([(0, judged)], labels, temperature=tau))
                            found[kind, rule].append((seen["nll"], seen["ece"]))
    for (kind, rule), values in found.items():
        nll, ece = np.mean(values, axis=0)
        print(f"{kind}, {rule}: NLL {nll:.4f}, ECE {100 * ece:.2f} %")


def mahalanobis(train: Images, images: Tensor, shrinkage: float) -> Tensor:
    """Squared distance to the nearest class mean; the shared covariance is shrunk towards the identity."""
    x, labels = train.embeddings.double(), train.labels
    counts = torch.bincount(labels)
    means = torch.zeros(len(counts), x.shape[1], dtype=torch.double).index_add_(0, labels, x) / counts[:, None]
    spread = (x - means[labels]).T @ (x - means[labels]) / len(x)
    eye = torch.eye(len(spread), dtype=torch.double) * spread.trace() / len(spread)
    precision = torch.linalg.inv((1 - shrinkage) * spread + shrinkage * eye)
    y = images.double()
    cross = y @ precision @ means.T
    return (((y @ precision) * y).sum(1)[:, None] - 2 * cross + ((means @ precision) * means).sum(1)).min(1).values


def scores_of(features: Features, task: Task, images: Tensor, seed: int) -> dict[str, Tensor]:
    """The larger, the farther."""
    shots = task.train.embeddings.float()
    found = {
        "class means": distances(images, known_rows(task.train)),
        "Mahalanobis 0.1": mahalanobis(task.train, images, 0.1),
        "Mahalanobis 0.5": mahalanobis(task.train, images, 0.5),
    }
    near = (images.float() @ shots.T).topk(min(10, len(shots)), dim=1).values
    found |= {f"nearest shot {k}": 1 - near[:, min(k, near.shape[1]) - 1] for k in (1, 3, 5, 10)}
    for method in methods(["zero-shot", "logistic", "gda", "aape-plus"], settings=PARAMS.train):
        logits = method.fit(task, seed=seed).logits(images.float(), task.text)
        found[f"largest logit of {method.name}"] = -logits.max(1).values
        found[f"largest probability of {method.name}"] = -logits.softmax(1).max(1).values
        found[f"energy of {method.name}"] = -logits.logsumexp(1)
    return found


def distance(names: list[str]) -> None:
    """Mean AUROC of each score: over images of other sets, and over the other half of the own classes."""
    sets = {name: load_training(PARAMS, name, cache=CACHE, device="cpu") for name in names}
    found = defaultdict(list)
    for name, features in sets.items():
        base, new = halves(len(features.class_names))
        for shots in (4, 16):
            task, rest = task_of(features, features.sources[0], shots, 1)
            own = rest if len(rest) >= 50 else task.val
            half = Task(task.text.select(list(base)), only_classes(task.train, base), only_classes(task.val, base))
            strangers = [
                (task, own, sets[other].train.images.embeddings[:400], "far") for other in names if other != name
            ]
            strangers.append((half, only_classes(own, base), only_classes(own, new).embeddings, "near"))
            for known, inside, outside, kind in strangers:
                both = normalize(torch.cat([inside.embeddings[:400], outside]).float(), dim=-1)
                truth = [0] * min(400, len(inside)) + [1] * len(outside)
                for score, values in scores_of(features, known, both, 1).items():
                    found[score, kind].append(roc_auc_score(truth, values.double().numpy()))
    for score in dict.fromkeys(score for score, _ in found):
        far, near = (np.mean(found[score, kind]) if found[score, kind] else np.nan for kind in ("far", "near"))
        print(f"{score}: {far:.3f} images of other sets, {near:.3f} of the other half of the classes")


if __name__ == "__main__":
    {"temperature": temperature, "distance": distance}[sys.argv[1]](sys.argv[2:])
