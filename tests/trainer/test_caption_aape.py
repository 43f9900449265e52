"""AAPE from captions: its losses, ragged captions, features on disk, checkpoints."""

from pathlib import Path

import pytest
import torch
from small_captions import SMALL, make_caption_stores, some_pairs
from torch.nn.functional import cross_entropy

from stages import UserError
from stages.training import TrainParams
from trainer.aape.captions import CaptionAAPE, CaptionTargets, fit_captions
from trainer.aape.losses import symmetric_clip_loss
from trainer.checkpoint import load_checkpoint, load_learned, save_checkpoint
from trainer.data.captions import load_captions
from trainer.data.pairs import CaptionTask, Pairs, Stored, check_pairs
from trainer.ranks import ranks, retrieval_metrics

SETTINGS = TrainParams.model_validate({"captions": SMALL, "aggregator_steps": 3})


def weights(found: CaptionAAPE) -> list[torch.Tensor]:
    return [found.h.down, found.h.up]


def test_with_one_caption_an_image_the_loss_is_clips_own() -> None:
    batch = some_pairs([1] * 9).batch(torch.arange(9))
    logits = 7 * batch.images @ batch.captions.T
    expected = (cross_entropy(logits, torch.arange(9)) + cross_entropy(logits.T, torch.arange(9))) / 2
    assert torch.allclose(symmetric_clip_loss(batch.images, batch.captions, batch.owner, 7.0), expected)


def test_captions_of_one_image_are_no_negatives_of_each_other() -> None:
    one = some_pairs([1, 1, 1]).batch(torch.arange(3))
    first = torch.tensor([0, 0, 0, 1, 2])  # the first image's caption three times
    loss = symmetric_clip_loss(one.images, one.captions[first], torch.tensor([0, 0, 0, 1, 2]), 5.0)
    logits = 5 * one.images @ one.captions.T
    forward = [float(cross_entropy(logits[:1], torch.tensor([0])))]  # against the two others alone
    for image in (1, 2):
        others = logits[image, first][torch.tensor([0, 0, 0, 1, 2]) != image]
        forward.append(float(torch.cat([logits[image, image][None], others]).logsumexp(0) - logits[image, image]))
    backward = [float(cross_entropy(logits.T[i : i + 1], torch.tensor([i]))) for i in range(3)]
    assert float(loss) == pytest.approx((sum(forward) + sum(backward)) / 6, rel=1e-5)


def test_a_batch_of_one_image_has_a_loss_and_a_gradient() -> None:
    batch = some_pairs([3]).batch(torch.arange(1))
    query = batch.images.clone().requires_grad_()
    symmetric_clip_loss(query, batch.captions, batch.owner, 20.0).backward()
    assert query.grad is not None
    assert bool(query.grad.isfinite().all())


def test_ragged_captions_give_the_target_that_each_image_has_alone() -> None:
    pairs = some_pairs([1, 4, 2, 5])
    targets = CaptionTargets(SETTINGS, width=16, device=torch.device("cpu"), rng=torch.Generator().manual_seed(1))
    targets.fit(pairs)
    together = targets(pairs.batch(torch.arange(4)))
    for image in range(4):
        assert torch.allclose(together[image], targets(pairs.batch(torch.tensor([image])))[0], atol=1e-6)


def test_h_learns_to_find_captions_that_the_images_themselves_do_not_find() -> None:
    train, test = some_pairs([2] * 200), some_pairs([2] * 40, seed=5)
    settings = TrainParams.model_validate({"captions": {**SMALL, "hidden": 64, "batch": 64, "epochs": 30}})
    fitted = fit_captions(CaptionTask(train, None), settings, seed=1)
    before, after = (retrieval_metrics(ranks(test, query)) for query in (lambda x: x, fitted.embed))
    assert before["i2t_r@1"] < 0.2
    assert after["i2t_r@1"] > before["i2t_r@1"] + 0.2
    assert after["t2i_r@1"] > before["t2i_r@1"] + 0.2


