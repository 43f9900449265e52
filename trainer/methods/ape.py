"""APE and APE-T: a cache on the entries of the embeddings that tell classes apart (Zhu et al., ICCV 2023).

logits = cos(x, text) / tau + alpha exp(-beta (1 - x' K'^T)) (r L): x' and K' hold the chosen entries of image and
shots, normalised again; L are the shots' labels, and r = exp(gamma KL) weighs a shot by how far zero-shot on the chosen
entries is from its label. APE-T learns r, and for each class one residual on the chosen entries of its text and of its
keys together. The cache knows the classes by name; a class that it has no image of keeps its zero-shot score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.blend import best_blend
from trainer.methods.common import Prepared, class_sums, class_totals, columns, mean_view, prepare
from trainer.methods.tip_adapter import ALPHAS, BETAS
from trainer.text import class_weights
from trainer.training import WORST, Candidate, Info, Learner, Schedule, Score, Trained, choose, epochs_within, refit

ALPHA, BETA, GAMMA = 1.0, 1.0, 0.1
"""The released defaults."""
GAMMAS = (0.0, 0.1, 0.4, 1.6, 6.4)
SHARES, SHARE = (0.2, 0.35, 0.5, 0.7, 0.9), 0.7
"""Entries that are kept, as a share of the width: the release has 500 to 900 of 1,024, another number a data set."""
FEW_BETAS = BETAS[::3]
WEIGHTS, TRAINED_WEIGHTS, TRAINED_SHARE = (0.7, 0.3), (0.2, 0.8), 0.9
"""Of likeness between classes and of variance, as released for ImageNet; the training form looks at text alone."""
TRAIN_AT = ((1.0, 1.0), (10.0, 5.0))
"""alpha and beta while training: as released, and for spaces where the cosines between images are small."""
LR, EPS, EPOCHS, BATCH, WEIGHT_DECAY, STEPS = 1e-3, 1e-3, 30, 256, 0.1, 320
TINY = 1e-6


def likeness(text: Float[Tensor, "C D"], images: Images | None) -> Float[Tensor, " D"]:
    """Mean product, entry by entry, of two embeddings of different classes: their texts, and images where given."""
    sums, counts = text, torch.ones(len(text), device=text.device)
    if images is not None:
        sums = sums + class_sums(images, len(text))
        counts = counts + torch.bincount(images.labels, minlength=len(text))
    pairs = counts.sum().square() - counts.square().sum()
    return (sums.sum(0).square() - sums.square().sum(0)) / pairs


def informative(
    text: Float[Tensor, "C D"], images: Images | None, *, share: float, weights: tuple[float, float]
) -> Int[Tensor, " K"]:
    """The entries with the least likeness between classes and the largest variance over the class texts (eq. 7)."""
    criterion = weights[1] * text.var(0) - weights[0] * likeness(text, images)
    return criterion.topk(max(1, round(share * text.shape[1]))).indices.sort().values


def divergence(
    keys: Float[Tensor, "M D"], text: Float[Tensor, "C D"], labels: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """KL, in bits, between the label of a shot and zero-shot without a temperature, as released."""
    shares = (keys @ text.T).softmax(1)
    own = shares.gather(1, labels[:, None])[:, 0]
    return torch.log2((1 + TINY) / (own + TINY))


def shot_shares(divergent: Float[Tensor, " M"], *, gamma: float) -> Float[Tensor, " M"]:
    """r = exp(gamma KL), divided by exp(gamma mean KL): what all shots have in common is alpha's."""
    return torch.exp(gamma * (divergent - divergent.mean()))


def weighted_cache(
    affinity: Float[Tensor, "M B"], labels: Int[Tensor, " M"], shares: Float[Tensor, " M"], classes: int, *, beta: float
) -> Float[Tensor, "B C"]:
    """What the cache adds for alpha = 1; each key counts by its share."""
    return class_totals(torch.exp(beta * (affinity - 1)) * shares[:, None], labels, classes).T


