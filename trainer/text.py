"""The text side that methods share: one embedding a class from what text knows of it, and the temperature of cosines.

One scale for all methods: where published code multiplies cosines by CLIP's exp(logit_scale) = 100, a method here
divides by the tau that fits the zero-shot cosines of the training images best. In CLIP's own space that is about the
same; other encoders need a flatter softmax.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from trainer.data import ClassText, Images

TextSource = Literal["template", "ensemble", "prompts"]
"""What names a class: its first template (the paper's w_i), the mean of its templates, or the mean of its prompts."""
TAU_RANGE = (0.01, 0.1)
"""CLIP's own temperature, and ten times that: where text knows nothing, calibration would flatten without end."""


def class_weights(text: ClassText, source: TextSource) -> Float[Tensor, "C D"]:
    """w_c, unit float32 rows.

    Args:
        source: `template` the first template, `ensemble` the normalised mean of all templates (Radford et al. 2021,
            section 3.1.4; the same thing where there is one), `prompts` that of the reference prompts (CuPL).

    Raises:
        UserError: the prompts are asked for and there are none, or a class has none.
    """
    if source == "prompts":
        return text.prompt_mean()
    template = text.template_mean() if source == "ensemble" else text.template
    return normalize(template.float(), dim=-1)


def calibrate_tau(cosines: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> float:
    """The temperature in TAU_RANGE at which softmax(cosines / tau) has the least negative log-likelihood.

    The paper does not give tau. The cosines come from a classifier without a trained parameter (zero-shot), so the
    training images are unseen by it and no other split is needed. A grid of 41 steps of 6 %.
    """
    low, high = (torch.tensor(bound).log() for bound in TAU_RANGE)
    taus: list[float] = torch.linspace(float(low), float(high), 41).exp().tolist()
    losses = [float(cross_entropy(cosines / tau, labels)) for tau in taus]
    return round(taus[losses.index(min(losses))], 6)


SPREAD = 2.9
"""Standard deviation over the classes of CLIP's cosines with ImageNet's, divided by its own temperature of 0.01."""


def label_free_tau(cosines: Float[Tensor, "B C"]) -> float:
    """The temperature in TAU_RANGE at which logits spread over the classes as CLIP's do; CLIP's own without an image.

    Nothing says without labels how sure a classifier may be. What is chosen by its order alone, the class of an image
    or the surest images of a class, hardly depends on it.
    """
    low, high = TAU_RANGE
    return round(min(max(float(cosines.std(1).mean()) / SPREAD, low), high), 6) if len(cosines) else low


def choose_class_text(
    text: ClassText, images: Images, *, source: Literal["auto"] | TextSource = "auto", tau: float | None = None
) -> tuple[TextSource, float]:
    """Where w_c comes from, and tau. `auto` takes the source under which the training images are likelier, zero-shot.

    Neither has a trained parameter, so this looks at training images alone.

    Args:
        tau: fixed; None calibrates it.
    """
    auto: list[TextSource] = ["template"] if text.prompts is None else ["template", "prompts"]
    found: list[tuple[float, TextSource, float]] = []
    for each in auto if source == "auto" else [source]:
        cosines = images.embeddings.float() @ class_weights(text, each).T
        known = tau or calibrate_tau(cosines, images.labels)
        found.append((float(cross_entropy(cosines / known, images.labels)), each, known))
    _, chosen, known = min(found)
    return chosen, known
