"""Finished fits: what is kept is the fit itself, and only a fit of the very same thing is taken."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_task, unit
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Images
from trainer.methods import FITS_ALONE, Method, Predictor, methods
from trainer.methods.linear import LinearPredictor
from trainer.packing import canonical
from trainer.runs.fits import FinishedFits, timed_fit

SETTINGS = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 2, "epochs": 3, "lr": 0.05}
)
PROVENANCE = {"encoder": "lite", "encoder_fingerprint": "ab" * 32, "width": WIDTH}
TASK = small_task()


def method(name: str, settings: TrainParams = SETTINGS) -> Method:
    return methods([name], settings=settings)[0]


@cache
def fitted_once(name: str) -> Predictor:
    return timed_fit(method(name), TASK, 1)[0]


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_a_kept_fit_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    fits, fitted = FinishedFits(tmp_path / "fits"), fitted_once(name)
    file = fits.file(method(name), TASK, 1)
    assert fits.load(file) is None
    fits.keep(file, fitted, 1.25)
    found = fits.load(file)
    assert found is not None
    again, seconds = found
    x = unit(7, WIDTH, seed=3)
    assert torch.equal(again.logits(x, TASK.text), fitted.logits(x, TASK.text))
    assert (again.history, again.info, seconds) == (fitted.history, fitted.info, 1.25)


def layouts(value: object) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shape and strides of every tensor in a predictor."""
    if isinstance(value, torch.Tensor):
        return [(tuple(value.shape), value.stride())]
    parts = [*vars(value).values()] if hasattr(value, "__dict__") else []
    parts += [*value.values()] if isinstance(value, dict) else [*value] if isinstance(value, list | tuple) else []
    return [each for part in parts for each in layouts(part)]


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_a_fresh_predictor_lies_in_memory_as_one_from_a_file(tmp_path: Path, name: str) -> None:
    """Another layout is another path through the processor's linear algebra, and on some another last bit."""
    fits, fitted = FinishedFits(tmp_path / "fits"), fitted_once(name)
    file = fits.file(method(name), TASK, 1)
    fits.keep(file, fitted, 1.0)
    again, _ = fits.load(file) or (None, 0.0)
    save_checkpoint(tmp_path / "c", fitted, TASK.text, provenance=PROVENANCE)
    served = load_checkpoint(tmp_path / "c").predictor
    for each in (fitted, again, served):
        assert all(strides == torch.empty(shape).stride() for shape, strides in layouts(each)), type(each).__name__
    assert layouts(fitted) == layouts(again) == layouts(served)
    x = unit(7, WIDTH, seed=3)
    assert torch.equal(served.logits(x, TASK.text), fitted.logits(x, TASK.text))


def test_what_a_method_returns_in_any_layout_is_put_in_order() -> None:
    turned = LinearPredictor(TASK.text.names, unit(WIDTH, 6).T, torch.ones(12)[::2])
    assert layouts(canonical(turned)) == [((6, WIDTH), (WIDTH, 1)), ((6,), (1,))]


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
    fits.keep(file, fitted_once("aape"), 1.0)
    file.write_bytes(file.read_bytes()[:-7])
    assert fits.load(file) is None


def test_a_fit_with_one_changed_bit_is_fitted_anew(tmp_path: Path) -> None:
    fits = FinishedFits(tmp_path)
    file = fits.file(method("zero-shot"), TASK, 1)
    fits.keep(file, LinearPredictor(TASK.text.names, unit(6, WIDTH), torch.zeros(6)), 1.0)
    assert fits.load(file) is not None
    changed = bytearray(file.read_bytes())
    changed[-100] ^= 1
    file.write_bytes(changed)
    assert fits.load(file) is None


def test_a_fit_under_the_name_of_another_is_fitted_anew(tmp_path: Path) -> None:
    fits = FinishedFits(tmp_path)
    file, other = (fits.file(method(name), TASK, 1) for name in ("zero-shot", "nearest-centroid"))
    fits.keep(file, fitted_once("zero-shot"), 1.0)
    file.rename(other)
    assert fits.load(other) is None