@pytest.mark.parametrize("change", [{}, {"tau": "learnt"}, {"detach": False}, {"lambda": 0.0}, {"query": "image"}])
def test_the_same_seed_gives_the_same_h_under_every_setting(change: dict[str, object]) -> None:
    settings = TrainParams.model_validate({"captions": SMALL, "aggregator_steps": 2, **change})
    task = CaptionTask(some_pairs([1, 2, 3] * 6), None)
    one, two = (fit_captions(task, settings, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))
    assert torch.allclose(one.embed(task.train.images.all()).norm(dim=-1), torch.ones(18), atol=1e-5)


def test_features_on_disk_give_the_same_h_as_features_in_memory(tmp_path: Path) -> None:
    make_caption_stores(tmp_path, change={"train/03.jpg": ["one alone"]})
    found = []
    for memory in ("auto", 1e-6):
        features = load_captions(tmp_path, "photos", "lite", memory=memory)
        assert isinstance(features.train.images, Stored) == (memory != "auto")
        found.append(fit_captions(CaptionTask(features.train, features.val), SETTINGS, seed=1))
        found.append(features.test())
    held, held_test, stored, stored_test = found
    assert all(torch.equal(a, b) for a, b in zip(weights(held), weights(stored), strict=True))
    assert held_test.texts == stored_test.texts
    one, two = (ranks(each, held.embed) for each in (held_test, stored_test))
    assert torch.equal(one.image_to_text, two.image_to_text)


def test_h_goes_on_from_one_that_was_learnt_elsewhere() -> None:
    there, here = CaptionTask(some_pairs([2] * 12, seed=7), None), CaptionTask(some_pairs([2] * 12), None)
    start = fit_captions(there, SETTINGS, seed=1)
    nearly = TrainParams.model_validate({"captions": {**SMALL, "epochs": 2}, "lr": 1e-9, "warmup_lr": 1e-9})
    tuned = fit_captions(here, nearly, seed=1, start=start)
    assert torch.allclose(weights(tuned)[0], weights(start)[0], atol=1e-4)


def test_a_checkpoint_comes_back_and_is_refused_with_another_encoder_width_or_command(tmp_path: Path) -> None:
    pairs = some_pairs([2] * 12)
    fitted = fit_captions(CaptionTask(pairs, None), SETTINGS, seed=1)
    about = {"encoder": "lite", "encoder_fingerprint": "f" * 64, "width": 16, "protocol": "retrieval"}
    save_checkpoint(tmp_path, fitted, None, provenance=about)
    loaded = load_learned(tmp_path, CaptionAAPE)
    x = pairs.images.all()
    assert torch.equal(loaded.predictor.embed(x), fitted.embed(x))
    loaded.require_encoder(name="lite", fingerprint="f" * 64, width=16)
    with pytest.raises(UserError, match="made with encoder lite"):
        loaded.require_encoder(name="lite", fingerprint="0" * 64, width=16)
    with pytest.raises(UserError, match="16 wide, and lite is 32 wide"):
        loaded.require_encoder(name="lite", fingerprint="f" * 64, width=32)
    with pytest.raises(UserError, match="the images are 8 wide and h was fitted on 16"):
        loaded.predictor.embed(x[:, :8])
    with pytest.raises(UserError, match="of the protocol retrieval and knows no class"):
        load_checkpoint(tmp_path)


def test_one_image_alone_is_nothing_to_learn_from() -> None:
    with pytest.raises(UserError, match="1 training images with captions"):
        check_pairs(CaptionTask(some_pairs([2]), None))


def test_taking_images_takes_their_captions() -> None:
    pairs: Pairs = some_pairs([1, 4, 2])
    taken = pairs.take(torch.tensor([2, 0]))
    assert taken.texts == (*pairs.texts[5:], pairs.texts[0])
    assert torch.equal(taken.captions.all(), pairs.captions.all()[[5, 6, 0]])
    assert taken.owner.tolist() == [0, 0, 1]
