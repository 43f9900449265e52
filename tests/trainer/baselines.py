"""The baselines by name, and a way to make the long ones quick."""

import pytest

from trainer.methods import FITS_ALONE
from trainer.methods.aape import VARIANTS

BASELINES = [name for name in FITS_ALONE if name not in VARIANTS]
TRAINED = ["tip-adapter-f", "clip-adapter", "taskres", "cross-modal", "lp++", "ape-t", "clap"]


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer steps where the published length would take seconds on a task that needs none of them."""
    monkeypatch.setattr("trainer.methods.cross_modal.ITERATIONS", 200)
    monkeypatch.setattr("trainer.methods.clip_adapter.STEPS", 100)
    monkeypatch.setattr("trainer.methods.clap.STEPS", 100)
