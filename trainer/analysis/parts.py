"""What the score of a class is made of, as far as a classifier can say: text, shots, the vector it compares with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data import ClassText
from trainer.methods.aape import AAPEPredictor
from trainer.methods.aape_plus import AAPEPlusPredictor
from trainer.methods.ape import APEPredictor, APETrainedPredictor
from trainer.methods.base import Predictor
from trainer.methods.clip_adapter import AdapterPredictor
from trainer.methods.family.dapt import ShiftedPredictor
from trainer.methods.family.shared import SharedPredictor
from trainer.methods.gda import GDAPredictor
from trainer.methods.linear import LinearPredictor
from trainer.methods.proker import ProKeRPredictor
from trainer.methods.text import ShuffledPredictor, TextPredictor
from trainer.methods.tip_adapter import CachePredictor
from trainer.text import class_weights

TEXT, IMAGES = "text", "images"
BESIDE_TEXT = (CachePredictor, APEPredictor, APETrainedPredictor, ProKeRPredictor, GDAPredictor)
"""Zero-shot cosines over tau, and what the shots add."""
OF_COSINES = (
    AAPEPredictor, TextPredictor, ShuffledPredictor, AdapterPredictor, ShiftedPredictor, SharedPredictor
)  # fmt: skip
"""Their logits are cosines over tau."""


@torch.no_grad()
def score_parts(
    predictor: Predictor, images: Float[Tensor, "B D"], text: ClassText
) -> Mapping[str, Float[Tensor, "B C"]]:
    """What comes from class text and what from the shots, together the logits; empty where none can tell."""
    if isinstance(predictor, AAPEPlusPredictor):
        if not set(text.names) <= set(predictor.names):
            return {}
        heard = predictor.text_weight * predictor.text_head.logits(images, text)
    elif isinstance(predictor, BESIDE_TEXT) and text.is_text:
        heard = images @ class_weights(text, "ensemble").T / predictor.tau
    else:
        return {}
    return {TEXT: heard, IMAGES: predictor.logits(images, text) - heard}


@torch.no_grad()
def class_cosines(predictor: Predictor, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"] | None:
    """The cosine with the vector that stands for a class; None where there is none.

    AAPE: w_c(x), of head `none` cos(h(x), w_c). AAPE+: the attended prompts. CLIP-Adapter: the adapted image with the
    class text. DAPT: the shifted image with the learned embedding. A linear classifier without bias: its weights (a
    centroid, an adapted text). Else the class text.
    """
    if isinstance(predictor, OF_COSINES):
        return predictor.logits(images, text) * predictor.tau
    if isinstance(predictor, AAPEPlusPredictor):
        return predictor.text_head.logits(images, text) * predictor.text_head.tau
    if isinstance(predictor, BESIDE_TEXT) and text.is_text:
        return images @ class_weights(text, "ensemble").T
    if isinstance(predictor, LinearPredictor) and not bool(predictor.bias.any()):
        return images @ normalize(predictor.weight, dim=-1).T
    return None
