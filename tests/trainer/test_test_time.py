"""Test-time tuning against naive forms: entropy never grows, an online buffer, views filtered by their cosine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_stores import fast, make_stores
from torch.nn.functional import normalize

from stages import UserError
from tests.trainer.small_tasks import WIDTH, small_images, small_task, unit
from trainer.data import Images, Unlabelled
from trainer.data.features import load_features
from trainer.methods.aape_plus import AAPEPlus
from trainer.methods.family.dynaprompt import BUFFER, Buffer, DynaPrompt
from trainer.methods.family.test_time import CONFIDENT_VIEWS, DIFF_TPT, STEP, TPT, confident, entropy, most_alike, tuned
from trainer.methods.family.viewed import AAPEPlusViews
from trainer.report import text_tables
from trainer.report.page.blocks import Table
from trainer.report.page.dataset import DataSet
from trainer.report.page.sections.methods import section
from trainer.runs.inputs import Inputs
from trainer.runs.run import run

TAU = 0.05


def viewed(count: int = 12, views: int = 9, *, noise: float = 0.5, seed: int = 3) -> Images:
    """Images with views: the crop scattered around its class, the views around the crop."""
    images = small_images(6, count // 6, draw=seed)
    drawn = images.embeddings[:, None] + noise * unit(count, views, WIDTH, seed=seed + 1)
    return replace(images, views=normalize(drawn, dim=-1))


def with_crop(images: Images) -> torch.Tensor:
    assert images.views is not None
    return torch.cat([images.embeddings[:, None], images.views], 1)


def test_the_step_is_the_first_of_adam_on_the_entropy_of_the_mean_of_confident_views() -> None:
    views, weights = with_crop(viewed()), small_task().text.template
    for each in views:
        logits = each @ weights.T / TAU
        surest = sorted(range(len(each)), key=lambda v: float(entropy(logits[v].softmax(0))))[:2]
        assert set(confident(logits[None], 0.1)[0].tolist()) == set(surest)
        shift = torch.zeros_like(weights, requires_grad=True)
        adam = torch.optim.AdamW([shift], lr=STEP / WIDTH**0.5, weight_decay=0.0, eps=1e-20)
        mean = (each[surest] @ normalize(weights + shift, dim=-1).T / TAU).softmax(-1).mean(0)
        loss = entropy(mean)
        loss.backward()
        began = float(loss.detach())
        adam.step()
        naive = normalize(weights + shift.detach(), dim=-1)
        shifted, crop, before, after = tuned(each[surest][None], weights, TAU, each[:1])
        found = shifted.embeddings
        torch.testing.assert_close(crop[0], found[0] @ each[0], msg="cosines that need no shifted embedding")
        assert float(before) == pytest.approx(began, abs=1e-5)
        if float(entropy((each[surest] @ naive.T / TAU).softmax(-1).mean(0))) <= began:
            off = (found[0] - naive).abs() > 1e-4  # an entry without a gradient has no sign
            assert float(off.double().mean()) < 0.02
        assert after <= before


@pytest.mark.parametrize("tau", [0.01, 0.1])
def test_tpt_never_ends_less_sure_than_it_began_whatever_the_views_show(tau: float) -> None:
    weights = small_task().text.template
    views = unit(60, 4, WIDTH, seed=8)
    shifted, _, before, after = tuned(views, weights, tau, views[:, 0])
    torch.testing.assert_close(entropy((views @ shifted.embeddings.mT / tau).softmax(-1).mean(1)), after)
    assert bool((after <= before).all())
    assert float(after.mean()) < float(before.mean())


def test_an_image_is_tuned_by_itself_alone_and_without_views_it_is_zero_shot() -> None:
    task, images = small_task(), viewed()
    found = TPT.fit(task, seed=1)
    whole = found.view_logits(with_crop(images), task.text)
    torch.testing.assert_close(found.view_logits(with_crop(images)[3:4], task.text), whole[3:4])
    plain = images.embeddings @ task.text.template.T / found.tau
    torch.testing.assert_close(found.logits(images.embeddings, task.text), plain)
    torch.testing.assert_close(found.view_logits(images.embeddings[:, None], task.text), plain)
    assert not torch.allclose(whole, plain)


def test_the_control_shifts_nothing_and_means_what_confident_views_say() -> None:
    task, images = small_task(), viewed()
    found = CONFIDENT_VIEWS.fit(task, seed=1)
    shares = (with_crop(images) @ task.text.template.T / found.tau).softmax(-1)
    naive = torch.stack([each[entropy(each).argsort()[:2]].mean(0) for each in shares])
    torch.testing.assert_close(found.view_logits(with_crop(images), task.text).exp(), naive)


def test_views_that_show_something_else_are_filtered_by_their_cosine_to_the_crop() -> None:
    images = viewed(views=10, noise=0.2)
    assert images.views is not None
    strange = torch.cat([images.views[:, :8], unit(12, 2, WIDTH, seed=77)], 1)
    kept = most_alike(torch.cat([images.embeddings[:, None], strange], 1), 0.8)
    assert kept.shape[1] == 9
    for crop, some, before in zip(images.embeddings, kept, strange, strict=True):
        naive = before[(before @ crop).argsort(descending=True)[:8]]
        assert {tuple(row) for row in some[1:].tolist()} == {tuple(row) for row in naive.tolist()}
    task = small_task()
    assert DIFF_TPT.fit(task, seed=1).view_logits(with_crop(images), task.text).shape == (12, 6)


def test_the_buffer_takes_shifts_that_suit_an_image_and_appends_one_where_none_does() -> None:
    weights = small_task().text.template
    buffer = Buffer(weights, TAU)
    for turn, views in enumerate(with_crop(viewed(60, seed=5))):
        kept = list(buffer.kept)
        sure = views[confident((views @ weights.T / TAU)[None], 0.1)[0]]
        suits = []
        for shift in kept:
            mean, crop = (sure @ shift.T / TAU).softmax(-1).mean(0), (views[0] @ shift.T / TAU).softmax(-1)
            plain = (sure @ weights.T / TAU).softmax(-1).mean(0), (views[0] @ weights.T / TAU).softmax(-1)
            y, y0 = int(crop.argmax()), int(plain[1].argmax())
            sharper = float(crop[y] - mean[y]) >= float(plain[1][y0] - plain[0][y0])
            suits.append(float(entropy(mean)) <= float(entropy(plain[0])) and sharper)
        found = buffer.see(views)
        assert float(found.sum()) == pytest.approx(1)
        assert len(buffer.kept) == min(BUFFER, len(kept) + (not any(suits)))
        moved = sum(not any(torch.equal(each, old) for old in kept) for each in buffer.kept)
        assert moved == max(1, sum(suits)), turn
    assert len(buffer.kept) > 1


def test_online_tuning_depends_on_the_order_which_the_seed_draws() -> None:
    task, images = small_task(), viewed(36)
    of = {seed: DynaPrompt().fit(task, seed=seed).split_logits(Unlabelled.of(images), task.text) for seed in (1, 2)}
    again = DynaPrompt().fit(task, seed=1).split_logits(Unlabelled.of(images), task.text)
    assert torch.equal(of[1], again)
    assert not torch.equal(of[1], of[2])
    bare = Unlabelled(images.embeddings)
    plain = DynaPrompt().fit(task, seed=1)
    assert torch.equal(plain.split_logits(bare, task.text), plain.logits(images.embeddings, task.text))


def test_the_table_says_what_test_time_methods_saw_and_validation_is_done_with_views(tmp_path: Path) -> None:
    make_stores(tmp_path, views=6)
    names = ["zero-shot", "tpt", "dynaprompt"]
    record = run(fast(methods=names), Inputs(load_features(tmp_path, "w", "lite")))
    methods = section(DataSet(record, tmp_path, tmp_path))
    assert methods is not None
    (page,) = (block for block in methods.blocks if isinstance(block, Table))
    assert page.columns[-1].title == "saw before it judged"
    assert [row[-1].text for row in page.rows] == [
        "nothing", "views of the one image, no label", "the test images before it, in an order drawn by seed, no labels"
    ]  # fmt: skip
    shown = text_tables(record)
    assert "saw before it judged" in shown
    assert "views of the one image, no label" in shown
    assert "the test images before it, in an order drawn by seed, no labels" in shown
    by = {fit.method: fit.validation for fit in record.fits}
    assert by["tpt"] is not None
    assert by["zero-shot"] is not None
    assert by["tpt"].loss != by["zero-shot"].loss


def test_bad_input_test_time_methods_without_views_are_refused_with_the_mend(tmp_path: Path) -> None:
    make_stores(tmp_path)
    with pytest.raises(UserError, match=r"no augmented views of the images, and tpt, dynaprompt read them: run "):
        run(fast(methods=["tpt", "dynaprompt"]), Inputs(load_features(tmp_path, "w", "lite")))


def test_aape_plus_judges_an_image_by_the_mean_of_what_it_says_of_its_views() -> None:
    task, images = small_task(), viewed()
    found = AAPEPlusViews().fit(task, seed=1)
    plain = AAPEPlus().fit(task, seed=1)
    every = with_crop(images)
    naive = torch.stack([plain.logits(every[:, v], task.text).softmax(-1) for v in range(every.shape[1])]).mean(0)
    torch.testing.assert_close(found.view_logits(every, task.text).exp(), naive)
    torch.testing.assert_close(found.logits(images.embeddings, task.text), plain.logits(images.embeddings, task.text))
