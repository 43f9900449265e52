"""`trainer run --protocol retrieval`: from stores to metrics, learnt here and elsewhere, resumed, and on bad input."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_captions import make_caption_stores, quick, some_pairs
from small_stores import make_stores

from stages import UserError
from trainer.data.captions import CaptionFeatures, load_captions
from trainer.data.pairs import CaptionTask, Held, Pairs
from trainer.ranks import ranks
from trainer.retrieval.folds import CrossFitted, FoldedTask
from trainer.retrieval.methods import Blend, LinearMap, RawCosines, Ridge, solve
from trainer.runs.inputs import Inputs, load_inputs
from trainer.runs.record import load_record, summarize
from trainer.runs.run import run

Command = Callable[..., Any]
ALL = ["all"]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_caption_stores(tmp_path / "cache")
    return tmp_path / "cache"


def inputs(cache: Path) -> Inputs:
    return Inputs(None, captions=load_captions(cache, "photos", "lite"))


def test_the_command_prints_both_directions_and_keeps_metrics_hits_and_checkpoints(
    cache: Path, typed: Command, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(quick(methods=ALL, seeds=[1, 2]).model_dump(by_alias=True)))
    done = typed("trainer", "run", "--dataset", "photos", "--protocol", "retrieval", cwd=tmp_path)
    assert "photos: retrieval, all training images, 2 seeds, encoder lite" in done.stdout
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())["photos"]["retrieval"]
    assert set(metrics["aape"]) == {
        f"{way}_{what}" for way in ("i2t", "t2i") for what in ("r@1", "r@5", "r@10", "median_rank")
    }
    assert metrics["aape"]["i2t_r@1"]["n"] == 2
    assert list(metrics)[:2] == ["aape", "aape-mean"]
    folder = tmp_path / "results" / "runs" / "photos"
    with (folder / "retrieval.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "aape"]
    assert {row["seed"] for row in rows} == {"1"}
    hits = [int(row["rank"]) <= 1 for row in rows if row["direction"] == "i2t"]
    first = next(fit for fit in load_record(folder).fits if fit.method == "aape")
    assert sum(hits) / len(hits) == pytest.approx(first.metrics["i2t_r@1"])
    assert (folder / "checkpoints" / "retrieval" / "aape" / "checkpoint.safetensors").is_file()
    refused = typed("trainer", "export", "--checkpoint", folder / "checkpoints" / "retrieval" / "aape", "--to", "x",
                    cwd=tmp_path, code=1)  # fmt: skip
    assert "of the protocol retrieval and knows no class" in refused.stderr


def test_the_test_split_is_read_after_every_fit(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    read, fit = CaptionFeatures.test, Ridge.fit_twice
    monkeypatch.setattr(CaptionFeatures, "test", lambda self: events.append("test") or read(self))
    monkeypatch.setattr(Ridge, "fit_twice", lambda self, task, seed: events.append("fit") or fit(self, task, seed=seed))
    run(quick(methods=["ridge", "ridge-blend"], seeds=[1, 2]), inputs(cache), jobs=1)
    assert events == ["fit"] * 4 + ["test"]


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = quick(methods=["ridge", "aape", "aape-blend"])
    run(settings, inputs(cache), results=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Blend, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(settings, inputs(cache), results=tmp_path / "cut", jobs=1)
    assert len(list((tmp_path / "cut" / ".fits" / "photos").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "fit", lambda *_, **__: pytest.fail("fitted again"))
        run(settings, inputs(cache), results=tmp_path / "cut", jobs=1)
    for name in ("run.json", "retrieval.csv", "curves.csv", "checkpoints/retrieval/aape/checkpoint.safetensors"):
        whole, cut = ((tmp_path / each / "runs" / "photos" / name).read_bytes() for each in ("whole", "cut"))
        assert whole == cut, name


def test_what_was_learnt_elsewhere_serves_as_it_is_and_fine_tuned_from_stores_or_a_checkpoint(tmp_path: Path) -> None:
    for name in ("photos", "sketches"):
        make_caption_stores(tmp_path, dataset=name)
    asked = quick(learnt_on=["photos"], methods=["aape", "ridge", "zero-shot"])
    found = summarize(run(asked, load_inputs(asked, "sketches", cache=tmp_path)))["retrieval"]
    assert list(found) == ["aape", "aape@photos", "aape-tuned@photos", "ridge", "ridge@photos", "zero-shot"]
    run(quick(methods=["aape"]), inputs(tmp_path), results=tmp_path / "results")
    kept = tmp_path / "results" / "runs" / "photos" / "checkpoints" / "retrieval" / "aape"
    make_caption_stores(tmp_path, dataset="nocaps", per_split={"test": 9})
    alone = quick(learnt_on=["photos"], methods=["aape", "zero-shot"])
    assert list(summarize(run(alone, load_inputs(alone, "nocaps", cache=tmp_path)))["retrieval"]) == [
        "aape@photos", "zero-shot",
    ]  # fmt: skip
    asked = quick(learnt_on=[str(kept)], methods=["aape"])
    again = summarize(run(asked, load_inputs(asked, "sketches", cache=tmp_path)))["retrieval"]
    assert again["aape@aape"] == found["aape@photos"], "the checkpoint is the fit of the same seed"
    with pytest.raises(UserError, match="was learnt on 'photos' itself"):
        run(asked, inputs(tmp_path))


def test_a_checkpoint_of_another_encoder_is_refused(tmp_path: Path) -> None:
    make_caption_stores(tmp_path, fingerprint="0" * 20)
    run(quick(methods=["aape"]), inputs(tmp_path), results=tmp_path / "results")
    kept = tmp_path / "results" / "runs" / "photos" / "checkpoints" / "retrieval" / "aape"
    make_caption_stores(tmp_path, dataset="other", fingerprint="1" * 20)
    asked = quick(learnt_on=[str(kept)], methods=["aape"])
    with pytest.raises(UserError, match="use the same weights or train again"):
        run(asked, load_inputs(asked, "other", cache=tmp_path))


def test_data_sets_of_different_weights_are_not_mixed(tmp_path: Path) -> None:
    make_caption_stores(tmp_path, fingerprint="0" * 20)
    make_caption_stores(tmp_path, dataset="other", fingerprint="1" * 20)
    asked = quick(learnt_on=["photos"], methods=["aape"])
    with pytest.raises(UserError, match="embedded with different weights of lite"):
        run(asked, load_inputs(asked, "other", cache=tmp_path))


def test_a_cross_validation_judges_each_image_by_a_fit_that_did_not_see_it(cache: Path) -> None:
    seen: list[set[str]] = []

    class Spy(Ridge):
        def fit(self, task: CaptionTask, *, seed: int) -> LinearMap:
            seen.append(set(task.train.image_ids))
            return super().fit(task, seed=seed)

    pairs = load_captions(cache, "photos", "lite").rows.pairs(None)
    task = FoldedTask(pairs, None, folds=4, seed=1)
    fitted = CrossFitted(Spy()).fit(task, seed=1)
    whole, *parts = seen
    assert len(whole) == 40
    for rows, known in zip(fitted.out, parts, strict=True):
        assert not known & {pairs.image_ids[i] for i in rows.tolist()}
    assert sorted(torch.cat(fitted.out).tolist()) == list(range(40))
    found, rows = fitted.ranks(pairs), fitted.out[1]
    own, among = ranks(pairs.take(rows), fitted.parts[1].embed), pairs.take(rows)
    assert torch.equal(found.image_to_text[rows], own.image_to_text), "each part has a gallery of its own"
    assert [pairs.texts[i] for i in found.first_text[rows]] == [among.texts[i] for i in own.first_text]
    assert pairs.image_ids[found.first_image[3 * rows[0]]] == among.image_ids[own.first_image[0]]
    asked = quick(folds={"photos": 4}, methods=["ridge", "zero-shot"])
    record = run(asked, load_inputs(asked, "photos", cache=cache))
    assert any("cross-validated in 4 parts of all images" in note for note in record.notes)
    assert record.test_images == 40


def test_classification_is_left_out_for_captions_and_retrieval_for_classes_with_a_line(tmp_path: Path) -> None:
    make_caption_stores(tmp_path)
    make_stores(tmp_path, sources=())
    both = quick(protocols=["few-shot", "retrieval"], methods=["zero-shot", "ridge", "logistic"])
    record = run(both, load_inputs(both, "photos", cache=tmp_path))
    assert list(record.protocols) == ["retrieval"]
    assert "photos: few-shot is left out: the data set has no classes" in record.notes
    assert "retrieval: left out are methods of other protocols: logistic" in record.notes
    two = quick(protocols=["few-shot", "retrieval"], methods=["zero-shot", "ridge"], shots=2)
    record = run(two, load_inputs(two, "w", cache=tmp_path))
    assert list(record.protocols) == ["few-shot"]
    assert "w: retrieval is left out: the data set has no captions" in record.notes
    alone = quick(protocols=["few-shot"])
    with pytest.raises(UserError, match="photos: no classes, which few-shot would need"):
        load_inputs(alone, "photos", cache=tmp_path)


def test_what_is_odd_about_captions_is_counted_in_one_line_each(tmp_path: Path) -> None:
    make_caption_stores(
        tmp_path,
        change={
            "train/00.jpg": [],
            "train/01.jpg": ["only one"],
            "train/02.jpg": ["的照片", "фото", "a photograph"],
            "train/03.jpg": ["twice", "twice"],
            "train/04.jpg": ["only one"],
        },
        same=[(30, 31)],
    )
    features = load_captions(tmp_path, "photos", "lite")
    assert len(features.train) == 23
    assert features.train.counts.tolist()[:3] == [1, 3, 2]
    assert list(features.notes) == [
        "photos: 1 of 40 images have no captions and are left out",
        "photos: 2 captions have no Latin letter; encoders trained on English do not know them",
        "photos: 1 captions repeat another one of their image",
        "photos: 1 captions stand at several images in the same words: as queries they count as ties",
    ]
    record = run(quick(methods=["zero-shot"]), Inputs(None, captions=features))
    assert "photos: 1 judged images have the embedding of another: as ties they count against" in record.notes
    assert any("10 images are judged: a share of 50 % of so few is known to ± 31 points" in n for n in record.notes)


def test_without_captions_or_with_one_training_image_there_is_one_clear_line(tmp_path: Path) -> None:
    make_caption_stores(tmp_path, per_split={"train": 1, "test": 5})
    record = run(quick(), inputs(tmp_path))
    assert "photos: 1 training images with captions: methods that learn on them are left out" in record.notes
    assert {fit.method for fit in record.fits} == {"zero-shot"}
    with pytest.raises(UserError, match="methods that learn on them are left out"):
        run(quick(methods=["aape"]), inputs(tmp_path))
    make_caption_stores(tmp_path, dataset="bare", captions=1, change={f"test/0{i}.jpg": [] for i in range(5)},
                        per_split={"test": 5})  # fmt: skip
    with pytest.raises(UserError, match="bare: no captions, which retrieval would need"):
        load_inputs(quick(), "bare", cache=tmp_path)


def test_no_more_captions_an_image_than_asked(cache: Path) -> None:
    one = Inputs(None, captions=load_captions(cache, "photos", "lite", most=1))
    record = run(quick(methods=["zero-shot", "caption-mean"]), one)
    assert {fit.method for fit in record.fits} == {"zero-shot"}, "the mean of one caption is no row of its own"
    features = load_captions(cache, "photos", "lite", most=2)
    assert features.train.counts.tolist() == [2] * 24
    assert features.train.texts[:2] == ("photograph train/00.jpg, caption 0", "photograph train/00.jpg, caption 1")


def test_the_ridge_map_is_the_closed_form_whichever_side_it_is_solved_on() -> None:
    for count in (10, 60):  # fewer and more images than numbers in an embedding
        pairs = some_pairs([2] * count)
        (found,) = solve(pairs, [0.3])
        x, t = pairs.images.all().double(), torch.cat([b.mean() for b in pairs.batches(99)]).double()
        centred, wanted = x - x.mean(0), t - t.mean(0)
        moment = centred.T @ centred / count
        ridge = 0.3 * moment.trace() / 16 * torch.eye(16, dtype=torch.float64)
        expected = torch.linalg.solve(moment + ridge, centred.T @ wanted / count)
        assert torch.allclose(found.map.double(), expected, atol=1e-5)
        assert torch.allclose(found.embed(x.float()).double().norm(dim=-1), torch.ones(count).double(), atol=1e-5)


@pytest.mark.parametrize("count", [6, 40])
def test_images_that_are_all_the_same_teach_the_ridge_no_map_and_are_no_hits(count: int) -> None:
    pairs = some_pairs([2] * count, width=16)
    same = Pairs(Held(pairs.images.all()[:1].expand(count, -1)), pairs.captions, pairs.first, pairs.image_ids)
    (found,) = solve(same, [1e-2])
    query = found.embed(same.images.all())
    assert torch.isfinite(query).all()
    assert torch.equal(query, query[:1].expand_as(query))
    assert ranks(same, found.embed).text_to_image.tolist() == [count] * (2 * count)


def test_a_blend_is_never_chosen_on_images_that_its_query_has_seen() -> None:
    pairs = some_pairs([2] * 40)
    found = Blend("ridge-blend", Ridge()).fit(CaptionTask(pairs, None), seed=1)
    alone = Ridge().fit(CaptionTask(pairs, None), seed=1)
    assert torch.equal(found.inner.map, alone.map), "in the end it is the map of all images"
    assert found.info["selection"] == "4 of the training images held out by seed, then fitted again on all"
    assert RawCosines("zero-shot").fit(CaptionTask(pairs, None), seed=1).embed(pairs.images.all()).shape == (40, 16)
