"""DynaPrompt: test-time tuning that remembers, in a buffer of several shifts, what the images before taught it.

For each image in turn, with its confident views:

    taken      the shifts of the buffer under which the views agree more than under zero-shot, H(p) <= H(p_0), and the
               crop stands out from them more, d >= d_0, with d = P(y|crop) - mean_v P(y|view), y the crop's class
    appended   none is taken: a new shift, 0 at first; where the buffer is full, in the place of the one that was not
               taken for longest
    tuned      the taken ones by one step of the entropy of their mean, and kept so
    predicted  the mean of their probabilities for the crop

A single shift handed from image to image drifts until every image is of one class; each of several is moved by images
alone that it suits. What is said of an image depends on those before it: the order is drawn by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Task, Unlabelled
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.family.test_time import SHARE, STEP, confident, entropy, towards_agreement
from trainer.text import class_weights
from trainer.training import Info, judge

BUFFER = 10
"""Shifts at most, as published."""
ONLINE = 0.03
"""Of the step of one image alone. What is learned stays, and class embeddings are freer than the tokens of the paper:
with a whole step the buffer drifts to a few classes (seen on labelled training images, clothing-small, eurosat-small).
"""
SAW = "the test images before it, in an order drawn by seed, no labels"


@dataclass
class Buffer:
    """The shifted class embeddings that are kept, unit rows, the one that was taken last at the end."""

    start: Float[Tensor, "C D"]
    tau: float
    kept: list[Tensor] = field(default_factory=list)

    def see(self, views: Float[Tensor, "V D"]) -> Float[Tensor, " C"]:
        """Probabilities of one image by its views, the centre crop first, after learning from them."""
        plain = views @ self.start.T
        sure = confident(plain[None] / self.tau, SHARE)[0]
        rows = torch.cat([sure, sure.new_zeros(1)])
        seen, plain = views[rows], plain[rows]  # confident views, then the crop
        # One matrix after the other: several in one product would be copied side by side for every image.
        cosines = [seen @ each.T for each in self.kept]
        taken = self._taken(plain, cosines)
        if not taken:
            taken = [self._appended()]
            cosines = [*cosines[len(cosines) - taken[0] :], plain]
        mean = self._shares(torch.stack([cosines[i][:-1] for i in taken])).mean((0, 1))
        stepped = [self._stepped(self.kept[i], seen[:-1], cosines[i][:-1], mean) for i in taken]
        self.kept = [each for i, each in enumerate(self.kept) if i not in taken] + stepped
        return self._shares(torch.stack([each @ views[0] for each in stepped])).mean(0)

    def _taken(self, plain: Float[Tensor, "kept+1 C"], cosines: list[Tensor]) -> list[int]:
        """Positions of the shifts that suit an image, by the cosines of its confident views and its crop."""
        if not cosines:
            return []
        shares = self._shares(torch.stack([plain, *cosines]))
        views, own = shares[:, :-1].mean(1), shares[:, -1]
        likeliest = own.argmax(1, keepdim=True)
        apart = (own - views).gather(1, likeliest)[:, 0]
        unsure = entropy(views)
        suits = (unsure[1:] <= unsure[0]) & (apart[1:] >= apart[0])
        return [int(i) for i in suits.nonzero()[:, 0]]

    def _appended(self) -> int:
        self.kept = [*self.kept[max(0, len(self.kept) - BUFFER + 1) :], self.start]
        return len(self.kept) - 1

    def _stepped(
        self, weights: Float[Tensor, "C D"], views: Float[Tensor, "kept D"], cosines: Float[Tensor, "kept C"],
        mean: Float[Tensor, " C"],
    ) -> Float[Tensor, "C D"]:  # fmt: skip
        sign = towards_agreement(views[None], weights[None], self.tau, mean[None], cosines[None])[0]
        return normalize(torch.add(weights, sign, alpha=-ONLINE * STEP / views.shape[1] ** 0.5), dim=-1)

    def _shares(self, cosines: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        return (cosines / self.tau).softmax(-1)


@dataclass
class OnlinePredictor:
    """Zero-shot for an image alone; of many with views each by what those before it taught."""

    tau: float
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Zero-shot scores, for any classes: without views nothing can be learned of an image."""
        return images.float() @ class_weights(text, "ensemble").T / self.tau

    def split_logits(self, images: Unlabelled, text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of all images, seen in an order drawn by seed."""
        if images.views is None:
            return self.logits(images.embeddings, text)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        found = images.embeddings.new_zeros(len(images), len(text), dtype=torch.float32)
        every = (torch.cat([images.embeddings[i : i + 1], images.views[i]]).float() for i in order.tolist())
        for i, logits in zip(order.tolist(), self.stream(every, text), strict=True):
            found[i] = logits
        return found

    def buffer(self, text: ClassText) -> Buffer:
        """An empty buffer, for images that are still to come."""
        return Buffer(class_weights(text, "ensemble"), self.tau)

    @torch.no_grad()
    def stream(self, images: Iterator[Float[Tensor, "V D"]], text: ClassText) -> Iterator[Float[Tensor, " C"]]:
        """Scores of one image after the other, each with its views, the centre crop first, in the order they come."""
        buffer = self.buffer(text)
        for views in images:
            yield buffer.see(views).clamp_min(1e-30).log()


@dataclass(frozen=True)
class DynaPrompt:
    """DynaPrompt (Xiao et al., "DynaPrompt: Dynamic Test-Time Prompt Tuning", ICLR 2025, arXiv 2501.16404).

    Ten shifts, one step an image, as published. Deviations: shifts of the class embeddings for context tokens, and
    steps as small as those bear (ONLINE); the step is the first of Adam each time, without momentum from image to
    image; tau is calibrated on training images.
    """

    name: str = "dynaprompt"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True
    reads_views: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> OnlinePredictor:
        """Calibrate tau on the training images; nothing else is learned before the first image is judged."""
        start = prepare(task, seed=seed)
        found, val = OnlinePredictor(start.tau, seed), start.selection.val
        score = None if val is None else judge(found.split_logits(Unlabelled.of(val), task.text), val.labels)
        found.info = start.info(n_parameters=0, val=score, saw=SAW)
        return found
