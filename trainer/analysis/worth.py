"""What each addition of AAPE+ is worth: accuracy on training and validation images that a draw leaves over.

    python -m trainer.analysis.worth caltech101 eurosat --features cache/ --encoder lite
    python -m trainer.analysis.worth caltech101 --features cache/ --encoder lite --no-text
    python -m trainer.analysis.worth caltech101 --features cache/ --encoder lite --beside dapt prograd
    python -m trainer.analysis.worth caltech101 --features cache/ --encoder lite --unlabelled

The test split is not read. Training and validation images are pooled; a seed draws the shots, min(shots, 4) images a
class to choose by (fewer where one would not be left over), and judges on the rest. With `--unlabelled` half of the
rest go without their labels, and the other half judges `aape-plus` and what learns from them too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from stages.command import table
from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape_plus import calibrated, weigh
from trainer.data import ClassText, Images, Task, Unlabelled
from trainer.data.draws import MOST_TO_CHOOSE_BY, split_off
from trainer.data.features import load_features
from trainer.methods import methods
from trainer.methods.aape_plus import AAPEPlus, Part, choose_text_head
from trainer.methods.common import class_sums
from trainer.methods.family.unlabelled import AAPEPlusUnlabelled
from trainer.methods.gda import GDA
from trainer.methods.linear import LogisticRegression
from trainer.methods.timo import GAMMAS, guided_text, matching

SHOTS = (1, 2, 4, 8, 12)
SEEDS = (1, 2, 3)
STEPS: dict[str, tuple[Part, ...]] = {
    "shots: ridge of the labels": ("labels",),
    "shots: Gaussian": ("gaussian",),
    "shots: both": ("labels", "gaussian"),
    "shots: both, or a kernel (`aape-plus-no-text`)": ("labels", "gaussian", "kernel"),
    "text + ridge of the labels": ("text", "labels"),
    "text + ridge of the residual": ("text", "residual"),
    "text + Gaussian": ("text", "gaussian"),
    "text + either ridge + Gaussian": ("text", "labels", "residual", "gaussian"),
    "and a kernel: `aape-plus`": ("text", "labels", "residual", "gaussian", "kernel"),
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
    bare = replace(task, text=replace(text, is_text=False))
    for method in (LogisticRegression(), GDA()):
        yield f"shots: `{method.name}`", method.fit(bare, seed=seed).logits(x, bare.text)
    for name, parts in STEPS.items():
        if text.is_text or "text" not in parts:
            yield name, AAPEPlus(parts=parts).fit(task, seed=seed).logits(x, text)
    if text.is_text and text.prompts is not None:
        weighed = agreeing(task)
        yield "tried: text, prompts weighed by agreement", x @ weighed.prompt_mean().T
        yield "tried: `aape-plus` with these", AAPEPlus().fit(replace(task, text=weighed), seed=seed).logits(x, weighed)


def beside(task: Task, x: Float[Tensor, "B D"], names: Sequence[str], *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and logits of other methods, and of AAPE+ with each as one more voice.

    How loud the two are is stacked on the validation images, which neither was fitted on.
    """
    plus = AAPEPlus().fit(task, seed=seed)
    for method in methods(names, settings=TrainParams()):
        other = method.fit(task, seed=seed)
        heard = [each.logits(task.val.embeddings, task.text) for each in (plus, other)]
        _, weights = weigh([each - each.mean(1, keepdim=True) for each in heard], task.val.labels)
        logits = other.logits(x, task.text)
        yield f"`{method.name}`", logits
        own = plus.logits(x, task.text)
        yield f"`aape-plus` beside `{method.name}`", weights[0] * own + weights[1] * logits


def unlabelled(task: Task, left: Images, *, seed: int) -> tuple[Task, Images]:
    """The task with half of the images of each class that were left over, without their labels, and the other half."""
    counts = torch.bincount(left.labels, minlength=len(task.text)).tolist()
    judged, seen = split_off(left, [(count + 1) // 2 for count in counts], seed=seed)
    return replace(task, unlabelled=Unlabelled.of(seen)), judged


def without_labels(task: Task, x: Float[Tensor, "B D"], *, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Name and logits of AAPE+ without and with the unlabelled images."""
    for method in (AAPEPlus(), AAPEPlusUnlabelled()):
        yield f"`{method.name}`", method.fit(task, seed=seed).logits(x, task.text)


def agreeing(task: Task) -> ClassText:
    """One prompt a class: its prompts weighed by their cosine with the class's mean shot, as in TIMO.

    How sharply is chosen by the likelihood of the validation images, on which the shots' mean has no say.
    """
    prompts, mask = task.text.require_prompts()
    match = matching(prompts, mask, task.train)
    each = [guided_text(prompts, mask, match, gamma=gamma) for gamma in (0.0, *GAMMAS)]
    losses = [calibrated(task.val.embeddings @ text.T, task.val.labels)[0] for text in each]
    return replace(task.text, prompts=each[int(np.argmin(losses))][:, None], mask=torch.ones_like(mask[:, :1]))


def draw(images: Images, text: ClassText, *, shots: int, seed: int) -> tuple[Task, Images]:
    """A task, and the images that it leaves over.

    Raises:
        UserError: a class has too few images.
    """
    least = int(torch.bincount(images.labels, minlength=len(text)).min())
    if least < shots + 2:
        raise UserError(f"{shots} shots need at least {shots + 2} images a class, and one class has {least}")
    by = min(shots, MOST_TO_CHOOSE_BY, least - shots - 1)
    train, rest = split_off(images, shots, seed=seed)
    val, left = split_off(rest, by, seed=seed)
    return Task(text, train, val), left


def main() -> None:
    """Print a table a data set: mean accuracy in percent over three seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--features", type=Path, default=Path("cache"))
    parser.add_argument("--encoder", default="lite")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS)
    parser.add_argument("--beside", nargs="+", default=[], metavar="METHOD", help="and AAPE+ with each as a voice")
    parser.add_argument("--unlabelled", action="store_true", help="what images without labels add, and nothing else")
    parser.add_argument("--no-text", action="store_true", help="the images alone")
    asked = parser.parse_args()
    for dataset in asked.datasets:
        features = load_features(asked.features, dataset, asked.encoder, device="cpu")
        images = Images.join(features.train.images.float32(), features.val.images.float32())
        text = features.text[features.sources[0] if features.sources else "none"]
        text = replace(text, is_text=text.is_text and not asked.no_text)
        found: dict[str, list[list[float]]] = {}
        for shots in asked.shots:
            for seed in SEEDS:
                task, left = draw(images, text, shots=shots, seed=seed)
                if asked.unlabelled:
                    task, left = unlabelled(task, left, seed=seed)
                    steps = without_labels(task, left.embeddings, seed=seed)
                else:
                    steps = variants(task, left.embeddings, shots=shots, seed=seed)
                for name, logits in chain(steps, beside(task, left.embeddings, asked.beside, seed=seed)):
                    columns = found.setdefault(name, [[] for _ in asked.shots])
                    right = (logits.argmax(1) == left.labels).double().mean()
                    columns[asked.shots.index(shots)].append(100 * float(right))
        rows = [[name, *(f"{np.mean(column):.1f}" for column in columns)] for name, columns in found.items()]
        print(table([dataset, *(f"{shots} shots" for shots in asked.shots)], rows))


if __name__ == "__main__":
    main()
