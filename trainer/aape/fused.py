"""The training step of the default recipe without autograd: gradients written out, no memory asked for, few products.

Serves the bottleneck heads with h(x), constant p^a, squared L_distill and SGD at a fixed temperature: `aape`,
`aape-literal` and `aape-no-distill`. Everything else takes `trainer.aape.steps.AutogradSteps`, which computes the same.

What is notable: all parameters and the class weights are rows of one matrix, D wide,

    up^T | b | a | v^T | down | w          K rows each, then C

so that neighbours share a product: x @ [v^T; down; w]^T is V^T x, U1 x and x . w at once, w @ [a; v^T]^T is A w and
V^T w, and the update of SGD is one operation on the first 5 K rows. The classifier's parameters are views of this
matrix. Nothing of size B x C x D exists; the largest tensors are B x C x K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.training import TrainParams
from trainer.aape.classifier import Classifier
from trainer.aape.cosines import SMALLEST_SQUARE
from trainer.data import Images

STEP_ENTRIES = 1_000_000
"""Entries of the largest temporary tensor of a step (float32: 4 MB); a larger batch is added up from parts."""


def can_fuse(settings: TrainParams) -> bool:
    """Whether these settings are within what the written-out step computes."""
    constant_targets = settings.detach and settings.distill == "squared" and settings.distill_by == "image"
    return (
        settings.head in ("residual", "literal")
        and settings.image
        and settings.optimizer == "sgd"
        and settings.tau != "learnt"
        and (constant_targets or not settings.distills)
    )


@dataclass
class _Buffers:
    """Memory of a step on n images of C classes; K entries of the bottleneck."""

    x: Float[Tensor, "n D"]
    target: Float[Tensor, "n D"]
    h: Float[Tensor, "n D"]
    seen: Float[Tensor, "n 2K+C"]
    b: Float[Tensor, "n K"]
    r: Float[Tensor, "n C K"]
    half: Float[Tensor, "n C K"]
    work: Float[Tensor, "n C K"]

    @classmethod
    def of(cls, like: Tensor, *, rows: int, classes: int, width: int, hidden: int) -> _Buffers:
        """Buffers on the device of `like`."""
        flat = [(rows, width)] * 3 + [(rows, 2 * hidden + classes), (rows, hidden)]
        return cls(*(like.new_empty(shape) for shape in [*flat, *[(rows, classes, hidden)] * 3]))

    def first(self, rows: int) -> _Buffers:
        """The same memory for the first `rows` images."""
        return _Buffers(*(value[:rows] for value in vars(self).values()))


class FusedSteps:
    """SGD on one fit; see `trainer.aape.steps.Steps`.

    Args:
        classifier: h and g; its parameters become views of this object's matrix.
        images: the training set, on the device.
        constant: p^a of each image; None leaves L_distill out.
        weights: w_c.
        tau: softmax temperature.
        settings: for which `can_fuse` holds.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Images,
        constant: Float[Tensor, "M D"] | None,
        weights: Float[Tensor, "C D"],
        tau: float,
        settings: TrainParams,
    ) -> None:
        self.classifier, self.tau, self.settings = classifier, tau, settings
        self.images, self.constant = images, constant
        self.residual = settings.head == "residual"
        self.matrix = _matrix(classifier, weights)
        k = settings.hidden
        self.up, self.b, _, self.v, self.down = self.matrix[: 5 * k].split(k)  # type: ignore[no-untyped-call]
        self.a_and_v, self.weights = self.matrix[2 * k : 4 * k], self.matrix[5 * k :]
        self.seen_by_x = self.matrix[3 * k :] if self.residual else self.matrix[3 * k : 5 * k]
        self.learned = self.matrix[: 5 * k]
        self.shares = weights.new_ones(5 * k, 1)
        self.shares[:k] = self.shares[4 * k :] = settings.generator_share
        self.momentum = torch.zeros_like(self.learned)
        self.ww = self.weights.square().sum(-1) if self.residual else None
        classes, width = weights.shape
        batch = settings.batch_of(len(images))
        part = max(1, min(batch, STEP_ENTRIES // (classes * k)))
        self.buffers = _Buffers.of(weights, rows=part, classes=classes, width=width, hidden=k)
        self.sums = weights.new_zeros(2)

    def epoch(self, order: Int[Tensor, "M"], rate: float) -> tuple[float, float]:
        """One pass in this order; the mean task loss and the mean L_distill."""
        self.sums.zero_()
        for rows in order.split(self.settings.batch_of(len(order))):  # type: ignore[no-untyped-call]
            self.step(rows, rate)
        task, distill = (self.sums / len(order)).tolist()
        return task, distill

    @torch.no_grad()
    def step(self, rows: Int[Tensor, "B"], rate: float) -> None:
        """One step of SGD on these images."""
        self.momentum.mul_(self.settings.momentum).add_(self.learned, alpha=self.settings.weight_decay)
        of_text = self.weights @ self.a_and_v.T
        gram = self.v @ self.v.T
        gradient_text, gradient_gram = torch.zeros_like(of_text), torch.zeros_like(gram)
        for part in rows.split(len(self.buffers.x)):  # type: ignore[no-untyped-call]
            self._accumulate(part, 1 / len(rows), of_text, gram, gradient_text, gradient_gram)
        k = self.settings.hidden
        self.momentum[2 * k : 4 * k].addmm_(gradient_text.T, self.weights)
        self.momentum[3 * k : 4 * k].addmm_(gradient_gram + gradient_gram.T, self.v)
        self.learned.addcmul_(self.momentum, self.shares, value=-rate)

    def _accumulate(
        self,
        rows: Int[Tensor, "n"],
        share: float,
        of_text: Float[Tensor, "C 2K"],
        gram: Float[Tensor, "K K"],
        gradient_text: Float[Tensor, "C 2K"],
        gradient_gram: Float[Tensor, "K K"],
    ) -> None:
        """Add the gradients of n images: of what depends on x to the momentum, of `of_text` and `gram` to theirs.

        `CosineInBottleneck` has the same formulas; `share` is 1 / B.
        """
        k, m = self.settings.hidden, self.buffers.first(len(rows))
        a, vw = of_text[:, :k], of_text[:, k:]
        x, labels = torch.index_select(self.images.embeddings, 0, rows, out=m.x), self.images.labels[rows, None]
        torch.mm(x, self.seen_by_x.T, out=m.seen[:, : len(self.seen_by_x)])
        vx, rho = m.seen[:, :k], m.seen[:, k : 2 * k].clamp_min_(0)
        h = torch.mm(rho, self.up, out=m.h)
        b = torch.mm(h, self.b.T, out=m.b)

        r = torch.add(a, b[:, None], out=m.r).clamp_min_(0)
        half = torch.mm(r.view(-1, k), gram, out=m.half.view(-1, k)).view_as(r)
        numerator = torch.bmm(vx[:, None], r.transpose(1, 2))[:, 0]
        if self.residual and self.ww is not None:
            half += vw
            square = torch.add(half, vw, out=m.work).mul_(r).sum(-1).add_(self.ww).clamp_min_(SMALLEST_SQUARE)
            numerator += m.seen[:, 2 * k :]
        else:
            square = torch.mul(half, r, out=m.work).sum(-1).clamp_min_(SMALLEST_SQUARE)
        inverse = square.rsqrt()
        cosine = numerator * inverse
        log_likely = torch.log_softmax(cosine / self.tau, 1)
        self.sums[0] -= log_likely.gather(1, labels).sum()

        of_cosine = log_likely.exp().scatter_add_(1, labels, log_likely.new_full((1, 1), -1.0).expand_as(labels))
        of_cosine *= share / self.tau
        of_numerator = of_cosine * inverse
        of_square = of_cosine.mul_(cosine).mul_(inverse.square().mul_(-0.5)).mul_(square > SMALLEST_SQUARE)
        weighted = torch.mul(of_square[..., None], r, out=m.work)
        gradient_text[:, k:].add_(weighted.sum(0), alpha=2 if self.residual else 0)
        gradient_gram.addmm_(weighted.view(-1, k).T, r.view(-1, k))
        of_vx = torch.bmm(of_numerator[:, None], r)[:, 0]
        torch.mul(of_numerator[..., None], vx[:, None], out=m.work)
        of_r = m.work.addcmul_(of_square[..., None], half, value=2).mul_(r.sign_())
        gradient_text[:, :k].add_(of_r.sum(0))
        of_b = of_r.sum(1)

        self.momentum[k : 2 * k].addmm_(of_b.T, h)
        of_h = of_b @ self.b
        if self.constant is not None:
            far = h.sub_(torch.index_select(self.constant, 0, rows, out=m.target))
            self.sums[1] += far.square().sum()
            of_h.add_(far, alpha=2 * share * self.settings.lambda_)
        self.momentum[:k].addmm_(rho.T, of_h)
        of_rho = (of_h @ self.up.T).mul_(rho.sign())
        self.momentum[3 * k : 5 * k].addmm_(torch.cat([of_vx, of_rho], 1).T, x)


def _matrix(classifier: Classifier, weights: Float[Tensor, "C D"]) -> Float[Tensor, "5K+C D"]:
    """All parameters and w as rows of one matrix, of which the parameters are made views."""
    if classifier.h is None or classifier.b is None:
        raise ValueError("the written-out step needs h(x)")
    k, h = classifier.a.shape[0], classifier.h
    with torch.no_grad():
        matrix = torch.cat([h.up.T, classifier.b, classifier.a, classifier.v.T, h.down, weights])
    up, b, a, v, down = matrix[: 5 * k].split(k)  # type: ignore[no-untyped-call]
    h.up.data, classifier.b.data, classifier.a.data, classifier.v.data, h.down.data = up.T, b, a, v.T, down
    return matrix
