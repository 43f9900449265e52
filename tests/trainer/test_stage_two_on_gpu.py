"""Stage two on a GPU against the CPU: what no other machine can show. Skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_captions import make_caption_stores, quick, some_pairs
from small_language import small_language_model
from small_stores import fast, make_stores
from small_tasks import small_images, small_task

from stages.device import pick_device
from stages.errors import UserError
from stages.params import Params
from stages.training import TrainParams
from trainer.data import ClassText, Images, Task
from trainer.data.pairs import Held, Pairs
from trainer.methods import FITS_ALONE, methods
from trainer.ranks import ranks
from trainer.runs.inputs import load_inputs
from trainer.runs.run import run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = "cuda"
SETTINGS = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 5, "epochs": 5}
)


def on_gpu(images: Images) -> Images:
    views = None if images.views is None else images.views.to(GPU)
    return Images(images.embeddings.to(GPU), images.labels.to(GPU), views)


def text_on_gpu(text: ClassText) -> ClassText:
    assert text.prompts is not None
    assert text.mask is not None
    return ClassText(text.names, text.template.to(GPU), text.prompts.to(GPU), text.mask.to(GPU))


def task_on_gpu() -> Task:
    task = small_task()
    return Task(text_on_gpu(task.text), on_gpu(task.train), on_gpu(task.val))


def predict(name: str, task: Task, device: str) -> tuple[float, torch.Tensor]:
    """Accuracy on held-out images, and the scores, back on the CPU."""
    held = small_images(shots=20, draw=30)
    scores = methods([name], settings=SETTINGS)[0].fit(task, seed=1).logits(held.embeddings.to(device), task.text)
    assert scores.device.type == device
    return float((scores.argmax(1).cpu() == held.labels).float().mean()), scores.cpu()


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_is_as_good_on_the_gpu_as_on_the_cpu_and_repeats_to_the_last_bit(name: str) -> None:
    there, scores = predict(name, task_on_gpu(), GPU)
    here, _ = predict(name, small_task(), "cpu")
    assert there == pytest.approx(here, abs=0.09)
    assert torch.equal(scores, predict(name, task_on_gpu(), GPU)[1])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_on_the_gpu_leaves_checkpoints_that_the_cpu_reads(tmp_path: Path, jobs: int) -> None:
    make_stores(tmp_path / "cache")
    asked = fast(protocols=["few-shot", "base-to-new"], methods=["standard"], seeds=[1, 2])
    found = {
        device: run(asked, load_inputs(asked, "w", cache=tmp_path / "cache", device=device),
                    results=tmp_path / f"results-{device}-{jobs}", jobs=jobs)
        for device in ("cpu", GPU)
    }  # fmt: skip
    assert len(found[GPU].fits) == len(found["cpu"].fits)
    for there, here in zip(found[GPU].fits, found["cpu"].fits, strict=True):
        assert there.metrics.keys() == here.metrics.keys()
    files = list((tmp_path / f"results-{GPU}-{jobs}").rglob("*.safetensors"))
    assert files
    assert all(tensor.device.type == "cpu" for tensor in load_file(files[0]).values())


@pytest.mark.parametrize("tile", [None, (7, 13)])
def test_ranks_on_the_gpu_equal_those_of_the_cpu(tile: tuple[int, int] | None) -> None:
    pairs = some_pairs([3] * 200)
    here, there = ranks(pairs, lambda images: images), ranks(moved(pairs), lambda images: images, tile=tile)
    assert float((here.image_to_text == there.image_to_text.cpu()).float().mean()) > 0.99  # near ties may turn
    assert float((here.text_to_image == there.text_to_image.cpu()).float().mean()) > 0.99


def moved(pairs: Pairs) -> Pairs:
    return replace(pairs, images=Held(pairs.images.all().to(GPU)), captions=Held(pairs.captions.all().to(GPU)))


def test_retrieval_runs_on_the_gpu_from_memory_and_in_tiles(tmp_path: Path) -> None:
    make_caption_stores(tmp_path / "cache")
    asked = quick(methods=["all"])
    found = run(asked, load_inputs(asked, "photos", cache=tmp_path / "cache", device=GPU), jobs=1)
    assert all(np.isfinite(list(fit.metrics.values())).all() for fit in found.fits)


def test_captioning_with_a_language_model_runs_on_the_gpu(tmp_path: Path) -> None:
    llm = small_language_model(tmp_path / "llm")
    make_caption_stores(tmp_path / "cache")
    language = {"llm": str(llm), "epochs": 1, "prefix_tokens": 2, "caption_tokens": 8, "answer_tokens": 4}
    captions = {"hidden": 16, "batch": 8, "epochs": 2, "lr_grid": [0.003]}
    train = {"captions": captions, "aggregator_steps": 2, "language": language}
    asked = Params.model_validate(
        {"train": train, "evaluation": {"protocols": ["captioning"], "methods": ["all"], "seeds": [1]}}
    )
    found = run(asked, load_inputs(asked, "photos", cache=tmp_path / "cache", device=GPU), jobs=1)
    assert found.fits


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match="cuda:0"):
        pick_device("cuda:99")
