"""What heads put together are worth (docs/results.md); run where the stores of examples/four-sets lie in cache/.

    python examples/four-sets/composed.py caltech101 8 [CACHE] [ENCODER]

Three sources of a data set: half of the shots of the first half of its classes, the same of the second half, and the
other half of the shots of the classes in the middle. Their heads are learnt apart, put together, and one is left out
again; beside it the joint fit of all images, and the probabilities of three `gda` heads averaged. Seeds 1, 2 and 3.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from trainer.compose.composition import Composition, compose
from trainer.compose.sources import image_part
from trainer.data import Images, Task
from trainer.data.draws import few_shot, shuffled
from trainer.data.features import Features, load_features
from trainer.methods.gda import GDA
from trainer.metrics import interval95


def main() -> None:
    """Print the table of one data set."""
    dataset, shots, *rest = sys.argv[1:]
    cache, encoder = (*rest, *["cache", "lite"][len(rest) :])
    features = load_features(Path(cache), dataset, encoder, device="cpu", sources=[])
    found: dict[str, list[float]] = defaultdict(list)
    for seed in (1, 2, 3):
        for what, right in compared(features, int(shots), seed).items():
            found[what].append(right)
    for what, values in found.items():
        mean, half = interval95(values)
        print(f"{what:45s} {100 * mean:.1f} ± {100 * (half or 0):.1f}")


def compared(features: Features, shots: int, seed: int) -> dict[str, float]:
    """Accuracy on the test split by name of the head."""
    classes, text, test = len(features.class_names), features.text["none"], features.test().images.float32()
    train, val = (each.centre_crops().float32() for each in few_shot(features, shots, seed=seed))
    order = shuffled(train.labels, classes, seed=seed)
    halves = [
        train.take(torch.tensor(np.concatenate(rows)))
        for rows in ([r[: len(r) // 2] for r in order], [r[len(r) // 2 :] for r in order])
    ]
    middle = range(classes // 4, classes // 4 + classes // 2)
    drawn = {
        "a": among(halves[0], range(classes // 2)),
        "b": among(halves[0], range(classes // 2, classes)),
        "c": among(halves[1], middle),
    }
    about = {
        "made_from": features.dataset, "dataset": features.dataset, "encoder": features.encoder,
        "width": features.width, "encoder_fingerprint": features.encoder_fingerprint,
    }  # fmt: skip
    judges = {name: among(val, images.labels.unique().tolist()) for name, images in drawn.items()}
    parts = [image_part(name, about, text, images, judges[name], seed=seed) for name, images in drawn.items()]
    whole = image_part("whole", about, text, joined(drawn.values()), joined(judges.values()), seed=seed)

    def right(head: Composition) -> float:
        place = torch.tensor([features.class_names.index(name) for name in head.text.names])
        scores = head.predictor.logits(test.embeddings, head.text)
        return share(place[scores.argmax(1)], test)

    votes = torch.zeros(len(test), classes)
    for name, images in drawn.items():
        there = sorted(images.labels.unique().tolist())
        at = torch.full((classes,), -1).index_put_((torch.tensor(there),), torch.arange(len(there)))
        own, choose = (Images(each.embeddings, at[each.labels]) for each in (images, judges[name]))
        head = GDA().fit(Task(text.select(there), own, choose), seed=seed)
        votes[:, there] += head.logits(test.embeddings, text.select(there)).softmax(-1)
    return {
        "three parts put together": right(compose(parts)),
        "one fit to all their images": right(compose([whole])),
        "one part left out": right(compose(parts[:2])),
        "probabilities of three heads averaged": share(votes.argmax(1), test),
        "text alone": share((test.embeddings @ text.template_mean().T).argmax(1), test),
    }


def among(images: Images, labels: object) -> Images:
    """The images of some classes."""
    return images.take(torch.isin(images.labels, torch.tensor(list(labels))).nonzero()[:, 0])  # type: ignore[call-overload]


def joined(several: object) -> Images:
    """All of them, one behind the other."""
    rows = list(several)  # type: ignore[call-overload]
    return Images(torch.cat([each.embeddings for each in rows]), torch.cat([each.labels for each in rows]))


def share(predicted: torch.Tensor, test: Images) -> float:
    """Of the test images that are right."""
    return float((predicted == test.labels).double().mean())


if __name__ == "__main__":
    main()
