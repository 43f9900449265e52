"""What an image-text encoder is: the small protocol that `lite` and every open_clip model fulfil."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

Preprocess = Callable[[Image.Image], UInt8[Tensor, "3 height width"]]
Augment = Callable[[Image.Image, np.random.Generator], UInt8[Tensor, "3 height width"]]


class Encoder(Protocol):
    """A frozen image-text model whose two sides share one space of unit vectors.

    Attributes:
        name: as the user writes it, `lite` or `open_clip:ARCH/PRETRAINED`.
        width: D, the length of an embedding.
        fingerprint: sha256 (hex) over everything that decides an embedding: weights, preprocessing, tokenizer.
        note: one honest line that every output repeats, empty when there is nothing to say.
        preprocess: RGB image -> pixels; a picklable callable, so that worker processes can run it. Bytes, not floats:
            a quarter of the memory on the way to the model, which scales them itself.
        augment: RGB image -> pixels of a random view (`pipeline.encoders.augment`); picklable as well.
        device: where the model runs.
    """

    name: str
    width: int
    fingerprint: str
    note: str
    preprocess: Preprocess
    augment: Augment
    device: torch.device

    def encode_images(self, pixels: UInt8[Tensor, "B 3 height width"]) -> Float[Tensor, "B D"]:
        """Embed preprocessed images; rows have length 1, float32, on the CPU."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Embed sentences; rows have length 1, float32, on the CPU. Independent of the batch they come in."""
        ...

    def encode_sentences(self, texts: Sequence[str]) -> Float[Tensor, "N sentence_width"]:
        """Embed sentences for comparing them with each other alone; rows have length 1, float32, on the CPU."""
        ...