@dataclass
class APEPredictor:
    """Zero-shot over tau, and the cache on some entries.

    Attributes:
        keys: unit; 0 in the entries that are not chosen.
        mask: 1 in the chosen entries, else 0.
        shares: r.
    """

    names: tuple[str, ...]
    keys: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    shares: Float[Tensor, " M"]
    mask: Float[Tensor, " D"]
    alpha: float
    beta: float
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes; the cache adds to those of its own names."""
        x = images.float()
        known = columns(self.names, text)[self.labels]
        kept = known >= 0
        near = self.keys[kept] @ normalize(x * self.mask, dim=-1).T
        added = weighted_cache(near, known[kept], self.shares[kept], len(text), beta=self.beta)
        return x @ class_weights(text, "ensemble").T / self.tau + self.alpha * added


@dataclass
class APETrainedPredictor:
    """Adapted class text over tau, and the adapted cache.

    Attributes:
        keys: the shots with the residual of their class.
        residual: what is added to the text of the fitted classes; 0 in the entries that are not chosen.
    """

    names: tuple[str, ...]
    keys: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    shares: Float[Tensor, " M"]
    residual: Float[Tensor, "C D"]
    alpha: float
    beta: float
    tau: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def class_weights(self, text: ClassText) -> Float[Tensor, "C D"]:
        """The text of each class, with the residual of those that were fitted."""
        weights = class_weights(text, "ensemble").clone()
        where = columns(self.names, text)
        weights[where[where >= 0]] += self.residual[where >= 0]
        return weights

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores for any classes; a class that was not fitted has its zero-shot score."""
        x = images.float()
        known = columns(self.names, text)[self.labels]
        kept = known >= 0
        added = weighted_cache(self.keys[kept] @ x.T, known[kept], self.shares[kept], len(text), beta=self.beta)
        return x @ self.class_weights(text).T / self.tau + self.alpha * added


