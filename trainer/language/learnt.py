"""h of a classifier's checkpoint as a captioning embedding: AAPE that was learned on classes, used on captions."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.errors import UserError
from trainer.aape.captions import CaptionAAPE
from trainer.checkpoint import RECORD, Learned, load_checkpoint


def class_aape(folder: Path, *, device: torch.device | str = "cpu") -> Learned:
    """The h of an AAPE classifier.

    Raises:
        UserError: the checkpoint is damaged, or of a method without h.
    """
    found = load_checkpoint(folder, device=device)
    h = getattr(getattr(found.predictor, "classifier", None), "h", None)
    if h is None:
        raise UserError(
            f"{folder / RECORD}: is of the method {found.provenance.get('name', '?')}, which has no h(x): give a "
            "checkpoint of aape or one of its variants"
        )
    settings = found.predictor.settings  # type: ignore[attr-defined]
    return Learned(
        found.path,
        CaptionAAPE(h, int(found.provenance["width"]), found.predictor.tau, settings),  # type: ignore[attr-defined]
        found.provenance,
    )
