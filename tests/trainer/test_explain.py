"""`trainer explain`: cosines, prompts and attention are those of the checkpoint, and bad input is one clear line."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache as cache_once
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from conftest import COLOURS, picture
from small_stores import NAMES, WIDTH, make_stores
from torch import Tensor
from torch.nn.functional import normalize

from stages import UserError
from stages.params import TrainParams
from trainer.analysis.explain import explain_files, explanation_text
from trainer.analysis.figures import explanations
from trainer.analysis.prompts import aggregator_again, attention, features_of, find_reference
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.data import Task
from trainer.data.draws import few_shot
from trainer.data.features import Features, load_features
from trainer.methods import FITS_ALONE, METHODS
from trainer.methods.aape import AAPE
from trainer.methods.aape_plus import TextHead
from trainer.methods.linear import LinearPredictor

QUICK = TrainParams.model_validate({"epochs": 6, "aggregator_steps": 5})


@dataclass
class Colours:
    """An encoder for tests: the mean colour of a picture, spread over WIDTH entries."""

    name: str = "lite"
    width: int = WIDTH
    fingerprint: str = "f"
    note: str = ""

    def preprocess(self, image: Any) -> Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.uint8).view(3, 1, 1)

    def augment(self, image: Any, rng: Any) -> Tensor:
        """The colour, a little off."""
        off = torch.from_numpy(rng.integers(-30, 31, size=(3, 1, 1)))
        return (self.preprocess(image) + off).clamp(0, 255).to(torch.uint8)

    def encode_images(self, pixels: Tensor) -> Tensor:
        spread = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
        return normalize((pixels.flatten(1).float() / 255 - 0.5) @ spread, dim=-1)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_stores(tmp_path / "cache")
    return tmp_path / "cache"


def trained(cache: Path, folder: Path, settings: TrainParams = QUICK, **said: object) -> Features:
    """A checkpoint in `folder`, made as `trainer run` makes it, from the prompts of `people`."""
    loaded = load_features(cache, "w", "lite", device="cpu")
    train, val = few_shot(loaded, 4, seed=2)
    text = replace(loaded.text["people"], templates=None)
    predictor = AAPE("aape", settings).fit(Task(text, train, val), seed=2)
    provenance = {"dataset": "w", "encoder": "lite", "encoder_fingerprint": "f", "width": WIDTH, "seed": 2, "shots": 4}
    save_checkpoint(folder, predictor, text, provenance={**provenance, **said})
    return loaded


@pytest.fixture
def explained(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("pipeline.encoders.load_encoder", lambda name, device: Colours())
    files = []
    for i, colour in enumerate(COLOURS.values()):
        files.append(tmp_path / f"{i} $x$.png")
        picture(colour, i).save(files[-1])

    def run(*more: Path, stores: Path = cache, **options: Any) -> Any:
        asked = {"top": 2, "nearest": 3, "batch": 3, "device": "cpu", **options}
        checkpoint = asked.pop("checkpoint", tmp_path / "checkpoint")
        return explain_files([*files, *more], checkpoint, cache=stores, **asked)

    return run


def test_cosines_and_probabilities_are_the_classifiers_own(
    cache: Path, tmp_path: Path, explained: Callable[..., Any]
) -> None:
    trained(cache, tmp_path / "checkpoint")
    done = explained(top=4)
    assert len(done.rows) == 4
    found = load_checkpoint(tmp_path / "checkpoint")
    for row in done.rows:
        classes = row["classes"]
        assert sum(c["probability"] for c in classes) == pytest.approx(1, abs=1e-3)
        tau = found.predictor.tau  # type: ignore[attr-defined]
        shares = torch.tensor([c["cos_adapted"] for c in classes]).div(tau).softmax(0)
        assert shares.tolist() == pytest.approx([c["probability"] for c in classes], abs=5e-3)
        assert all(-1 <= c["cos_template"] <= 1 for c in classes)


def test_the_nearest_prompts_come_first_with_the_attention_of_the_aggregator_that_taught(
    cache: Path, tmp_path: Path, explained: Callable[..., Any]
) -> None:
    trained(cache, tmp_path / "checkpoint")
    done = explained(nearest=5)
    assert done.notes == []
    for row in done.rows:
        for each in row["classes"]:
            cosines = [p["cosine"] for p in each["prompts"]]
            assert cosines == sorted(cosines, reverse=True)
            assert sum(p["attention"] for p in each["prompts"]) == pytest.approx(1, abs=1e-3), "all five are shown"


def test_the_source_that_was_learned_from_is_recognised_and_its_aggregator_is_the_same(
    cache: Path, tmp_path: Path
) -> None:
    trained(cache, tmp_path / "checkpoint")
    found = load_checkpoint(tmp_path / "checkpoint")
    features = features_of(found, cache)
    reference = find_reference(found, features)
    assert reference is not None
    assert (reference.source, reference.learned) == ("people", True)
    targets, reason = aggregator_again(found, features, reference)
    assert targets is not None, reason
    assert float(found.predictor.info["cos_x_pa"]) == pytest.approx(
        float((targets.constant(few_shot(features, 4, seed=2)[0].float32()) * few_shot(features, 4, seed=2)[0]
               .embeddings.float()).sum(-1).mean()), abs=1e-4)  # fmt: skip


def test_with_query_image_every_image_has_its_own_attention(cache: Path, tmp_path: Path) -> None:
    trained(cache, tmp_path / "checkpoint", QUICK.model_copy(update={"query": "mean+image"}))
    found = load_checkpoint(tmp_path / "checkpoint")
    features = features_of(found, cache)
    reference = find_reference(found, features)
    assert reference is not None
    targets, reason = aggregator_again(found, features, reference)
    assert targets is not None, reason
    first, second = (attention(targets, x, 0) for x in features.train.images.embeddings[:2].float())
    assert first != second


@pytest.mark.parametrize(
    ("change", "said", "reason"),
    [
        ({"lambda_": 0.0}, {}, "no aggregator had a part"),
        ({"aggregator": "mean"}, {}, "has no attention"),
        ({"detach": False}, {}, "detach: false"),
        ({}, {"seed": 1}, "ends at reward"),
        ({}, {"seed": None}, "does not say which shots"),
    ],
)
def test_where_attention_cannot_be_had_a_line_says_why(
    cache: Path,
    tmp_path: Path,
    explained: Callable[..., Any],
    change: dict[str, Any],
    said: dict[str, Any],
    reason: str,
) -> None:
    trained(cache, tmp_path / "checkpoint", QUICK.model_copy(update=change), **said)
    done = explained()
    assert any("no attention is shown" in note and reason in note for note in done.notes), done.notes
    assert all(p["attention"] is None for row in done.rows for c in row["classes"] for p in c["prompts"])


@cache_once
def kept(name: str, beta: float | None = None) -> tuple[Path, Path]:
    """Stores, and a checkpoint of a method that was trained on the prompts of `people`."""
    folder = Path(mkdtemp())
    make_stores(folder / "cache")
    loaded = load_features(folder / "cache", "w", "lite", device="cpu")
    train, val = few_shot(loaded, 4, seed=2)
    predictor = METHODS[name](QUICK).fit(Task(loaded.text["people"], train, val), seed=2)
    if beta is not None:
        predictor.text_head = TextHead(0.0, beta, predictor.text_head.tau)  # type: ignore[attr-defined]
    said = {"dataset": "w", "encoder": "lite", "encoder_fingerprint": "f", "width": WIDTH, "seed": 2, "shots": 4}
    save_checkpoint(folder / "checkpoint", predictor, loaded.text["people"], provenance=said)
    return folder / "cache", folder / "checkpoint"


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_method_says_what_it_can(name: str, explained: Callable[..., Any]) -> None:
    stores, checkpoint = kept(name)
    done = explained(stores=stores, checkpoint=checkpoint, top=4)
    found = load_checkpoint(checkpoint)
    for row in done.rows:
        classes = row["classes"]
        assert sum(c["probability"] for c in classes) == pytest.approx(1, abs=1e-3)
        shares = torch.tensor([c["score"] for c in classes]).softmax(0)
        assert shares.tolist() == pytest.approx([c["probability"] for c in classes], abs=5e-3)
        for each in classes:
            assert len(each["prompts"]) == 3
            assert -1.0001 <= each["cos_template"] <= 1.0001
            if each["cos_adapted"] is not None:
                assert -1.0001 <= each["cos_adapted"] <= 1.0001
            if each["from_text"] is not None:
                assert each["from_text"] + each["from_images"] == pytest.approx(each["score"], abs=1e-3, rel=1e-6)
    first = done.rows[0]["classes"][0]
    two_parts = ("aape-plus", "tip-adapter", "tip-adapter-f", "gda", "proker", "ape", "ape-t")
    assert (first["from_text"] is not None) == (name in two_parts)
    assert (first["cos_adapted"] is None) == (name in ("logistic", "lp++", "timo", "awt", "aape-plus-no-text")), (
        "a weight vector with a bias is no angle"
    )
    linear = isinstance(found.predictor, LinearPredictor)
    assert linear == any("one weight vector a class" in note for note in done.notes)
    assert f"{done.rows[0]['path']}\n" in explanation_text(done.rows)


def test_aape_plus_shows_the_shares_that_it_gives_to_the_sentences(explained: Callable[..., Any]) -> None:
    stores, checkpoint = kept("aape-plus", 8.0)
    done = explained(stores=stores, checkpoint=checkpoint, nearest=5)
    assert done.notes == []
    for each in done.rows[0]["classes"]:
        cosines = torch.tensor([p["cosine"] for p in each["prompts"]])
        assert [p["attention"] for p in each["prompts"]] == pytest.approx((8 * cosines).softmax(0).tolist(), abs=1e-3)


def test_an_unreadable_file_is_a_row_and_the_others_are_explained(
    cache: Path, tmp_path: Path, explained: Callable[..., Any]
) -> None:
    trained(cache, tmp_path / "checkpoint")
    (tmp_path / "bad.jpg").write_bytes(b"junk")
    done = explained(tmp_path / "bad.jpg", tmp_path / "missing.jpg")
    assert [bool(row["error"]) for row in done.rows] == [False] * 4 + [True] * 2
    assert f"{tmp_path / 'bad.jpg'}: not an image" in explanation_text(done.rows)
    assert json.loads(json.dumps(done.rows))[0]["classes"][0]["class"] in NAMES.values()
    assert explanations(done.rows, done.pictures, tmp_path / "figure.png") == 4
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert explanations(done.rows[4:], done.pictures, tmp_path / "none.png") == 0
    assert not (tmp_path / "none.png").exists()


def test_without_stores_the_classes_are_still_explained(
    cache: Path, tmp_path: Path, explained: Callable[..., Any]
) -> None:
    trained(cache, tmp_path / "checkpoint")
    done = explained(stores=tmp_path / "nowhere")
    assert "no embedded prompts of 'w'" in done.notes[0]
    assert all(c["prompts"] == [] for row in done.rows for c in row["classes"])


def test_stores_of_another_encoder_are_refused(cache: Path, tmp_path: Path, explained: Callable[..., Any]) -> None:
    trained(cache, tmp_path / "checkpoint", encoder_fingerprint="g")
    found = load_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(UserError, match="use the same weights or train again"):
        features_of(found, cache)
    with pytest.raises(UserError, match="use the same weights or train again"):
        explained()
