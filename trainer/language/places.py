"""What captioning and VQA share: where h and the map may be learned, and the model that a predictor serves with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from stages.params import EvaluationParams, is_folder
from trainer.aape.captions import CaptionAAPE
from trainer.checkpoint import load_learned, read_provenance
from trainer.data.captions import CaptionFeatures
from trainer.data.pairs import CaptionTask, check_pairs
from trainer.language.learnt import class_aape
from trainer.language.model import LanguageModel, find_language_model, load_language_model
from trainer.language.prefix import Prefix, require_language

Places = Mapping[str, CaptionFeatures | Path]
"""Where something was learned beside the data set itself: its features, or the folder of a checkpoint; by name."""


def places(asked: EvaluationParams, others: Sequence[CaptionFeatures]) -> Places:
    """The places of `evaluation.learnt_on`; a checkpoint by the data set that it was learned on.

    Raises:
        UserError: a folder holds no checkpoint, or two are of one data set.
    """
    found: dict[str, CaptionFeatures | Path] = {each.dataset: each for each in others}
    for folder in (Path(place) for place in asked.learnt_on if is_folder(place)):
        name = str(read_provenance(folder).get("dataset", folder.name))
        if name in found:
            raise UserError(f"evaluation.learnt_on: two places of the data set {name!r}: name one", exit_code=2)
        found[name] = folder
    return found


def tunable(where: Places) -> list[str]:
    """Places whose h can go on learning from captions: it was learned from captions there."""
    return [
        name
        for name, place in where.items()
        if not isinstance(place, Path) or str(read_provenance(place).get("protocol", "")).startswith("retrieval")
    ]


def language_task(features: CaptionFeatures, where: Places) -> CaptionTask:
    """All training and validation images with their captions, and what was learned elsewhere.

    Raises:
        UserError: a checkpoint is damaged or of another encoder; fewer than two images and nothing from elsewhere.
    """
    there: dict[str, Any] = {}
    for place, learned in where.items():
        there[place] = (
            _learned(learned, features) if isinstance(learned, Path) else CaptionTask(learned.train, learned.val)
        )
    task = CaptionTask(features.train, features.val, there)
    if not there or len(features.train) >= 2:
        check_pairs(task)
    return task


def _learned(folder: Path, features: CaptionFeatures) -> Any:
    """What a checkpoint's folder holds: h of captions, a map to a language model, or h of classes."""
    protocol = str(read_provenance(folder).get("protocol", ""))
    if protocol.startswith(("captioning", "vqa")):
        found = load_learned(folder, Prefix, device=features.device)
    elif protocol.startswith("retrieval"):
        found = load_learned(folder, CaptionAAPE, device=features.device)
    else:
        found = class_aape(folder, device=features.device)
    found.require_encoder(name=features.encoder, fingerprint=features.encoder_fingerprint, width=features.width)
    return found.predictor


def language_of(predictor: Any, device: torch.device) -> LanguageModel:
    """The model that a predictor was fitted for, loaded once a process.

    Raises:
        UserError: it is not there, or has other weights.
    """
    found = find_language_model(predictor.settings.llm, precision=predictor.settings.precision)
    require_language(predictor, found, where=f"the prefix of {predictor.language}")
    return load_language_model(found, device)


def spoken_by(predictor: Any) -> tuple[str, ...]:
    """Which language model a predictor speaks with, and its honest line where it has one."""
    found = find_language_model(predictor.settings.llm, precision=predictor.settings.precision)
    lines = [f"language model {predictor.language}: frozen, {predictor.settings.beams_text}", found.note]
    cut, captions = (predictor.info.get(name, 0) for name in ("captions_cut", "captions"))
    if cut:
        most = predictor.settings.caption_tokens
        lines.append(
            f"{cut} of {captions} training captions are longer than language.caption_tokens={most}: what is behind is "
            "not learned"
        )
    return tuple(filter(None, lines))


def caption(predictor: Prefix, x: Float[Tensor, "B D"], *, what: str = "captions") -> list[str]:
    """A caption of each image, greedily or by beam search as the settings say.

    Args:
        what: what the bar says.
    """
    language, settings = language_of(predictor, x.device), predictor.settings
    start = language.embed(torch.tensor(language.start, dtype=torch.long))
    prompts = [torch.cat([start, each.to(start.dtype)]) for each in predictor.prefix(x)]
    said = language.generate(
        prompts, most=settings.caption_tokens, beams=settings.beams, batch=settings.decode_batch, what=what
    )
    return [language.text(tokens) for tokens in said]
