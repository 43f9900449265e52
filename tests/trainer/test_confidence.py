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
from trainer.confidence import BINS, Distance, fit_temperature, measures, observe, reliability
from trainer.confidence.answers import Wanted, answers
from trainer.confidence.conformal import fewest_images, prediction_sets, right_class_scores, threshold
from trainer.confidence.distance import distances
from trainer.data.features import load_features
from trainer.runs.inputs import Inputs
from trainer.runs.record import PREDICTIONS, RELIABILITY, Prediction, Reliability, load_record, read_lines
from trainer.runs.run import run


def drawn(images: int, classes: int, *, sharpness: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that are drawn from softmax(logits / sharpness)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)) * 3
    labels = (logits / sharpness + rng.gumbel(size=logits.shape)).argmax(1)
    return torch.tensor(logits), torch.tensor(labels)


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


def test_logits_that_give_every_class_the_same_probability_are_brought_to_a_scale_that_says_something() -> None:
    logits, labels = drawn(200, 20, sharpness=1.0)
    right = float((logits.argmax(1) == labels).float().mean())
    for scale in (1e-3, 1e-5):
        flat = logits * scale
        confidence = float((flat / fit_temperature(flat, labels)).softmax(1).max(1).values.mean())
        assert confidence == pytest.approx(right, abs=0.1)


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


@settings(max_examples=10, deadline=None)
@given(st.integers(10, 60), st.sampled_from([0.05, 0.1, 0.25]), st.integers(2, 20), st.integers(0, 999))
def test_sets_hold_the_right_class_as_often_as_asked_whatever_the_classifier(
    held: int, rate: float, classes: int, seed: int
) -> None:
    """Over many draws of the held-out images: the promise is one on average over them."""
    draws, new = 400, 20
    logits, labels = drawn(draws * (held + new), classes, sharpness=3.0, seed=seed)  # far too sure of itself
    scores = right_class_scores(logits.softmax(1), labels).view(draws, held + new)
    missed = []
    for row in scores:
        largest = threshold(row[:held], rate)
        missed.append(0.0 if largest is None else float((row[held:] > largest).double().mean()))
    assert np.mean(missed) <= rate + 4 * np.std(missed) / np.sqrt(draws) + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), st.integers(1, 99))
def test_the_threshold_is_that_of_the_plain_rule_and_none_with_too_few_images(
    scores: list[float], percent: int
) -> None:
    rate, n = percent / 100, len(scores)
    place = -(-(n + 1) * (100 - percent) // 100)  # in whole numbers
    found = threshold(torch.tensor(scores), rate)
    assert found == (None if place > n else pytest.approx(sorted(scores)[place - 1]))
    assert (found is None) == (n < fewest_images(rate))


def test_a_set_is_never_empty_and_holds_every_class_where_nothing_can_be_promised() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33]])
    assert prediction_sets(shares, 0.0).sum(1).tolist() == [1, 1]
    assert prediction_sets(shares, None).all()
    assert prediction_sets(shares, 0.7).tolist() == [[True, True, False], [True, True, True]]
    for rate in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            threshold(shares[0], rate)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 40), st.integers(5, 200), st.floats(0.5, 0.99))
def test_the_limit_keeps_the_share_that_was_asked_for_of_those_held_out(classes: int, images: int, kept: float) -> None:
    rng = torch.Generator().manual_seed(images)
    known = torch.nn.functional.normalize(torch.randn(classes, 8, generator=rng), dim=-1)
    x = torch.nn.functional.normalize(torch.randn(images, 8, generator=rng), dim=-1)
    distance = Distance(known.half(), distances(x, known.half()).sort().values)
    assert float((distance.of(x) <= distance.limit(kept)).double().mean()) >= min(kept, 1 - 1e-9)
    assert distance.of(x[:3]).tolist() == pytest.approx([min(1 - float(a @ b) for b in known) for a in x[:3]], abs=2e-3)


def test_images_that_are_all_the_same_neither_break_the_temperature_nor_the_sets(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", noise=0.0)
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    run(fast(methods=["aape-plus", "gda", "logistic"]), inputs, results=tmp_path, jobs=1)
    for method in ("aape-plus", "gda", "logistic"):
        found = load_checkpoint(tmp_path / "runs" / "w" / "checkpoints" / method)
        answer = answers(found, Wanted(error_rate=0.3, none_of_these=True))
        images = inputs.features.test().images.embeddings.float()  # type: ignore[union-attr]
        rows = answer.of(found.logits(images).softmax(1), images)
        assert all(len(row["set"]) >= 1 for row in rows)
        assert all(row["label"] for row in rows), "they are no farther than those held out"
