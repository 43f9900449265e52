"""Test-time tuning: the class embeddings are shifted for one image, so that its confident views agree.

    p = mean over the confident views v of softmax_c(x_v . w_c / tau),    w_c = (t_c + s_c) / |t_c + s_c|
    s_c = -step sign(dH(p) / ds_c) at s = 0,    H(p) = -sum_c p_c log p_c

which is the first step of Adam. The image is classified by its centre crop under the shifted embeddings. No label is
read, and nothing is kept from one image to the next. Where the step would leave H larger than it was it is halved, and
in the end not taken. `confident-views` is the control that shifts nothing: p itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText, Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import SAW_VIEWS, prepare
from trainer.text import class_weights
from trainer.training import Info, Score, judge

STEP = 0.113
"""Size of the step in parts of 1 / sqrt(D), the size of the entries of a unit embedding: 0.005 at CLIP's 512, the
published rate.
"""
SHARE, LEAST = 0.1, 2
"""Share of the views that are confident, as published for 63 views, and how many there are of fewer."""
HALVINGS = 5
ENTRIES = 2**20
"""Entries of shifted class embeddings that are held at once."""


def entropy(shares: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows"]:
    """In nats."""
    found: Tensor = torch.special.entr(shares).sum(-1)
    return found


def most_alike(views: Float[Tensor, "B V D"], share: float) -> Float[Tensor, "B kept D"]:
    """The centre crop, which comes first, and this share of the other views, those with the largest cosine to it."""
    others = views[:, 1:]
    kept = max(1, round(share * others.shape[1]))
    near = (others @ views[:, :1].mT)[..., 0].topk(min(kept, others.shape[1]), dim=1).indices
    return torch.cat([views[:, :1], others.gather(1, near[..., None].expand(-1, -1, views.shape[2]))], 1)


def confident(logits: Float[Tensor, "B V C"], share: float) -> Int[Tensor, "B kept"]:
    """The views with the least entropy, LEAST of them at least."""
    count = min(logits.shape[1], max(LEAST, round(share * logits.shape[1])))
    return entropy(logits.softmax(-1)).topk(count, dim=1, largest=False).indices


def towards_agreement(
    views: Float[Tensor, "B kept D"],
    weights: Float[Tensor, "B C D"],
    tau: float,
    mean: Float[Tensor, "B C"] | None = None,
    cosines: Float[Tensor, "B kept C"] | None = None,
) -> Float[Tensor, "B C D"]:
    """The sign of the gradient of H(p) by each class's shift, where the class embeddings are `weights`, unit rows.

    Args:
        mean: p, where more than these views have a part in it.
        cosines: of the views with the weights, where they are known.
    """
    cosines = views @ weights.mT if cosines is None else cosines
    shares = (cosines / tau).softmax(-1)
    pull = -(shares.mean(1) if mean is None else mean).clamp_min(1e-30).log()[:, None]
    by_logit = shares * (pull - (shares * pull).sum(-1, keepdim=True))
    along = (by_logit * cosines).sum(1)  # what a shift along the embedding itself would do, and normalising undoes
    return (by_logit.mT @ views).addcmul_(along[..., None], weights, value=-1).sign_()


@dataclass(frozen=True)
class Shifted:
    """Class embeddings of each image, normalise(w - step sign): cosines to them need no embedding of their own,

        x . (w - step s) / |w - step s|,    |w - step s|^2 = |w|^2 - 2 step w . s + step^2 |s|^2

    so that a smaller step costs no more than products that are there already.

    Attributes:
        sign: of the gradient.
        step: size of each image's step.
    """

    weights: Float[Tensor, "C D"]
    sign: Float[Tensor, "B C D"]
    step: Float[Tensor, " B"]

    @property
    def embeddings(self) -> Float[Tensor, "B C D"]:
        """The embeddings themselves, unit rows."""
        return normalize(self.weights - self.step[:, None, None] * self.sign, dim=-1)


def tuned(
    views: Float[Tensor, "B kept D"], weights: Float[Tensor, "C D"], tau: float, crops: Float[Tensor, "B D"]
) -> tuple[Shifted, Float[Tensor, "B C"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Class embeddings shifted for each image by its confident views, the cosines of its centre crop with them, and
    H(p) before and after; it never grows.
    """
    kept, every = views.shape[1], torch.cat([views, crops[:, None]], 1)
    plain = every @ weights.T

    def unsure(cosines: Float[Tensor, "B kept+1 C"]) -> Float[Tensor, " B"]:
        return entropy((cosines[:, :kept] / tau).softmax(-1).mean(1))

    before = unsure(plain)
    sign = towards_agreement(views, weights.expand(len(views), *weights.shape), tau)
    by_sign, own = every @ sign.mT, (sign * weights).sum(-1)
    lengths = weights.square().sum(-1), torch.linalg.vector_norm(sign, dim=-1).square()
    step = views.new_full((len(views), 1), STEP / weights.shape[1] ** 0.5)
    for halving in range(HALVINGS + 2):
        norm = (lengths[0] - 2 * step * own + step.square() * lengths[1]).sqrt()
        found = (plain - step[..., None] * by_sign) / norm[:, None]
        after = unsure(found)
        worse: Bool[Tensor, " B"] = after > before
        if not bool(worse.any()):
            break
        step = torch.where(worse[:, None], step / 2 if halving < HALVINGS else 0 * step, step)
    return Shifted(weights, sign, step[:, 0]), found[:, kept], before, torch.minimum(after, before)


