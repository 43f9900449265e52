"""What the images of one class say beyond what g says of all at once: a residual of the class's own, in closed form.

    w_c(x) = w_c + r_c + V relu(A w_c + B h(x)),    r = m (1 + s) tau X^T (K + s I)^-1 (Y - P),    K = X X^T

with X the shots, Y their labels one-hot and P the probabilities that g gives them: the kernel ridge regression of
ProKeR (Bendou et al., "ProKeR: A Kernel Perspective on Few-Shot Adaptation", CVPR 2025), with a linear kernel, of what
g leaves over. Not in the paper. A class without shots has no r_c and keeps g's residual alone. The ridge s and the
multiple m are chosen by likelihood on validation images, m = 0 among them, so that r is as large as the shots bear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.aape.classifier import Classifier
from trainer.aape.cosines import SMALLEST_SQUARE
from trainer.data import Images
from trainer.likelihood import least_loss

STRENGTHS, USUAL_STRENGTH = (0.03, 0.3, 1.0, 3.0, 30.0), 1.0
"""Ridges; unit images have 1 on the diagonal of K."""
MULTIPLES, USUAL_MULTIPLE = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0), 4.0
"""Of r, in logits for a probability that is off by one; the usual one where there is no image to choose by."""


@dataclass(frozen=True)
class Choice:
    """How r is made, and how likely it makes the images that it was chosen by.

    Attributes:
        accuracy, loss: of those images, the loss at the temperature that suits them best.
    """

    strength: float = USUAL_STRENGTH
    multiple: float = USUAL_MULTIPLE
    accuracy: float = -1.0
    loss: float = float("inf")


class Residuals:
    """r for any ridge and multiple, of shots and the classifier that was learned from them.

    Args:
        images: the shots.
        classifier: h and g as learned, head `residual`.
        weights: w_c.
        tau: the temperature that they were learned with.
    """

    def __init__(self, images: Images, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float) -> None:
        self.tau = tau
        x = images.embeddings.double()
        left = -torch.softmax(classifier(images.embeddings, weights) / tau, 1).double()
        left[torch.arange(len(images), device=left.device), images.labels] += 1
        self.dual = len(x) <= x.shape[1]
        self.x = x
        self.values, self.basis = torch.linalg.eigh(x @ x.T if self.dual else x.T @ x)
        self.along = self.basis.T @ (left if self.dual else x.T @ left)

    def __call__(self, strength: float, multiple: float) -> Float[Tensor, "C D"]:
        """r."""
        found = self.basis @ (self.along / (self.values.clamp_min(0) + strength)[:, None])
        found = self.x.T @ found if self.dual else found
        scaled: Tensor = multiple * (1 + strength) * self.tau * found.T
        return scaled.float()


@torch.no_grad()
def choose_residuals(
    residuals: Residuals, classifier: Classifier, weights: Float[Tensor, "C D"], val: Images
) -> Choice:
    """The ridge and the multiple that make validation images likeliest."""
    x = val.embeddings
    dot, square = classifier.parts(x, weights, weights)
    best, near = Choice(), None
    for strength in STRENGTHS:
        one = residuals(strength, 1.0)
        dot_one, square_one = classifier.parts(x, weights, weights + one)
        own = one.square().sum(-1)
        along, across = dot_one - dot, square_one - square - own  # the parts of each that are linear in the multiple
        for multiple in MULTIPLES if strength == STRENGTHS[0] else MULTIPLES[1:]:
            norm = (square + multiple * across + multiple**2 * own).clamp_min(SMALLEST_SQUARE).sqrt()
            cosines = (dot + multiple * along) / norm
            loss, near = least_loss(cosines, val.labels, near=near)
            if loss < best.loss:
                best = Choice(strength, multiple, float((cosines.argmax(1) == val.labels).double().mean()), loss)
    return best
