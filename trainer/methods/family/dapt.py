"""DAPT: class texts far apart, the images of a class close together (Cho, Kim, Kim, ICCV 2023).

    x' = (x + v) / |x + v|,  logits = cos(x', e_c) / tau
    loss = cross entropy + text_weight * mean over c < k of exp(-2 |e_c - e_k|^2)
                         + image_weight * mean over images of |x' - s_y|^2 / D

s_y is the mean image of class y as it came (the prototype). v is one shift that all images share, e_c one embedding a
class; v = 0 and e_c the text at first, which is zero-shot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from trainer.data import ClassText, Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import class_sums, prepare
from trainer.methods.family.embeddings import BATCH, STEPS, Embeddings, chosen
from trainer.methods.linear import require_fitted
from trainer.training import Candidate, Info, Schedule, epochs_within

SHARPNESS = 2.0
"""t of exp(-t |e_c - e_k|^2), as released."""
SETTINGS = ((0.01, 0.01, 1e-3), (0.01, 10.0, 1e-3), (0.01, 10.0, 1e-2), (10.0, 100.0, 1e-2))
"""Weight of the texts' and of the images' dispersion, and Adam's rate. The release has a pair of weights a data set, of
0.01 to 100: these are ImageNet's, Caltech101's and EuroSAT's. The rates are those of `cones`.
"""


def between(unit: Float[Tensor, "C D"]) -> Float[Tensor, ""]:
    """Inter-dispersion: the mean of exp(-t |e_c - e_k|^2) over the pairs of unit rows; small where far apart."""
    if len(unit) < 2:
        return unit.new_zeros(())
    near = torch.exp(2 * SHARPNESS * (unit @ unit.T - 1))
    return (near.sum() - near.diagonal().sum()) / (len(unit) * (len(unit) - 1))


def within(shifted: Float[Tensor, "B D"], prototypes: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Intra-dispersion: the mean squared difference of images and the prototypes of their classes, entry by entry."""
    return (shifted - prototypes).square().mean()


class Dispersed(Embeddings):
    """Free class embeddings and a shift of all images, with both dispersions in the loss."""

    def __init__(
        self, weights: Float[Tensor, "C D"], tau: float, spread: float, gather: float, images: Images
    ) -> None:  # fmt: skip
        super().__init__(weights, len(weights), tau, images)
        self.spread, self.gather = spread, gather
        self.prototypes = normalize(class_sums(images, len(weights)), dim=-1)
        self.shift = nn.Parameter(weights.new_zeros(weights.shape[1]))

    def shifted(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """x'."""
        return normalize(images + self.shift, dim=-1)

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """cos(x', e_c) / tau."""
        return super().forward(self.shifted(images))

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """Cross entropy and both dispersions."""
        unit, shifted = self.unit(), self.shifted(batch.embeddings)
        task = cross_entropy(shifted @ unit.T / self.tau, batch.labels)
        dispersion = self.spread * between(unit) + self.gather * within(shifted, self.prototypes[batch.labels])
        return {"loss": task + dispersion, "loss_task": task}


@dataclass
class ShiftedPredictor:
    """cos(x + shift, w_c) / tau for a fixed list of classes.

    Attributes:
        weight: unit rows.
    """

    names: tuple[str, ...]
    weight: Float[Tensor, "C D"]
    shift: Float[Tensor, " D"]
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of the fitted classes.

        Raises:
            UserError: `text` names other classes.
        """
        require_fitted(self.names, text)
        return normalize(images.float() + self.shift, dim=-1) @ self.weight.T / self.tau


@dataclass(frozen=True)
class DAPT:
    """DAPT (Cho, Kim, Kim, "Distribution-Aware Prompt Tuning for Vision-Language Models", ICCV 2023, arXiv 2309.03406).

    Weights of the two dispersions (three released pairs) and rate by validation, four settings. Deviations: the paper
    learns tokens in both towers, so that each image moves as its own content asks; here all images share one shift,
    which can turn them away from what they have in common and no more. Class embeddings are free, as for `cones`. Adam
    and CoOp's epochs, at most 300 steps (released: SGD with a rate a data set of 0.02 to 20, for tokens). Only the
    fitted classes are served.
    """

    name: str = "dapt"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> ShiftedPredictor:
        """Learn class embeddings and shift."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        candidates = [
            Candidate(
                Schedule("adam", rate, epochs, BATCH, warmup_epochs=1),
                partial(Dispersed, start.weights, start.tau, spread, gather),
                {"text_weight": spread, "image_weight": gather},
            )
            for spread, gather, rate in SETTINGS
        ]
        best = chosen(candidates, start, seed=seed)
        assert isinstance(best.learner, Dispersed)
        weight, shift = best.learner.unit().detach(), best.learner.shift.detach()
        info = start.info(n_parameters=weight.numel() + shift.numel(), val=best.val, **best.info)
        return ShiftedPredictor(start.names, weight, shift, start.tau, best.history, info)