@dataclass
class TestTimePredictor:
    """Zero-shot, tuned for each image by its views; of an image without views it is zero-shot."""

    kind: str
    tau: float
    share: float
    alike: float
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Zero-shot scores of images of which there is the centre crop alone, for any classes."""
        return images.float() @ class_weights(text, "ensemble").T / self.tau

    @torch.no_grad()
    def view_logits(self, views: Float[Tensor, "B V D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of images with all their views, the centre crop first."""
        weights = class_weights(text, "ensemble")
        if views.shape[1] == 1:
            return self.logits(views[:, 0], text)
        parts = torch.split(views.float(), max(1, ENTRIES // weights.numel()))
        return torch.cat([self._some(part, weights) for part in parts])

    def _some(self, views: Float[Tensor, "B V D"], weights: Float[Tensor, "C D"]) -> Float[Tensor, "B C"]:
        if self.alike < 1:
            views = most_alike(views, self.alike)
        logits = views @ weights.T / self.tau
        rows = confident(logits, self.share)[..., None]
        if self.kind == "confident-views":
            agreed = logits.gather(1, rows.expand(-1, -1, len(weights))).softmax(-1).mean(1)
            return agreed.clamp_min(1e-30).log()
        sure = views.gather(1, rows.expand(-1, -1, views.shape[2]))
        _, found, _, _ = tuned(sure, weights, self.tau, views[:, 0])
        return found / self.tau


@dataclass(frozen=True)
class TestTime:
    """TPT (Shu et al., "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models", NeurIPS 2022,
    arXiv 2209.07511), DiffTPT (Feng et al., "Diverse Data Augmentation with Diffusions for Effective Test-time Prompt
    Tuning", ICCV 2023, arXiv 2308.06038), and their control.

    One step, a tenth of the views; DiffTPT keeps the 80 % of the views that are most like the crop, and of those the
    surest 30 %. Views are those of the store, of whatever source (`pipeline embed-images --views N`, `--views-from
    DIR`). Deviations: the paper tunes context tokens, here each class embedding has a shift; a step that would raise
    the entropy is made smaller; tau is calibrated on the training images, as for every method.
    """

    name: str
    share: float = SHARE
    alike: float = 1.0
    needs: Needs = "text"
    uses_prompts: bool = False
    serves_new_classes: bool = True
    reads_views: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> TestTimePredictor:
        """Calibrate tau on the training images; nothing else is learned."""
        start = prepare(task, seed=seed)
        found = TestTimePredictor(self.name, start.tau, self.share, self.alike)
        score = on_views(found, start.selection.val, task.text)
        found.info = start.info(n_parameters=0, val=score, saw=SAW_VIEWS)
        return found


def on_views(found: TestTimePredictor, val: Images | None, text: ClassText) -> Score | None:
    """How well it does on images to choose by, with their views where they have some."""
    if val is None:
        return None
    if val.views is None:
        return judge(found.logits(val.embeddings, text), val.labels)
    return judge(found.view_logits(torch.cat([val.embeddings[:, None], val.views], 1), text), val.labels)


TPT, DIFF_TPT, CONFIDENT_VIEWS = TestTime("tpt"), TestTime("difftpt", 0.3, 0.8), TestTime("confident-views")
