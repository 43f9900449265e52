"""Long-tailed draws of one class an image, and LMPT's losses on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_stores import CLASSES, fast, make_stores
from torch.nn.functional import normalize

from stages import UserError
from stages.training import TrainParams
from trainer.data import ClassText, Images, Task
from trainer.data.draws import few_shot
from trainer.data.features import load_features
from trainer.data.long_tail import head_medium_tail, long_tail
from trainer.methods import METHODS
from trainer.protocols.long_tailed import LongTailed, first_of_each
from trainer.runs.inputs import Inputs
from trainer.runs.record import summarize
from trainer.runs.run import run


def test_each_class_has_its_place_in_the_tail_and_the_first_shots_of_the_few_shot_draw(tmp_path: Path) -> None:
    make_stores(tmp_path)
    features = load_features(tmp_path, "w", "lite")
    found = set()
    for seed in range(4):
        task = LongTailed(8, "long-tailed", up_to=True, imbalance=8.0).task(features, "llm", seed=seed)
        counts, order = long_tail(8, 8.0, CLASSES, seed=seed)
        assert task.train.labels.bincount(minlength=CLASSES).tolist() == counts
        assert [counts[c] for c in order] == [8, 4, 2, 1]
        assert task.val.labels.bincount(minlength=CLASSES).tolist() == [min(n, 3) for n in counts], "3 there are"
        whole, _ = few_shot(features, 8, seed=seed)
        for label in range(CLASSES):
            own = whole.embeddings[whole.labels == label][: counts[label]]
            assert torch.equal(task.train.embeddings[task.train.labels == label], own)
        found.add(tuple(order))
    assert len(found) > 1, "another class is rare under another seed"


def test_existing_methods_run_in_it_and_head_middle_and_tail_are_means_of_recalls(tmp_path: Path) -> None:
    make_stores(tmp_path, noise=1.5)
    asked = fast(
        protocols=["long-tailed"], methods=["zero-shot", "logistic", "lmpt", "aape-plus"], shots=8, seeds=[1, 2]
    )
    record = run(asked, Inputs(load_features(tmp_path, "w", "lite")), results=tmp_path / "r", jobs=1)
    found = summarize(record)["long-tailed"]
    assert set(found["lmpt"]) >= {"accuracy", "macro_accuracy", "head", "medium", "tail"}
    parts = [found["lmpt"][part].mean for part in ("head", "medium", "tail")]
    sizes = [len(own) for own in head_medium_tail(long_tail(8, 16.0, CLASSES, seed=1)[1]).values()]
    weighed = sum(part * size for part, size in zip(parts, sizes, strict=True)) / CLASSES  # type: ignore[operator]
    assert weighed == pytest.approx(found["lmpt"]["macro_accuracy"].mean, abs=1e-6)
    assert record.protocols["long-tailed"].title == "long-tailed, 8 shots of the largest class to 1 of the smallest"
    assert any("8 to 1 shots a class" in note for note in record.notes)
    with pytest.raises(UserError, match="--shots all: long-tailed draws a tail"):
        run(fast(protocols=["long-tailed"], shots="all"), Inputs(load_features(tmp_path, "w", "lite")))


def test_the_first_of_each_class_keep_their_order() -> None:
    images = Images(torch.arange(6.0)[:, None], torch.tensor([1, 0, 1, 0, 0, 1]))
    assert first_of_each(images, [1, 2]).embeddings[:, 0].tolist() == [0, 1, 2]


def test_lmpt_lifts_the_tail_over_logistic_regression() -> None:
    """What it is for: with the same shots, and the names as they are, the rare classes are found more often."""
    rng = np.random.default_rng(0)
    width, classes = 24, 9
    centres = np.linalg.qr(rng.normal(size=(width, width)))[0][:classes]

    def drawn(counts: list[int], seed: int) -> Images:
        own = np.random.default_rng(seed)
        labels = np.repeat(np.arange(classes), counts)
        rows = centres[labels] + 0.35 * own.normal(size=(len(labels), width))
        return Images(normalize(torch.tensor(rows, dtype=torch.float32), dim=-1), torch.tensor(labels))

    counts, order = long_tail(16, 16.0, classes, seed=0)
    named = normalize(torch.tensor(centres + 0.25 * rng.normal(size=centres.shape), dtype=torch.float32), dim=-1)
    text = ClassText(tuple(map(str, range(classes))), named)
    task = Task(text, drawn(counts, 1), drawn([min(4, n) for n in counts], 2))
    test, tail = drawn([60] * classes, 3), head_medium_tail(order)["tail"]
    recall = {}
    for name in ("lmpt", "logistic"):
        logits = METHODS[name](TrainParams()).fit(task, seed=0).logits(test.embeddings, text)
        right = logits.argmax(1) == test.labels
        recall[name] = float(torch.stack([right[test.labels == c].double().mean() for c in tail]).mean())
    assert recall["lmpt"] > recall["logistic"]
