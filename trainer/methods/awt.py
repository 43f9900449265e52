"""AWT, zero-shot: views of the image against prompts of the class, by entropy-weighted optimal transport (Zhu et al.,
NeurIPS 2024).

A view counts by how sure zero-shot is of it, a prompt by how sure zero-shot would be of the image with it in the place
of its class; between the two weighted sets, for each class, stands the entropic transport of cosines. Views are those
of the store (`pipeline embed-images --views N`), the centre crop first; an image without views is one view, and its
score the weighted mean of the prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trainer.data import ClassText, Task
from trainer.methods.base import Needs
from trainer.methods.common import SAW_VIEWS, prepare
from trainer.text import class_weights
from trainer.training import Info, judge

SOFTNESS = 0.5
"""Temperature of the weights of views and of prompts, over entropies in nats."""
EPSILON, ROUNDS, ENOUGH = 0.1, 100, 0.01
"""Entropic transport: its regularisation, iterations at most, and the mean change at which it ends."""
ENTRIES = 2**21
"""Cosines of views with prompts that are held at once."""


def weights_of_views(logits: Float[Tensor, "B V C N"], mask: Bool[Tensor, "C N"]) -> Float[Tensor, "B V"]:
    """softmax(-entropy / 0.5) over the views, of the mean of the prompts."""
    shares = mean_of_prompts(logits, mask).softmax(-1)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return (-entropy / SOFTNESS).softmax(1)


def weights_of_prompts(logits: Float[Tensor, "B C N"], mask: Bool[Tensor, "C N"]) -> Float[Tensor, "B C N"]:
    """softmax(-entropy / 0.5) over the prompts of a class, of all classes' means with the prompt in its class's place.

    No B x C x N x C scores are made: one term of the sums of the entropy is exchanged.
    """
    means = mean_of_prompts(logits, mask)
    most = torch.maximum(means.amax(1), logits.masked_fill(~mask, -torch.inf).amax((1, 2)))[:, None]
    of_mean, of_prompt = means - most, logits - most[..., None]
    terms = torch.stack([of_mean.exp(), of_mean.exp() * of_mean])  # of the total, and of what the entropy is made of
    top = torch.zeros_like(of_mean, dtype=torch.bool).scatter(1, means.argmax(1, keepdim=True), True)
    rest = terms.masked_fill(top, 0.0).sum(2, keepdim=True)
    # the largest term cannot be taken off a sum that it rules without losing the others: they are summed without it
    others = torch.where(top, rest, terms.sum(2, keepdim=True) - terms)
    total = others[0][..., None] + of_prompt.exp()
    moment = others[1][..., None] + of_prompt.exp() * of_prompt
    total = total.clamp_min(torch.finfo(total.dtype).tiny)
    entropy = total.log() - moment / total
    return (-entropy / SOFTNESS).masked_fill(~mask, -torch.inf).softmax(-1)


def mean_of_prompts(logits: Float[Tensor, "*rows C N"], mask: Bool[Tensor, "C N"]) -> Float[Tensor, "*rows C"]:
    """The mean score of each class's prompts."""
    return logits.masked_fill(~mask, 0.0).sum(-1) / mask.sum(1)


def transport(
    cosines: Float[Tensor, "B C V N"], views: Float[Tensor, "B V"], prompts: Float[Tensor, "B C N"]
) -> Float[Tensor, "B C V N"]:
    """Sinkhorn's plan of each class; an image whose plan hardly changes any more is left as it is."""
    near = torch.exp((cosines - 1) / EPSILON)
    rows, columns = torch.ones_like(near[..., 0]), torch.ones_like(near[..., 0, :])
    going = torch.ones(len(near), dtype=torch.bool, device=near.device)
    for _ in range(ROUNDS):
        before = rows
        found = views[:, None] / (near @ columns[..., None])[..., 0]
        rows = torch.where(going[:, None, None], found, rows)
        found = prompts / (rows[..., None, :] @ near)[..., 0, :]
        columns = torch.where(going[:, None, None], found, columns)
        going = going & ((rows - before).abs().mean((1, 2)) >= ENOUGH)
        if not bool(going.any()):
            break
    return rows[..., None] * near * columns[..., None, :]


@dataclass
class AWTPredictor:
    """Transported cosines over tau."""

    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """The prompts are needed one by one, and not only their mean."""
        return True

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of images of which there is the centre crop alone, for any classes."""
        return self.view_logits(images[:, None], text)

    @torch.no_grad()
    def view_logits(self, views: Float[Tensor, "B V D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of images with all their views, the centre crop first."""
        prompts, mask = with_template(text)
        count = max(1, ENTRIES // (views.shape[1] * mask.numel()))
        parts = torch.split(views, count)
        return torch.cat([self._some(part.float(), prompts, mask) for part in parts])

    def _some(
        self, views: Float[Tensor, "B V D"], prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"]
    ) -> Float[Tensor, "B C"]:
        cosines = (views @ prompts.flatten(0, 1).T).view(*views.shape[:2], *mask.shape)
        logits = cosines / self.tau
        plan = transport(
            cosines.transpose(1, 2), weights_of_views(logits, mask), weights_of_prompts(logits[:, 0], mask)
        )
        scores: Tensor = (plan * logits.transpose(1, 2)).sum((2, 3))
        return scores


def with_template(text: ClassText) -> tuple[Float[Tensor, "C N D"], Bool[Tensor, "C N"]]:
    """The template of each class before its prompts, as the release has it."""
    prompts, mask = text.require_prompts()
    first = class_weights(text, "template")[:, None]
    return torch.cat([first, prompts], 1), torch.cat([torch.ones_like(mask[:, :1]), mask], 1)


@dataclass(frozen=True)
class AWT:
    """AWT without training (Zhu, Ji, Zhao, Wu, Wang, "AWT: Transferring Vision-Language Models via Augmentation,
    Weighting, and Transportation", NeurIPS 2024, arXiv 2407.04603).

    Temperatures 0.5 and 0.5, regularisation 0.1, as released for all data sets; tau as for every method.
    """

    name: str = "awt"
    needs: Needs = "prompts"
    uses_prompts: bool = True
    serves_new_classes: bool = True
    reads_views: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> AWTPredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        start = prepare(task, seed=seed, source="prompts")
        predictor = AWTPredictor(start.tau)
        val = start.selection.val
        score = None if val is None else judge(predictor.logits(val.embeddings, task.text), val.labels)
        predictor.info = start.info(n_parameters=0, val=score, saw=SAW_VIEWS)
        return predictor