class _Adapted(Learner):
    """Residuals of the classes on the chosen entries, and the keys' shares."""

    def __init__(
        self, weights: Float[Tensor, "C D"], chosen: Int[Tensor, " K"], tau: float, alpha: float, beta: float,
        images: Images,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text, self.chosen, self.tau, self.alpha, self.beta = weights, chosen, tau, alpha, beta
        self.shots, self.labels = mean_view(images), images.labels
        self.moved = nn.Parameter(weights.new_zeros(len(weights), len(chosen)))
        self.shares = nn.Parameter(weights.new_ones(len(self.shots)))

    def residual(self) -> Float[Tensor, "C D"]:
        return torch.zeros_like(self.text).index_copy(1, self.chosen, self.moved)

    def keys(self) -> Float[Tensor, "M D"]:
        return self.shots + self.residual()[self.labels]

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        residual = self.residual()
        # (s + r_c) x = s x + r_c x: the keys are not made anew at every step
        moved = residual @ images.T
        affinity = self.shots @ images.T + moved[self.labels]
        added = weighted_cache(affinity, self.labels, self.shares, len(self.text), beta=self.beta)
        return (images @ self.text.T + moved.T) / self.tau + self.alpha * added


@dataclass(frozen=True)
class APE:
    """APE and APE-T (Zhu, Zhang, He, Zhou, Wang, Zhao, Gao, "Not All Features Matter: Enhancing Few-shot CLIP with
    Adaptive Prior Refinement", ICCV 2023, arXiv 2304.01195).

    APE: alpha, beta, gamma and the share of entries by validation. APE-T: AdamW, rate 1e-3, batches of 256, cosine, at
    most 30 epochs; the epoch, and the alpha and beta to train with, by validation; both searched again afterwards.

    Args:
        trains: False is the training-free form.
    """

    name: str
    trains: bool
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True

    def fit(self, task: Task, *, seed: int) -> APEPredictor | APETrainedPredictor:
        """Choose the entries, fill the cache, and learn the residuals where asked."""
        start = prepare(task, seed=seed)
        return self._trained(start, seed=seed) if self.trains else self._refined(start)

    def _refined(self, start: Prepared) -> APEPredictor:
        selection, chosen, val = start.selection, (SHARE, BETA, GAMMA, ALPHA), None
        if selection.val is not None:
            found = _Refined(start, selection.train, selection.val)
            settings = list(product(SHARES, FEW_BETAS, GAMMAS))
            zero_shot = selection.val.embeddings @ start.weights.T / start.tau
            best, alpha, val = best_blend(zero_shot, found.added, settings, ALPHAS, selection.val.labels)
            chosen = (*best, alpha)
        share, beta, gamma, alpha = chosen
        entries, keys, divergent = _cache(start, start.train, share)
        if val is None:
            alpha *= float(torch.exp(gamma * divergent.mean()))  # as released, where r is not divided
        mask = torch.zeros_like(start.weights[0]).index_fill(0, entries, 1.0)
        info: Info = {"share": share, "beta": beta, "gamma": gamma, "alpha": alpha}
        if val is not None:
            ends = {"beta": (beta, FEW_BETAS), "gamma": (gamma, GAMMAS), "alpha": (alpha, ALPHAS)}
            info |= at_end(share=(share, (*SHARES, 1.0)), **ends)
        info = start.info(n_parameters=keys.numel(), val=val, **info)
        shares = shot_shares(divergent, gamma=gamma)
        labels = start.train.labels
        return APEPredictor(start.names, keys * mask, labels, shares, mask, alpha, beta, start.tau, info=info)

    def _trained(self, start: Prepared, *, seed: int) -> APETrainedPredictor:
        tried = TRAIN_AT if start.selection.val is not None else TRAIN_AT[:1]
        found = [_train(start, *at, seed=seed) for at in tried]
        best, alpha, beta, val = max(found, key=lambda each: each[3] or WORST)
        best = refit(best, start.train, start.selection, seed=seed)
        learner = best.learner
        assert isinstance(learner, _Adapted)
        keys, residual, shares = (each.detach() for each in (learner.keys(), learner.residual(), learner.shares))
        ends = {} if val is None else at_end(alpha=(alpha, ALPHAS), beta=(beta, BETAS))
        chosen = {**best.info, "alpha": alpha, "beta": beta, **ends}
        info = start.info(n_parameters=learner.moved.numel() + len(shares), val=val, **chosen)
        return APETrainedPredictor(
            start.names, keys, start.train.labels, shares, residual, alpha, beta, start.tau, best.history, info
        )


def _cache(start: Prepared, images: Images, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen entries, the keys on them (unit there, at full width) and the divergence of each."""
    shots = Images(mean_view(images), images.labels)
    entries = informative(start.weights, shots, share=share, weights=WEIGHTS)
    mask = torch.zeros_like(start.weights[0]).index_fill(0, entries, 1.0)
    keys, text = (normalize(each * mask, dim=-1) for each in (shots.embeddings, start.weights))
    return entries, keys, divergence(keys, text, images.labels)


class _Refined:
    """What the cache adds to the scores of the validation images; what the last share and beta gave is kept."""

    def __init__(self, start: Prepared, train: Images, val: Images) -> None:
        self.start, self.train, self.val = start, train, val
        self.known: tuple[float, Tensor, Tensor] | None = None
        self.near: tuple[float, float, Tensor] | None = None

    def added(self, setting: Sequence[float]) -> Float[Tensor, "B C"]:
        share, beta, gamma = setting
        if self.known is None or self.known[0] != share:
            entries, keys, divergent = _cache(self.start, self.train, share)
            x = normalize(self.val.embeddings[:, entries], dim=-1)
            self.known = share, keys[:, entries] @ x.T, divergent
        _, affinity, divergent = self.known
        if self.near is None or self.near[:2] != (share, beta):
            self.near = share, beta, torch.exp(beta * (affinity - 1))
        weighted = self.near[2] * shot_shares(divergent, gamma=gamma)[:, None]
        return class_totals(weighted, self.train.labels, len(self.start.names)).T


def _train(
    start: Prepared, alpha: float, beta: float, *, seed: int
) -> tuple[Trained, float, float, Score | None]:  # fmt: skip
    """Residuals trained with this alpha and beta, then the alpha and beta that suit them best and their score."""
    entries = informative(start.weights, None, share=TRAINED_SHARE, weights=TRAINED_WEIGHTS)
    epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS, wanted=EPOCHS, warmup=0)
    schedule = Schedule("adamw", LR, epochs, BATCH, weight_decay=WEIGHT_DECAY, eps=EPS)
    learner = partial(_Adapted, start.weights, entries, start.tau, alpha, beta)
    candidate = Candidate(schedule, learner, {"train_alpha": alpha, "train_beta": beta})
    trained = choose([candidate], start.selection, seed=seed)
    val, found = start.selection.val, trained.learner
    assert isinstance(found, _Adapted)
    if val is None:
        return trained, ALPHA, BETA, None
    residual, keys, shares = found.residual().detach(), found.keys().detach(), found.shares.detach()
    zero_shot = val.embeddings @ (start.weights + residual).T / start.tau
    affinity = keys @ val.embeddings.T

    def added(at: float) -> Float[Tensor, "B C"]:
        return weighted_cache(affinity, found.labels, shares, len(start.names), beta=at)

    beta, alpha, score = best_blend(zero_shot, added, BETAS, ALPHAS, val.labels)
    return trained, alpha, beta, score
