"""Likelihood at the temperature that suits best."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.trainer.small_tasks import unit
from trainer.likelihood import TAUS, least_loss


@pytest.mark.parametrize("sharpness", [0.3, 3.0, 60.0])
def test_the_least_loss_is_that_of_all_temperatures_whatever_it_starts_from(sharpness: float) -> None:
    scores, labels = unit(300, 12, seed=3), torch.arange(300) % 12
    scores[torch.arange(300), labels] += 0.1 * sharpness * torch.rand(300, generator=torch.Generator().manual_seed(1))
    each = {tau: float(cross_entropy(scores / tau, labels)) for tau in TAUS}
    best = min(each, key=lambda tau: each[tau])
    for near in (None, TAUS[0], TAUS[20], TAUS[-1]):
        loss, tau = least_loss(scores, labels, near=near)
        assert tau == best
        assert loss == pytest.approx(each[best], abs=1e-5)


def test_louder_scores_are_not_likelier() -> None:
    scores, labels = unit(300, 12, seed=3), torch.arange(300) % 12
    assert least_loss(0.02 * scores, labels)[0] == pytest.approx(least_loss(0.04 * scores, labels)[0], abs=5e-3)
