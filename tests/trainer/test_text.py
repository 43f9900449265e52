"""What names a class is one rule for every method, and the temperature suits the zero-shot cosines."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from stages.errors import UserError
from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_task, small_text, unit
from trainer.methods import methods
from trainer.text import calibrate_tau, choose_class_text, class_weights

TEXT = replace(small_text(), templates=torch.stack([small_text().template, unit(6, WIDTH, seed=21)], dim=1))


def test_a_class_is_named_by_its_first_template_the_mean_of_all_or_the_mean_of_its_prompts() -> None:
    assert TEXT.templates is not None
    assert TEXT.prompts is not None
    assert TEXT.mask is not None
    torch.testing.assert_close(class_weights(TEXT, "template"), TEXT.template)
    torch.testing.assert_close(class_weights(TEXT, "ensemble"), normalize(TEXT.templates.mean(1), dim=-1))
    means = [p[m].mean(0) for p, m in zip(TEXT.prompts, TEXT.mask, strict=True)]
    torch.testing.assert_close(class_weights(TEXT, "prompts"), normalize(torch.stack(means), dim=-1))
    one = replace(TEXT, templates=None)
    assert torch.equal(class_weights(one, "ensemble"), class_weights(one, "template"))


@pytest.mark.parametrize("source", ["template", "ensemble", "prompts"])
def test_half_precision_text_becomes_unit_float32_rows(source: str) -> None:
    half = replace(TEXT, template=TEXT.template.half(), templates=TEXT.templates.half())  # type: ignore[union-attr]
    weights = class_weights(half, source)  # type: ignore[arg-type]
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(6))


def test_prompts_that_are_asked_for_and_missing_are_one_line() -> None:
    with pytest.raises(UserError, match="needs reference prompts and the task has none"):
        class_weights(replace(TEXT, prompts=None, mask=None), "prompts")


def test_the_temperature_is_sharp_where_text_is_sure_and_bounded_where_it_knows_nothing() -> None:
    labels = torch.arange(5).repeat(20)
    sure = torch.nn.functional.one_hot(labels, 5).float()
    assert calibrate_tau(sure, labels) == pytest.approx(0.01)
    noise = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    assert calibrate_tau(noise, labels) == pytest.approx(0.1)


def test_the_class_text_is_whichever_the_training_images_fit_and_a_fixed_one_stays() -> None:
    task = small_task()
    noise = unit(*task.text.prompts.shape, seed=5)  # type: ignore[union-attr]
    useless = replace(task.text, prompts=noise * task.text.mask[..., None])  # type: ignore[index]
    assert choose_class_text(task.text, task.train)[0] == "prompts"
    assert choose_class_text(useless, task.train)[0] == "template"
    assert choose_class_text(task.text, task.train, source="ensemble", tau=0.07) == ("ensemble", 0.07)


def test_aape_can_take_the_mean_of_the_templates() -> None:
    settings = TrainParams.model_validate({"class_text": "ensemble", "lambda": 0.0, "lr": 1e-9, "epochs": 2})
    method, task = methods(["aape"], settings=settings)[0], replace(small_task(), text=TEXT)
    assert not method.uses_prompts
    x = unit(5, WIDTH, seed=4)
    predictor = method.fit(task, seed=1)
    expected = x @ class_weights(TEXT, "ensemble").T / float(predictor.info["tau"])
    torch.testing.assert_close(predictor.logits(x, TEXT), expected, atol=1e-3, rtol=1e-4)
