"""Probabilities that mean something: the temperature, and measures of how far off they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss
from small_stores import CLASSES, fast, make_stores

from trainer.checkpoint import load_checkpoint
from trainer.confidence import BINS, fit_temperature, measures, observe, reliability
from trainer.features import load_features
from trainer.inputs import Inputs
from trainer.record import PREDICTIONS, RELIABILITY, Prediction, Reliability, load_record, read_lines
from trainer.run import run


def drawn(images: int, classes: int, *, sharpness: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn from softmax(logits / sharpness)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)) * 3
    shares = torch.tensor(logits / sharpness).softmax(1).numpy()
    return torch.tensor(logits), torch.tensor([rng.choice(classes, p=row) for row in shares])


def naive_ece(shares: np.ndarray, labels: np.ndarray, bins: int) -> float:
    confidence, right = shares.max(1), shares.argmax(1) == labels
    total = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found_again(sharpness: float) -> None:
    assert fit_temperature(*drawn(4000, 5, sharpness=sharpness)) == pytest.approx(sharpness, rel=0.06)


def test_a_classifier_that_is_right_on_all_of_a_few_images_is_not_made_certain() -> None:
    for gap in (2, 6, 20):
        logits = gap * torch.eye(3).repeat(4, 1)
        temperature = fit_temperature(logits, torch.arange(3).repeat(4))
        assert 0.8 < float((logits / temperature).softmax(1).max(1).values.mean()) < 0.995, gap


def test_a_classifier_that_is_wrong_on_every_image_is_made_unsure_and_no_number_breaks() -> None:
    logits = 20 * torch.eye(3).repeat(4, 1)
    assert fit_temperature(logits, (torch.arange(3).repeat(4) + 1) % 3) > 15
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) > 0
    with pytest.raises(ValueError, match="no image"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.integers(2, 12), st.floats(1, 5), st.integers(0, 99))
def test_measures_are_those_of_the_plain_formulas(images: int, classes: int, sharpness: float, seed: int) -> None:
    logits, labels = drawn(images, classes, sharpness=1.0, seed=seed)
    shares = (logits / sharpness).softmax(1).numpy()
    tiles = ((i, logits[i : i + 7]) for i in range(0, images, 7))
    seen = observe(tiles, labels, temperature=sharpness)
    found = measures(seen)
    assert found["ece"] == pytest.approx(naive_ece(shares, labels.numpy(), BINS), abs=1e-9)
    names = list(range(classes))
    assert found["nll"] == pytest.approx(log_loss(labels, shares, labels=names), rel=1e-6)
    whole = brier_score_loss(labels, shares, labels=names, scale_by_half=False)
    assert found["brier"] == pytest.approx(whole, rel=1e-6)
    assert found["adaptive_ece"] <= 1
    lines = reliability(seen, method="m")
    assert sum(line.count for line in lines) == images
    gaps = sum(line.count * abs(line.accuracy - line.confidence) for line in lines if line.count)  # type: ignore[operator]
    assert gaps / images == pytest.approx(found["ece"], abs=1e-5)


def test_without_images_nothing_is_measured() -> None:
    assert all(np.isnan(value) for value in measures(observe([], torch.zeros(0))).values())


@pytest.mark.parametrize(
    ("per_split", "source"),
    [
        ({"train": 8, "val": 6, "test": 12}, "labelled images that no choice was made on"),
        ({"train": 4, "val": 3, "test": 12}, "validation images that choices were made on"),
        ({"train": 4, "test": 12}, "images held out of the shots"),
    ],
)
def test_a_run_fits_a_temperature_on_images_that_were_not_learned_from_and_says_which(
    tmp_path: Path, per_split: dict[str, int], source: str
) -> None:
    make_stores(tmp_path / "cache", per_split=per_split)
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    methods = ["zero-shot", "aape-plus", "logistic", "gda"]
    record = run(fast(methods=methods), inputs, results=tmp_path, jobs=1)
    assert any(source in note for note in record.notes)
    folder = tmp_path / "runs" / "w"
    assert load_record(folder).fits == record.fits
    lines = read_lines(folder / RELIABILITY, Reliability)
    for fit in record.fits:
        found = load_checkpoint(folder / "checkpoints" / fit.method)
        assert found.temperature == fit.info["temperature"] > 0
        assert source in str(fit.info["calibrated_on"])
        own = [line for line in lines if line.method == fit.method]
        assert sum(line.count for line in own) == 12 * CLASSES
        test = inputs.features.test()
        said = found.logits(test.images.embeddings.float()).softmax(1).max(1).values
        written = read_lines(folder / "checkpoints" / fit.method / PREDICTIONS, Prediction)
        assert [line.probability for line in written] == pytest.approx(said.tolist(), abs=2e-6)
        gap = sum(line.count * abs(line.accuracy - line.confidence) for line in own if line.count)  # type: ignore[operator]
        assert gap / (12 * CLASSES) == pytest.approx(fit.metrics["ece"], abs=1e-4)


def test_one_shot_with_nothing_held_out_is_not_calibrated_and_says_so(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 1, "test": 4})
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    record = run(fast(methods=["zero-shot"], shots=1), inputs, results=tmp_path, jobs=1)
    assert any("no labelled image was held out to fit a temperature on" in note for note in record.notes)
    assert load_checkpoint(tmp_path / "runs" / "w" / "checkpoints" / "zero-shot").temperature == 1
    (fit,) = record.fits
    assert fit.metrics["ece"] == fit.metrics["uncalibrated_ece"]
