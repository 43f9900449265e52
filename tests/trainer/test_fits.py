"""Finished fits: what is kept is the fit itself, and only a fit of the very same thing is taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_task, unit
from trainer.data import Images
from trainer.fits import FinishedFits
from trainer.methods import METHODS, Method, methods

SETTINGS = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 2, "epochs": 3, "lr": 0.05}
)
TASK = small_task()


def method(name: str, settings: TrainParams = SETTINGS) -> Method:
    return methods([name], settings=settings)[0]


@pytest.mark.parametrize("name", list(METHODS))
def test_a_kept_fit_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    fits, fitted = FinishedFits(tmp_path / "fits"), method(name).fit(TASK, seed=1)
    file = fits.file(method(name), TASK, 1)
    assert fits.load(file) is None
    fits.keep(file, fitted, 1.25)
    found = fits.load(file)
    assert found is not None
    again, seconds = found
    x = unit(7, WIDTH, seed=3)
    assert torch.equal(again.logits(x, TASK.text), fitted.logits(x, TASK.text))
    assert (again.history, again.info, seconds) == (fitted.history, fitted.info, 1.25)


def test_another_method_seed_setting_or_image_is_another_fit(tmp_path: Path) -> None:
    fits = FinishedFits(tmp_path)
    changed = TASK.train.embeddings.clone()
    changed[0, 0] += 0.25
    files = [
        fits.file(method("aape"), TASK, 1),
        fits.file(method("aape"), TASK, 2),
        fits.file(method("aape-no-image"), TASK, 1),
        fits.file(method("aape", SETTINGS.model_copy(update={"lambda_": 4.0})), TASK, 1),
        fits.file(method("aape"), replace(TASK, train=Images(changed, TASK.train.labels)), 1),
    ]
    assert len(set(files)) == len(files)
    assert fits.file(method("aape"), small_task(), 1) == files[0]


@pytest.mark.parametrize("content", [b"", b"not a fit", b"\x00" * 64])
def test_a_file_that_is_no_fit_is_fitted_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    assert FinishedFits(tmp_path).load(tmp_path / "x.safetensors") is None


def test_a_cut_off_fit_is_fitted_anew(tmp_path: Path) -> None:
    fits = FinishedFits(tmp_path)
    file = fits.file(method("aape"), TASK, 1)
    fits.keep(file, method("aape").fit(TASK, seed=1), 1.0)
    file.write_bytes(file.read_bytes()[:-7])
    assert fits.load(file) is None
