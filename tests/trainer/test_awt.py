"""AWT against naive forms, and only where there are views to look at."""

from pathlib import Path

import pytest
import torch
from small_stores import fast, make_stores
from torch.nn.functional import normalize

from stages import UserError
from tests.trainer.small_tasks import WIDTH, small_task, small_text, unit
from trainer.data import Images
from trainer.data.features import load_features
from trainer.methods.awt import AWT, transport, weights_of_prompts, weights_of_views, with_template
from trainer.protocols.base import scores
from trainer.runs.inputs import Inputs
from trainer.runs.run import run


def entropy(logits: torch.Tensor) -> float:
    shares = logits.double().softmax(0)
    return float(-(shares * shares.log()).sum())


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
def test_a_prompt_counts_by_how_sure_the_mean_is_with_it_in_the_place_of_its_class(scale: float) -> None:
    text = small_text()
    prompts, mask = with_template(text)
    logits = scale * torch.einsum("bd,cnd->bcn", unit(4, WIDTH, seed=3), prompts)
    found = weights_of_prompts(logits, mask)
    for b in range(4):
        means = torch.stack([logits[b, c][mask[c]].mean() for c in range(6)])
        for c in range(6):
            sure = []
            for each in logits[b, c][mask[c]]:
                exchanged = means.clone()
                exchanged[c] = each
                sure.append(-entropy(exchanged) / 0.5)
            expected = torch.tensor(sure).softmax(0).float()
            torch.testing.assert_close(found[b, c][mask[c]], expected, atol=2e-4, rtol=2e-3)
            assert not found[b, c][~mask[c]].any()


def test_a_view_counts_by_how_sure_zero_shot_is_of_it() -> None:
    prompts, mask = with_template(small_text())
    logits = 20 * torch.einsum("bvd,cnd->bvcn", unit(2, 3, WIDTH, seed=3), prompts)
    found = weights_of_views(logits, mask)
    for b in range(2):
        means = [torch.stack([logits[b, v, c][mask[c]].mean() for c in range(6)]) for v in range(3)]
        expected = torch.tensor([-entropy(each) / 0.5 for each in means]).softmax(0)
        torch.testing.assert_close(found[b], expected.float(), atol=1e-4, rtol=1e-3)


def test_the_plan_has_the_weights_as_its_margins_and_prefers_what_is_near() -> None:
    cosines = 0.5 * unit(2, 3, 4, 5, seed=2)
    views, prompts = torch.rand(2, 4).softmax(1), torch.rand(2, 3, 5).softmax(-1)
    plan = transport(cosines, views, prompts)
    torch.testing.assert_close(plan.sum(2), prompts)
    torch.testing.assert_close(plan.sum(3), views[:, None].expand(2, 3, 4), atol=0.02, rtol=0.05)
    even = views[:, None, :, None] * prompts[:, :, None]
    assert bool(((plan * cosines).sum((2, 3)) > (even * cosines).sum((2, 3))).all())
    for b in range(2):
        torch.testing.assert_close(transport(cosines[b : b + 1], views[b : b + 1], prompts[b : b + 1])[0], plan[b])


def test_one_view_is_the_weighted_mean_of_the_prompts_and_padding_says_nothing() -> None:
    task, x = small_task(), unit(5, WIDTH, seed=4)
    predictor = AWT().fit(task, seed=1)
    prompts, mask = with_template(task.text)
    logits = torch.einsum("bd,cnd->bcn", x, prompts) / predictor.tau
    expected = (weights_of_prompts(logits, mask) * logits).sum(-1)
    torch.testing.assert_close(predictor.logits(x, task.text), expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        predictor.view_logits(x[:, None].expand(-1, 3, -1), task.text), expected, atol=0.05, rtol=0.01
    )


def test_the_views_of_the_images_that_are_judged_are_looked_at() -> None:
    task = small_task()
    predictor = AWT().fit(task, seed=1)
    x = unit(5, WIDTH, seed=4)
    views = normalize(x[:, None] + 0.5 * unit(5, 3, WIDTH, seed=6), dim=-1)
    labels = torch.zeros(5, dtype=torch.long)
    (_, seen), (_, alone) = (
        next(scores(predictor, images, task.text)) for images in (Images(x, labels, views), Images(x, labels))
    )
    together = torch.cat([x[:, None], views], 1)
    torch.testing.assert_close(seen, predictor.view_logits(together, task.text))
    assert not torch.allclose(seen, alone)


def test_awt_is_left_out_where_there_are_no_views_and_run_where_there_are(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache")
    make_stores(tmp_path / "views", views=2)
    asked = fast(protocols=["few-shot"], methods=["all"], shots=2)
    asked = asked.model_copy(
        update={"evaluation": asked.evaluation.model_copy(update={"methods": ["awt", "zero-shot"], "seeds": [1]})}
    )
    with pytest.raises(UserError, match=r"no augmented views of the images, and awt .*--views 10"):
        run(asked, Inputs(load_features(tmp_path / "cache", "w", "lite", device="cpu")))
    record = run(asked, Inputs(load_features(tmp_path / "views", "w", "lite", device="cpu")))
    assert {fit.method for fit in record.fits} >= {"awt", "zero-shot"}
