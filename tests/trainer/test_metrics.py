"""Metrics against worked examples."""

import math

import pytest
import torch

from trainer.metrics import accuracy, confusion_matrix, harmonic_mean, interval95, macro_accuracy


def test_the_confusion_matrix_counts_labels_in_rows_and_predictions_in_columns() -> None:
    found = confusion_matrix(labels=torch.tensor([0, 0, 1, 2]), predictions=torch.tensor([0, 1, 1, 0]), classes=3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_accuracy_weighs_images_and_macro_accuracy_classes() -> None:
    confusion = torch.tensor([[8, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert accuracy(confusion) == pytest.approx(0.9)
    assert macro_accuracy(confusion) == pytest.approx(0.75), "a class without images does not count"


def test_no_image_gives_no_number() -> None:
    assert math.isnan(accuracy(torch.zeros(2, 2, dtype=torch.long)))
    assert math.isnan(macro_accuracy(torch.zeros(2, 2, dtype=torch.long)))


def test_the_harmonic_mean_is_the_papers() -> None:
    assert harmonic_mean(0.6934, 0.7422) == pytest.approx(0.7170, abs=5e-5)
    assert harmonic_mean(0.0, 0.0) == 0


def test_the_interval_is_students_t_over_the_seeds() -> None:
    mean, half = interval95([1.0, 2.0, 3.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(2.4841, abs=1e-4)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert interval95([0.5]) == (0.5, None)


def test_no_seed_and_nan_are_no_numbers() -> None:
    assert math.isnan(interval95([])[0])
    mean, half = interval95([0.5, math.nan])
    assert math.isnan(mean)
    assert half is not None
    assert math.isnan(half)
