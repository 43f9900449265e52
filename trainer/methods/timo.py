"""TIMO: text guided by images and images guided by text, in closed form (Li et al., AAAI 2025).

Image-guided text: the prompts of a class are weighed by their cosine with the mean image of the class, and their sum is
its text. Text-guided images: the prompts, each as long as that cosine, are further images of the class for Gaussian
discriminant analysis. logits = cos(x, text) / tau + alpha (x W^T + b). Only the fitted classes are served.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import Images, Task
from trainer.ends import at_end
from trainer.methods.base import Needs
from trainer.methods.blend import best_blend
from trainer.methods.common import all_views, class_sums, prepare
from trainer.methods.gda import class_means, discriminant, precision
from trainer.methods.linear import LinearPredictor
from trainer.training import WORST, Info, judge

GAMMAS, GAMMA = (1.0, 5.0, 20.0, 50.0, 100.0, 200.0, 500.0, 2000.0), 50.0
"""Sharpness of the weights of prompts; the release has 1 for ImageNet, 100 for flowers, 50 for all other data sets."""
ALPHAS = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)
ALPHA = 0.1


def matching(prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"], images: Images) -> Float[Tensor, "C N"]:
    """The cosine of each prompt with the mean image of its class; -inf where no prompt stands."""
    means = normalize(class_sums(images, len(prompts)), dim=-1)
    return torch.einsum("cnd,cd->cn", prompts, means).masked_fill(~mask, -torch.inf)


def guided_text(
    prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"], match: Float[Tensor, "C N"], *, gamma: float
) -> Float[Tensor, "C D"]:
    """The unit sum of each class's prompts, weighed by softmax(gamma m / |m|) over them."""
    shares = normalize(match.masked_fill(~mask, 0.0), dim=-1) * gamma
    weights = shares.masked_fill(~mask, -torch.inf).softmax(-1)
    return normalize(torch.einsum("cn,cnd->cd", weights, prompts), dim=-1)


def guided_images(
    prompts: Float[Tensor, "C N D"], mask: Bool[Tensor, "C N"], match: Float[Tensor, "C N"], *, count: int
) -> Images:
    """The `count` prompts of each class that match it best, each times its match; they come round once, as released."""
    match, order = match.sort(dim=1, descending=True, stable=True)
    own = mask.sum(1)
    rank = torch.arange(count, device=prompts.device)[None, :].expand(len(prompts), -1)
    there = rank < 2 * own[:, None]
    at = rank % own[:, None]
    rows = prompts.gather(1, order.gather(1, at)[..., None].expand(-1, -1, prompts.shape[2]))
    rows = rows * match.gather(1, at)[..., None]
    labels = torch.arange(len(prompts), device=prompts.device)[:, None].expand_as(there)
    return Images(rows[there], labels[there])


@dataclass(frozen=True)
class TIMO:
    """TIMO and its searched form TIMO-S (Li, Guo, Qi, Li, Shi, "Text and Image Are Mutually Beneficial: Enhancing
    Training-Free Few-Shot Classification with CLIP", AAAI 2025, arXiv 2412.11375).

    gamma by validation of the text alone, then the number of prompts that stand beside the images (1, half of them,
    all, all twice) and alpha together, as TIMO-S; without validation images TIMO: gamma 50, all prompts.
    """

    name: str = "timo"
    needs: Needs = "prompts"
    uses_prompts: bool = True
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Choose gamma, the number of prompts and alpha; estimate on all shots."""
        start = prepare(task, seed=seed, source="prompts")
        prompts, mask = task.text.require_prompts()
        selection, most = start.selection, int(mask.sum(1).max())
        gamma, count, alpha, val = GAMMA, most, ALPHA, None
        if selection.val is not None:
            x, labels = selection.val.embeddings, selection.val.labels
            match = matching(prompts, mask, selection.train)
            best = WORST
            for tried in GAMMAS:
                text = guided_text(prompts, mask, match, gamma=tried)
                score = judge(x @ text.T / start.tau, labels)
                if score > best:
                    gamma, best = tried, score
            text = guided_text(prompts, mask, match, gamma=gamma)
            counts = sorted({1, -(-most // 2), most, 2 * most})

            def added(count: int) -> Float[Tensor, "B C"]:
                weight, bias = _gaussian(selection.train, guided_images(prompts, mask, match, count=count), len(mask))
                return x @ weight.T + bias

            count, alpha, val = best_blend(x @ text.T / start.tau, added, counts, ALPHAS, labels)
        match = matching(prompts, mask, start.train)
        text = guided_text(prompts, mask, match, gamma=gamma)
        weight, bias = _gaussian(start.train, guided_images(prompts, mask, match, count=count), len(mask))
        chosen: Info = {"gamma": gamma, "prompts": count, "alpha": alpha}
        if val is not None:
            chosen |= at_end(gamma=(gamma, GAMMAS if most > 1 else ()), alpha=(alpha, ALPHAS))
        info = start.info(n_parameters=weight.numel() + bias.numel(), val=val, **chosen)
        return LinearPredictor(start.names, text / start.tau + alpha * weight, alpha * bias, info=info)


def _gaussian(images: Images, guided: Images, classes: int) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    together = Images.join(all_views(images), guided)
    means = class_means(together, classes)
    return discriminant(means, means @ precision(together.embeddings - means[together.labels]))
