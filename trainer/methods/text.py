"""Classifiers that need no image: the cosine to a text embedding of each class, over a calibrated temperature.

`zero-shot` takes the first template ("a photo of a {class}"), `template-ensemble` the mean of all templates of the data
set (Radford et al. 2021, section 3.1.4; the same thing where there is one), `cupl` the mean of the reference prompts
(Pratt et al., "What does a platypus look like?", ICCV 2023), `cupl-shuffled` its control with the descriptions of other
classes. tau only matters for probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Task
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.text import TextSource, calibrate_tau, class_weights
from trainer.training import Info, judge


@dataclass
class TextPredictor:
    """Cosine to the text embedding of each class, over tau."""

    source: TextSource
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c) / tau for any classes."""
        return images.float() @ class_weights(text, self.source).T / self.tau


@dataclass(frozen=True)
class NamedByText:
    """A method in which a text of each class is its classifier."""

    name: str
    source: TextSource

    @property
    def needs(self) -> Literal["prompts", "text"]:
        """What names the classes."""
        return "prompts" if self.uses_prompts else "text"

    @property
    def uses_prompts(self) -> bool:
        """Whether the prompts, not the templates, name the classes."""
        return self.source == "prompts"


@dataclass(frozen=True)
class TextMethod(NamedByText):
    """`zero-shot`, `template-ensemble` or `cupl`."""

    serves_new_classes: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> TextPredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        start = prepare(task, seed=seed, source=self.source)
        val = start.selection.val
        score = None if val is None else judge(val.embeddings @ start.weights.T / start.tau, val.labels)
        info = start.info(n_parameters=0, val=score, class_text=self.source)
        return TextPredictor(self.source, start.tau, info=info)


def another(classes: int, *, seed: int) -> list[int]:
    """For each class another one, drawn by seed: all of them in one random circle."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed)).tolist()
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[each] for each in range(classes)]


def shuffled_weights(text: ClassText, *, seed: int) -> Float[Tensor, "C D"]:
    """The template of each class, moved by what the prompts of another class add to the template of that one."""
    own, told = class_weights(text, "template"), text.prompt_mean()
    others = another(len(text), seed=seed)
    return normalize(own + (told - own)[others], dim=-1)


@dataclass
class ShuffledPredictor:
    """Cosine to each class's name with another class's description, over tau."""

    seed: int
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """cos(x, w_c) / tau for any classes."""
        return images.float() @ shuffled_weights(text, seed=self.seed).T / self.tau


@dataclass(frozen=True)
class ShuffledCuPL:
    """The control of `cupl`: descriptions of another class, drawn by seed (Roth et al., "Waffling around for
    Performance", ICCV 2023).

    A sentence names its class, so the embedding of the name is exchanged: w_c = t_c + (p_d - t_d), normalised, with p_d
    the mean of the prompts of the other class and t its template. Of its own class that is `cupl` itself. Where the
    description of the class, and not that of just anything, is worth something, `cupl` is better.
    """

    name: str = "cupl-shuffled"
    needs: Needs = "prompts"
    uses_prompts: bool = True
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> ShuffledPredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        start = prepare(task, seed=seed, source="prompts")
        weights = shuffled_weights(task.text, seed=seed)
        tau = calibrate_tau(start.train.embeddings @ weights.T, start.train.labels)
        val = start.selection.val
        score = None if val is None else judge(val.embeddings @ weights.T / tau, val.labels)
        info = start.info(n_parameters=0, val=score) | {"tau": tau}
        return ShuffledPredictor(seed, tau, info=info)
