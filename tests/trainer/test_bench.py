"""The benchmark: its reference is the same method, and its rows say what they measured."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Command
from small_language import small_language_model

from stages.errors import UserError
from stages.training import TrainParams
from trainer.aape.aggregator import AttentionAggregator
from trainer.aape.classifier import Classifier
from trainer.aape.losses import symmetric_clip_loss
from trainer.bench import Ratio, Sizes, as_text, bench
from trainer.bench.captions import CAPTIONS, _among_others, made_pairs, plain_ranks
from trainer.bench.generated import made_task
from trainer.bench.plain import PlainAggregator, plain_cosines, plain_training
from trainer.ranks import ranks
from trainer.text import class_weights

CPU = torch.device("cpu")
SMALL = ["--classes", 6, "--shots", 4, "--prompts", 3, "--widths", "16,24", "--steps", 100, "--measured", 4,
         "--images", 70, "--evaluated", 9, "--rows", 500, "--pairs", 40,
         "--retrieved", 12, "--streamed", 60, "--runs", 1, "--device", "cpu"]  # fmt: skip


@pytest.mark.timeout(1800)
def test_the_command_prints_a_row_for_training_evaluation_and_loading(typed: Command, tmp_path: Path) -> None:
    rows = json.loads(typed("trainer", "bench", *SMALL, "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in rows] == [
        "evaluation 70 x 9, D=16",
        "evaluation 70 x 9, D=16: peak memory",
        *(f"{what}, D={width}" for width in (16, 24) for what in (
            "training, 100 steps", "training step", "accuracy after 4 steps")),
        "captions: an epoch of 40 x 5, D=768",
        "captions: 20 epochs and p^a, D=768",
        "retrieval 12 x 60, D=768",
        "retrieval 60 x 60, D=768, read in tiles: further memory",
        "loading 500 embeddings, D=16",
    ]  # fmt: skip
    assert all(set(row) == {"name", "ours", "reference", "ratio", "unit"} for row in rows)
    assert all(row["ours"] > 0 and row["reference"] > 0 and row["ratio"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value", "part"),
    [("--widths", "wide", "--widths 'wide': expected whole numbers"), ("--device", "toaster", "device 'toaster'")],
)
def test_a_wrong_flag_is_one_line(typed: Command, tmp_path: Path, flag: str, value: str, part: str) -> None:
    done = typed("trainer", "bench", flag, value, cwd=tmp_path, code=2)
    assert part in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_parts_of_the_benchmark_are_chosen_by_name(typed: Command, tmp_path: Path) -> None:
    found = json.loads(typed("trainer", "bench", "loading", *SMALL, "--json", cwd=tmp_path).stdout)
    assert [row["name"] for row in found] == ["loading 500 embeddings, D=16"]
    assert list(found[0]) == ["name", "ours", "reference", "ratio", "unit"]


def test_a_fit_of_each_method_is_measured_in_a_process_of_its_own(typed: Command, tmp_path: Path) -> None:
    small = ["--classes", 4, "--shots", 2, "--prompts", 2, "--widths", "8"]
    words = ["bench", "methods", *small, "--methods", "aape-plus", "--json"]
    found = json.loads(typed("trainer", *words, cwd=tmp_path).stdout)
    assert [row["name"] for row in found] == [
        "logistic, 4 classes, 2 shots, D=8", "logistic, 4 classes, 2 shots, D=8: peak memory",
        "aape-plus, 4 classes, 2 shots, D=8", "aape-plus, 4 classes, 2 shots, D=8: peak memory",
    ]  # fmt: skip
    assert {row["unit"] for row in found} == {"CPU s", "MB"}
    assert [row["ratio"] for row in found[:2]] == [1, 1]


def test_a_ratio_above_one_always_means_that_ours_is_better() -> None:
    assert Ratio.of("rate", 20, 10, "images/s").ratio == 2
    assert Ratio.of("time", 10, 20, "s", less_is_better=True).ratio == 2
    assert "images/s" in as_text([Ratio.of("rate", 20, 10, "images/s")])


def test_the_generated_task_leaves_something_to_learn() -> None:
    task, unseen = made_task(classes=20, shots=8, prompts=5, width=64, device=CPU)
    zero_shot = (unseen.embeddings @ class_weights(task.text, "template").T).argmax(1) == unseen.labels
    assert 0.1 < float(zero_shot.float().mean()) < 0.8
    assert not torch.equal(unseen.embeddings, task.train.embeddings)


def test_the_plain_form_computes_what_the_fast_one_does() -> None:
    task, _ = made_task(classes=6, shots=2, prompts=4, width=24, device=CPU)
    settings = TrainParams.model_validate({"heads": 4, "head_width": 6, "feed_forward": 10})
    fast = AttentionAggregator(width=24, heads=4, head_width=6, feed_forward=10, rng=torch.Generator())
    plain = PlainAggregator(24, settings)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        plain.shift.copy_(fast.shift)
        plain.attention.in_proj_weight.copy_(torch.cat([fast.to_query, fast.to_key, fast.to_value]))
        plain.attention.out_proj.weight.copy_(fast.to_output)
        plain.feed_forward[0].weight.copy_(fast.up)
        plain.feed_forward[2].weight.copy_(fast.down)
        for norm, values in ((plain.norm1, fast.norm1), (plain.norm2, fast.norm2)):
            norm.weight.copy_(values[0])
            norm.bias.copy_(values[1])
    prompts, mask = task.text.require_prompts()
    torch.testing.assert_close(plain(prompts), fast(task.text.prompt_mean(), prompts, mask), atol=1e-6, rtol=0)
    head = Classifier(width=24, hidden=8, head="residual", image=True, rng=torch.Generator())
    head.v.data.normal_()
    weights = class_weights(task.text, "template")
    found, _ = plain_cosines(head, task.train.embeddings, weights)
    torch.testing.assert_close(found, head(task.train.embeddings, weights), atol=1e-5, rtol=0)


def test_the_plain_loop_learns() -> None:
    task, _ = made_task(classes=6, shots=8, prompts=4, width=24, device=CPU)
    settings = TrainParams.model_validate({"heads": 4, "head_width": 6, "lr": 0.1})
    head = Classifier(width=24, hidden=8, head="residual", image=True, rng=torch.Generator())
    weights = class_weights(task.text, "template")

    def right() -> float:
        with torch.no_grad():
            return float((head(task.train.embeddings, weights).argmax(1) == task.train.labels).float().mean())

    before, steps = right(), plain_training(task, head, weights, 0.05, settings)
    for _ in range(60):
        next(steps)
    assert right() > before + 0.1


def test_a_full_disk_while_loading_is_measured_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.bench.loading._write", full)
    sizes = Sizes(classes=4, shots=2, prompts=2, widths=(8,), measured=1, images=4, evaluated=3, rows=4, runs=1)
    with pytest.raises(UserError, match="the disk is full"):
        list(bench(sizes, CPU))


def test_the_references_of_captions_and_retrieval_are_the_same_thing() -> None:
    pairs = made_pairs(9, CPU)
    found, (i2t, t2i) = ranks(pairs, lambda x: x), plain_ranks(pairs)
    assert torch.equal(found.image_to_text, i2t)
    assert torch.equal(found.text_to_image, t2i)
    batch, own = pairs.batch(torch.arange(9)), torch.arange(9)
    logits = 4 * torch.einsum("bd,cnd->bcn", batch.images, batch.captions.view(9, CAPTIONS, -1))
    plain = [
        (_among_others(logits, n) + torch.nn.functional.cross_entropy(logits[:, :, n].T, own)) / 2
        for n in range(CAPTIONS)
    ]
    ours = symmetric_clip_loss(batch.images, batch.captions, batch.owner, 4.0)
    assert torch.allclose(torch.stack(plain).mean(), ours, atol=1e-5)


def test_captions_are_written_nearly_as_fast_as_by_the_model_alone(typed: Command, tmp_path: Path) -> None:
    llm = small_language_model(tmp_path / "llm")
    asked = ("--llm", llm, "--written", 6, "--json")
    (row,) = json.loads(typed("trainer", "bench", "speaking", *SMALL, *asked, cwd=tmp_path).stdout)
    assert row["name"] == f"captions, {llm}, 6 images"
    assert row["ratio"] > 0


def test_test_time_methods_are_timed_beside_plain_prediction() -> None:
    sizes = Sizes(classes=4, shots=2, prompts=2, widths=(8,))
    rows = list(bench(sizes, torch.device("cpu"), ["test-time"]))
    assert [row.name.split(",")[0] for row in rows] == [
        "zero-shot",
        "confident-views",
        "tpt",
        "difftpt",
        "dynaprompt",
        "awt",
    ]
    assert all(row.unit == "images/s" and row.ours > 0 for row in rows)
