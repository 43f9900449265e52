"""ProKeR: kernel ridge regression on what zero-shot leaves over, in closed form (Bendou et al., CVPR 2025).

f(x) = t(x) + k(x, S) (K / lambda + I)^-1 (Y - t(S)): t the zero-shot cosines, S the shots, Y their labels as rows of
the identity, k(x, s) = exp(-beta (1 - cos(x, s))), K = k(S, S). lambda is both how closely the shots are followed and
how much they say: for a small one the residual is lambda times the ridge regression's. The classes are known by name;
one without shots keeps its zero-shot score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.common import Prepared, columns, mean_view, one_hot, prepare
from trainer.text import calibrate_tau, class_weights
from trainer.training import Info, Score, judge

BETA, STRENGTH = 2.0, 0.05
"""About what the release takes from ImageNet for other data sets (beta 1.5 to 3, lambda 0.05 to 0.1)."""
BETAS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
STRENGTHS = (0.0005, 0.0015, 0.005, 0.015, 0.05, 0.15, 0.5, 1.5, 5.0, 15.0, 50.0)
"""Published grids lie within 0.5 .. 3 and 0.001 .. 1; other encoders have smaller cosines."""
ROUNDS, PATIENCE = 3, 2
"""Searches along lambda and beta in turn, at most; and values in a row that are worse where a search turns back."""


def kernel(one: Float[Tensor, "B D"], other: Float[Tensor, "M D"], *, beta: float) -> Float[Tensor, "B M"]:
    """exp(-beta (1 - cos)) of unit rows."""
    return torch.exp(beta * (one @ other.T - 1))


def ridge(
    gram: Float[Tensor, "M M"], residual: Float[Tensor, "M C"], *, strength: float
) -> Float[Tensor, "M C"]:  # fmt: skip
    """(K / lambda + I)^-1 R, by Cholesky: I makes it positive definite."""
    factor: Tensor = torch.linalg.cholesky(gram / strength + torch.eye(len(gram), device=gram.device))
    return torch.cholesky_solve(residual, factor)


@dataclass
class ProKeRPredictor:
    """Zero-shot cosines and the kernel's part, over tau.

    Attributes:
        keys: the shots.
        values: (K / lambda + I)^-1 (Y - t(S)).
    """

    names: tuple[str, ...]
    keys: Float[Tensor, "M D"]
    values: Float[Tensor, "M C"]
    beta: float
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes; the kernel adds to those of its own names."""
        x = images.float()
        scores = x @ class_weights(text, "ensemble").T
        where = columns(self.names, text)
        known = where >= 0
        scores[:, where[known]] += kernel(x, self.keys, beta=self.beta) @ self.values[:, known]
        return scores / self.tau


@dataclass(frozen=True)
class ProKeR:
    """ProKeR (Bendou, Ouasfi, Gripon, Boukhayma, "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large
    Vision-Language Models", CVPR 2025, arXiv 2501.11175), training-free.

    beta and lambda by validation. The release tries a whole grid; here the search goes along lambda and beta in turn
    until neither changes, from the default both ways until it gets worse.
    """

    name: str = "proker"
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> ProKeRPredictor:
        """Choose beta and lambda, then solve for all shots."""
        start = prepare(task, seed=seed)
        search = _Search(start)
        beta, strength, val = search.best() if start.selection.val is not None else (BETA, STRENGTH, None)
        keys = mean_view(start.train)
        residual = one_hot(start.train.labels, len(start.names)) - keys @ start.weights.T
        values = ridge(kernel(keys, keys, beta=beta), residual, strength=strength)
        chosen: Info = {"beta": beta, "lambda": strength}
        tau = start.tau
        if val is not None:
            chosen |= at_end(beta=(beta, BETAS), **{"lambda": (strength, STRENGTHS)})
            tau, val = search.calibrated((beta, strength))
        info = start.info(n_parameters=values.numel(), val=val, **chosen) | {"tau": tau}
        return ProKeRPredictor(start.names, keys, values, beta, tau, info=info)


class _Search:
    """Validation scores of beta and lambda, each computed once; the kernel of the last beta is kept."""

    def __init__(self, start: Prepared) -> None:
        self.val = start.selection.val
        self.keys = mean_view(start.selection.train)
        labels = one_hot(start.selection.train.labels, len(start.names))
        self.residual = labels - self.keys @ start.weights.T
        self.zero_shot = None if self.val is None else self.val.embeddings @ start.weights.T
        self.kernels: tuple[float, Tensor, Tensor] | None = None
        self.known: dict[tuple[float, float], Score] = {}

    def best(self) -> tuple[float, float, Score]:
        """beta, lambda and their score."""
        at = BETA, STRENGTH
        for _ in range(ROUNDS):
            before = at
            at = at[0], self._along(STRENGTHS, at[1], beta=at[0])
            at = self._along(BETAS, at[0], strength=at[1]), at[1]
            if at == before:
                break
        return *at, self.score(at)

    def _along(
        self, values: Sequence[float], middle: float, *, beta: float | None = None, strength: float | None = None
    ) -> float:
        """The best of these values, from the middle up, then down, on each side until PATIENCE in a row are worse."""

        def score(value: float) -> Score:
            return self.score((value if beta is None else beta, value if strength is None else strength))

        best = near = min(values, key=lambda value: abs(math.log(value / middle)))
        start = values.index(near)
        for side in (values[start + 1 :], values[:start][::-1]):
            worse = 0
            for value in side:
                better = score(value) > score(best)
                best, worse = (value, 0) if better else (best, worse + 1)
                if worse == PATIENCE:
                    break
        return best

    def score(self, at: tuple[float, float]) -> Score:
        """How good beta and lambda are on the validation images; the loss, at its own temperature, where it counts."""
        if at not in self.known:
            assert self.val is not None
            most = max((accuracy for accuracy, _ in self.known.values()), default=0.0)
            accuracy = judge(self.scores(*at), self.val.labels)[0]
            self.known[at] = self.calibrated(at)[1] if accuracy >= most else (accuracy, -math.inf)
        return self.known[at]

    def calibrated(self, at: tuple[float, float]) -> tuple[float, Score]:
        """The temperature that fits the scores of the validation images, and their measure with it."""
        assert self.val is not None
        scores = self.scores(*at)
        tau = calibrate_tau(scores, self.val.labels)
        return tau, judge(scores / tau, self.val.labels)

    def scores(self, beta: float, strength: float) -> Float[Tensor, "B C"]:
        """f of the validation images."""
        assert self.val is not None
        assert self.zero_shot is not None
        if self.kernels is None or self.kernels[0] != beta:
            near, gram = (kernel(each, self.keys, beta=beta) for each in (self.val.embeddings, self.keys))
            self.kernels = beta, near, gram
        _, near, gram = self.kernels
        return self.zero_shot + near @ ridge(gram, self.residual, strength=strength)
