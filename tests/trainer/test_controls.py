"""What h has a part in, measured on images that were left over."""

import pytest
import torch

from stages.training import TrainParams
from tests.trainer.small_tasks import small_images, small_task
from trainer.analysis.controls import SETTINGS, measures
from trainer.methods.aape import AAPE

QUICK = {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 10}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_control_is_fitted_and_measured(name: str) -> None:
    task, left = small_task(), small_images(shots=9, draw=30)
    settings = TrainParams.model_validate({**QUICK, **SETTINGS[name]})
    found = measures(AAPE("aape", settings).fit(task, seed=1), task, left, seed=1)
    assert found["accuracy"] > 50
    assert ("with the mean h(x)" in found) == settings.image
    assert all(torch.isfinite(torch.tensor(value)) for value in found.values())


def test_an_h_that_reached_p_a_scores_1_and_an_h_of_zero_below_0() -> None:
    task = small_task()
    settings = TrainParams.model_validate({**QUICK, "aggregator": "mean"})
    fitted = AAPE("aape", settings).fit(task, seed=1)
    assert fitted.classifier.h is not None
    with torch.no_grad():
        fitted.classifier.h.up.zero_()
    assert measures(fitted, task, task.val, seed=1)["R^2 of p^a"] < 0
    with torch.no_grad():  # one unit an image of its own class, whose output is p^a
        centres = torch.stack([task.val.embeddings[task.val.labels == c].mean(0) for c in range(6)])
        fitted.classifier.h.down = torch.nn.Parameter(torch.linalg.pinv(centres).T)
        fitted.classifier.h.up = torch.nn.Parameter(task.text.prompt_mean().T.contiguous())
    means = torch.arange(6)
    assert measures(fitted, task, type(task.val)(centres, means), seed=1)["R^2 of p^a"] > 0.99
