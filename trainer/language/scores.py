"""Generated captions against an image's own ones, and against the image in the encoder's space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.extras import missing_extra
from stages.names import slug
from trainer.language.metrics import PREFIX, bleu4, cider_d, clip_score, ref_clip_score, rouge_l
from trainer.language.words import words
from trainer.predict import TextEncoder, load_text_encoder


def caption_metrics(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """CIDEr-D, BLEU-4, ROUGE-L and the mean number of words; NaN without captions.

    CIDEr-D weighs words by how few images they stand at, so that a single image has none.
    """
    if not said:
        return dict.fromkeys(("cider_d", "bleu_4", "rouge_l", "caption_words"), math.nan)
    ours, theirs = [words(each) for each in said], [[words(each) for each in own] for own in references]
    return {
        "cider_d": cider_d(ours, theirs) if len(said) > 1 else math.nan,
        "bleu_4": bleu4(ours, theirs),
        "rouge_l": rouge_l(ours, theirs),
        "caption_words": sum(map(len, ours)) / len(ours),
    }


class SpaceScores:
    """CLIPScore and RefCLIPScore in the space that the images were embedded in; made once a run, kept by name.

    Args:
        name, fingerprint: of the encoder of the stores.
    """

    def __init__(self, name: str, fingerprint: str) -> None:
        self.name = name
        self._encoder: TextEncoder | None = None
        self._known: dict[str, Tensor] = {}
        try:
            encoder = load_text_encoder(name, device="cpu")
        except UserError as error:
            self.reason: str | None = str(error)
        except ModuleNotFoundError as error:
            self.reason = missing_extra(error) or str(error)
        else:
            same = encoder.fingerprint == fingerprint
            self._encoder = encoder if same else None
            self.reason = None if same else f"the {name} at hand has other weights than the stores were made with"

    @property
    def notes(self) -> tuple[str, ...]:
        """Why there are none, where that is so."""
        if self.reason is None:
            return ()
        return (f"clipscore and refclipscore are left out, since captions cannot be embedded: {self.reason}",)

    def __call__(
        self, images: Float[Tensor, "B D"], said: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        """The two scores, named after the encoder; empty where it is not at hand."""
        if self._encoder is None or not said:
            return {}
        captions = self._embed(said)
        own = [self._embed(each) for each in references]
        x = images.cpu()
        found: Mapping[str, Tensor] = {
            "clipscore": clip_score(x, captions),
            "refclipscore": ref_clip_score(x, captions, own),
        }
        return {f"{name}_{slug(self.name)}": float(value.mean()) for name, value in found.items()}

    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Unit rows of captions behind the score's own words; each text is embedded once."""
        assert self._encoder is not None
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            rows = self._encoder.encode_text([f"{PREFIX} {text}" for text in fresh])
            self._known |= dict(zip(fresh, rows, strict=True))
        return torch.stack([self._known[text] for text in texts])
