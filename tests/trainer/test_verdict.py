"""The five lines that a run ends with: chosen by validation images alone, and honest where there is little to go by."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_stores import fast, make_stores

from stages.params import EvaluationParams
from stages.training import TrainParams
from trainer.data.features import load_features
from trainer.methods import METHODS
from trainer.methods.text import TextMethod
from trainer.report.tables import markdown_verdict, text_verdict
from trainer.report.verdict import TEXT_ALONE, Verdict, verdict
from trainer.runs.choice import ranked
from trainer.runs.inputs import Inputs
from trainer.runs.paired import difference95, pairs, share95
from trainer.runs.record import FitRecord, Origin, ProtocolRecord, RunRecord, load_record, save_record
from trainer.runs.run import run

RNG = np.random.default_rng(0)


def record(
    methods: dict[str, tuple[float | None, float | None]], *, seeds: int = 3, images: int = 400,
    shots: tuple[int, ...] = (16,), new: dict[str, float] | None = None, gains: dict[int, float] | None = None,
    confused: list[dict[str, Any]] | None = None, ece: float | None = None,
) -> RunRecord:  # fmt: skip
    """A run: method -> (validation accuracy, test accuracy); None where there was nothing to measure on."""
    protocols = {
        f"few-shot-{k}": ProtocolRecord(name="few-shot", shots=k, title="", headline=("accuracy",)) for k in shots
    }
    fits, right = [], {}
    for key, about in protocols.items():
        for method, (val, test) in methods.items():
            for seed in range(seeds):
                measured = None if test is None else test - (gains or {}).get(about.shots, 0.0)
                fits.append({
                    "protocol": key, "method": method, "source": "none", "seed": seed, "info": {},
                    "metrics": {"accuracy": measured} | ({} if ece is None else {"ece": ece}),
                    "validation": None if val is None else {"accuracy": val, "loss": 1.0, "images": "40 images"},
                    "confused": confused or [],
                })  # fmt: skip
                if measured is not None:
                    right.setdefault(method, {})[seed] = np.arange(images) < round(measured * images)
    if new is not None:
        protocols["base-to-new"] = ProtocolRecord(name="base-to-new", shots=shots[-1], title="", headline=("new",))
        fits += [
            {"protocol": "base-to-new", "method": m, "source": "none", "seed": 0, "info": {}, "metrics": {"new": value}}
            for m, value in new.items()
        ]
    return RunRecord(
        dataset="w", encoder="lite", notes=(), sources=("llm",), classes=4, protocols=protocols,
        evaluation=EvaluationParams(), train=TrainParams(), test_images=images,
        fits=tuple(FitRecord.model_validate_json(json.dumps(fit)) for fit in fits),
        pairs=tuple(pairs(f"few-shot-{shots[-1]}", right)),
    )  # fmt: skip


FOUR = {
    "aape-plus": (0.9, 0.85), "aape-plus-no-text": (0.8, 0.7), "logistic": (0.85, 0.9), "zero-shot": (0.5, 0.4),
}  # fmt: skip


def test_the_best_is_chosen_by_validation_images_and_not_by_the_test() -> None:
    found = verdict(record(FOUR))
    assert found.method == "aape-plus"
    assert found.best.startswith(
        "aape-plus, 85.0 % ± 0.0 right on the test images; chosen of 4 methods by 40 images (90.0 %"
    )
    assert found.best.endswith("; then logistic, 85.0 %)")
    assert found.beside.startswith("logistic regression on the same features, 90.0 %")
    assert "aape-plus -5.0 ± " in found.beside
    assert "the text brought +15.0 ± " in found.text
    assert "a difference beyond chance" in found.text
    assert [line.partition(":")[0] for line in found.lines] == ["best", "beside", "text", "sure", "next"]


def test_few_test_images_make_no_difference_and_more_are_asked_for() -> None:
    found = verdict(record({"aape-plus": (0.9, 0.85), "logistic": (0.8, 0.8)}, images=20))
    assert "+5.0 ± " in found.beside
    assert "no difference beyond chance" in found.beside
    assert "the choice of the 20 test images" in found.sure
    assert found.next.startswith("more test images: 550 would leave ± 3 points, these 20 leave ± 1")


@pytest.mark.parametrize(("methods", "part", "said"), [
    ({"zero-shot": (None, 0.5)}, "best", "the only method fitted"),
    ({"zero-shot": (0.5, None)}, "best", "zero-shot, no test image to measure on; the only method fitted"),
    ({"zero-shot": (None, 0.5), "logistic": (None, 0.7)}, "best", "no method had validation images to be chosen by"),
    ({"zero-shot": (0.5, 0.27), "logistic": (0.4, 0.3)}, "next", "no better than chance (25.0 %)"),
    ({"zero-shot": (0.5, 0.5)}, "beside", "not fitted (--methods logistic)"),
    ({"zero-shot": (0.5, 0.5)}, "text", "not fitted: no method with and without text"),
    ({"zero-shot": (0.5, 0.5), "cupl": (0.4, 0.7)}, "text", "the bare template where nothing is learnt, brought +20.0"),
    ({"logistic": (0.8, 0.7), "zero-shot": (0.5, 0.5)}, "beside", "it is the best itself"),
    ({"zero-shot": (0.8, 0.7), "logistic": (0.8, 0.5)}, "best", "as logistic; the order of the table decides"),
    ({"zero-shot": (0.5, None), "cupl": (0.8, None), "logistic": (0.1, None)}, "sure", "there is no test image"),
    ({"zero-shot": (0.5, None), "cupl": (0.8, None), "logistic": (0.1, None)}, "text", "no test image to measure on"),
    ({"zero-shot": (0.5, None), "cupl": (0.8, None), "logistic": (0.1, None)}, "next", "the split `test`"),
])  # fmt: skip
def test_what_is_not_there_is_said(methods: dict[str, Any], part: str, said: str) -> None:
    assert said in getattr(verdict(record(methods)), part)


def test_one_seed_shows_no_spread_and_a_run_without_few_shot_has_no_verdict() -> None:
    assert "1 seed, which shows no spread" in verdict(record(FOUR, seeds=1)).sure
    assert verdict(record(FOUR, seeds=1, images=4000)).next.startswith(
        "more seeds (--seeds 1,2,3): one shows no spread"
    )
    run_ = record(FOUR, seeds=2, images=4000)
    spread = [fit.model_copy(update={"metrics": {"accuracy": 0.6 + 0.2 * fit.seed}}) for fit in run_.fits]
    found = verdict(run_.model_copy(update={"fits": tuple(spread)}))
    assert found.next.startswith("more seeds (--seeds 1,2,3,4): these 2 leave ± "), "it is no matter of chance"
    bare = record(FOUR).model_copy(update={"protocols": {}, "fits": (), "pairs": ()})
    found: Verdict = verdict(bare)
    assert (found.method, len(found.lines)) == (None, 2), "what holds for all is said once"
    assert "few-shot is not among the protocols" in found.best


def alone(name: str, methods: dict[str, tuple[float | None, float | None]], **changes: object) -> Verdict:
    """The verdict on a run of this protocol and no few-shot; info of a method by its name."""
    run_ = record(methods, shots=(4,))
    about = run_.protocols["few-shot-4"].model_copy(update={"name": name})
    fits = [f.model_copy(update={"protocol": name, "info": changes.get(f.method, {})}) for f in run_.fits]
    origin = Origin(images={"train": (9, 3)})
    asked = EvaluationParams(shots=4)
    update = {"protocols": {name: about}, "fits": tuple(fits), "origin": origin, "evaluation": asked}
    return verdict(run_.model_copy(update=update))


def test_a_protocol_alone_names_its_best_by_validation_images_its_control_and_what_was_seen() -> None:
    found = alone("semi-supervised", {"grip": (0.8, 0.7), "logistic": (0.7, 0.75), "zero-shot": (0.5, 0.4)})
    assert found.method is None
    assert found.said == {
        "best": "grip, accuracy 70.0 % ± 0.0 on the test images; chosen of 3 methods by the likelihood of "
        "40 images (80.0 %)",
        "beside": "logistic, regression on the labelled images alone, 75.0 % ± 0.0: grip -5.0 points ± 0.0 over "
        "the seeds",
        "saw": "nothing of the test split before the end",
        "next": "`trainer predict NEW-IMAGES --dataset w` classifies new images",
    }
    tailed = alone("long-tailed", {"logistic": (0.7, 0.75)}).said["next"]
    assert (
        tailed == "`trainer run --dataset w --protocols few-shot --shots 4 --up-to` fits classifiers that can be used"
    )


def test_an_offered_run_is_of_the_encoder_that_was_used() -> None:
    other = record(FOUR).model_copy(update={"encoder": "open_clip:ViT-B-16/openai", "protocols": {}, "fits": ()})
    assert "`trainer run --dataset w --encoder open_clip:ViT-B-16/openai --protocols few-shot" in verdict(other).next


def test_where_choices_were_made_on_the_same_images_likelihood_decides_and_not_who_counted_most() -> None:
    found = record({"counted": (0.9, 0.5), "likely": (0.8, 0.7)}, shots=(4,))
    losses = {"counted": 1.0, "likely": 0.6}
    fits = [
        fit.model_copy(update={"validation": fit.validation.model_copy(update={"loss": losses[fit.method]})})  # type: ignore[union-attr]
        for fit in found.fits
    ]
    few = found.model_copy(update={"fits": tuple(fits)})
    assert [each.name for each in ranked(few)] == ["counted", "likely"]
    about = few.protocols["few-shot-4"].model_copy(update={"name": "semi-supervised"})
    semi = few.model_copy(update={"protocols": {"few-shot-4": about}})
    assert [each.name for each in ranked(semi)] == ["likely", "counted"]


def test_where_no_labelled_image_is_held_out_nothing_is_chosen_and_the_test_images_choose_nothing() -> None:
    seen = {"saw": "images of the test split, no labels"}
    found = alone("transductive", {"grip": (None, 0.9), "zero-shot": (None, 0.4), "cupl": (None, 0.5)}, grip=seen)
    assert found.said["best"].startswith("not chosen: no method was measured on labelled images beside the test")
    assert "90" not in found.said["best"]
    assert found.said["beside"] == "zero-shot, which learns from no image, 40.0 % ± 0.0"
    assert found.said["saw"] == (
        "grip images of the test split, no labels, while judging; the others nothing of the test split"
    )
    own = {"val_accuracy": 0.6, "val_loss": 1.0}
    part = alone("meta", {"aape": (None, 0.5), "gda": (None, 0.7), "joint-start": (None, 0.6)}, aape=own, gda=own)
    how = "chosen of 2 methods by the likelihood of validation images of w that choices were made on (60.0 %)"
    assert how in part.said["best"]
    assert part.said["best"].endswith("; not measured on them: joint-start")
    assert alone("unsupervised", {"cupl": (None, 0.5)}).said["beside"] == "no control fitted (--methods zero-shot)"


@pytest.mark.parametrize(("asked", "said"), [
    ({"shots": (8, 16), "gains": {8: 0.1}}, "more images a class: from 8 to 16 shots brought +10.0 points"),
    ({"confused": [{"actual": "a\n", "predicted": "b", "images": 9, "of": 40}]},
     "labels of 'a\\n': 9 of its 40 test images were taken for 'b'"),
    ({"new": {"aape-plus": 0.7, "zero-shot": 0.6}}, "better sentences"),
    ({}, "`trainer run --dataset w --methods aape-plus --shots 4,8,16` shows whether more images a class would help"),
])  # fmt: skip
def test_what_to_do_next_follows_the_rules(asked: dict[str, Any], said: str) -> None:
    two = {"aape-plus": (0.9, 0.85), "logistic": (0.8, 0.9)}
    assert said in verdict(record(two, images=4000, **asked)).next
    assert "ECE" in verdict(record(two, ece=0.04)).sure


@pytest.mark.parametrize(("new", "test", "said"), [
    (0.7, 4000, "aape-plus is 10.0 points above the bare template"),
    (0.585, 4000, "aape-plus is 1.5 points below the bare template"),
    (0.45, 4000, "15.0 points below the bare template, no better than chance (50.0 % for 2 classes)"),
    (0.7, 20, "10.0 points above the bare template, no better than chance (50.0 % for 2 classes)"),
    (0.6, 4000, "aape-plus is level with the bare template"),
])  # fmt: skip
def test_the_text_on_new_classes_is_above_or_below_and_measured_by_chance(new: float, test: int, said: str) -> None:
    found = verdict(record(FOUR, images=test, new={"aape-plus": new, "zero-shot": 0.6}))
    assert found.text.endswith(said)


@pytest.mark.parametrize(("shots", "images", "said"), [
    (2, (4, 4, 4, 4), "--shots 1,2,4` shows"),
    (16, (4, 4, 4, 4), "--shots 1,2,4` shows"),
    (16, (40, 40, 40, 9), "--shots 4,8,16 --up-to` shows"),
    (1, (3, 1, 1, 1), "--shots 1,2,3 --up-to` shows"),
    (1, (1, 1, 1, 1), "from one alone nothing can be seen"),
])  # fmt: skip
def test_the_shots_to_try_are_those_that_the_set_has(shots: int, images: tuple[int, ...], said: str) -> None:
    found = record({"logistic": (0.8, 0.9)}, images=4000, shots=(shots,))
    advice = verdict(found.model_copy(update={"origin": Origin(images={"train": images})})).next
    assert said in advice
    assert "one alone" in said or "--methods logistic " in advice


def test_where_no_image_is_learnt_from_more_seeds_are_no_advice() -> None:
    assert set(TEXT_ALONE) == {name for name, make in METHODS.items() if isinstance(make(TrainParams()), TextMethod)}
    found = verdict(record({"cupl": (0.9, 0.8), "zero-shot": (0.8, 0.7)}, seeds=1, images=4000)).next
    assert "seeds" not in found
    found = verdict(record({"zero-shot": (0.9, 0.8)}, seeds=1, images=4000)).next
    assert found == (
        "`trainer run --dataset w --methods zero-shot,aape-plus,logistic --shots 4,8,16` shows whether images a class "
        "would help"
    )


def test_the_paired_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Simulated: two methods, three seeds, 60 test images, a true difference of 0.1."""
    held, runs = 0, 400
    for _ in range(runs):
        hard = RNG.uniform(-0.2, 0.2, size=60)
        first, second = (
            {seed: RNG.random(60) < np.clip(base + hard, 0, 1) for seed in range(3)} for base in (0.75, 0.65)
        )
        found = difference95(first, second)
        assert found is not None
        held += abs(found[0] - 0.1) <= found[1]
    assert held / runs >= 0.95
    assert held / runs < 1.0


def test_intervals_are_never_zero_and_none_where_nothing_is_common() -> None:
    same = {0: np.ones(4, dtype=bool)}
    found = difference95(same, {0: np.zeros(4, dtype=bool)})
    assert found is not None
    assert found[0] == 1.0
    assert found[1] > 0.2
    assert difference95(same, {1: np.ones(4, dtype=bool)}) is None
    assert difference95({0: np.ones(0, dtype=bool)}, {0: np.ones(0, dtype=bool)}) is None
    assert share95(1.0, 1) > 0.3
    assert math.isclose(share95(0.5, 10_000), 0.0098, abs_tol=1e-4)


@pytest.mark.parametrize(("stores", "said"), [
    ({"per_split": {"train": 1, "test": 1}}, "nothing told the methods apart before the test"),
    ({"per_split": {"train": 2, "test": 8}, "noise": 0.0}, "more test images"),
    ({"per_split": {"train": 6, "val": 2, "test": 8}, "noise": 1e9}, "no better than chance (25.0 %)"),
    ({"per_split": {"train": 4, "val": 2, "test": 6}, "names": {0: "<b>", 1: "a\n|"}}, "points"),
    ({"per_split": {"train": 4}}, "nothing could be measured"),
], ids=["two images a class", "classes apart", "noise alone", "two classes", "no test image"])  # fmt: skip
def test_odd_data_ends_in_five_lines_and_in_tables(stores: dict[str, Any], said: str, tmp_path: Path) -> None:
    make_stores(tmp_path, **stores)
    settings = fast(methods=["aape-plus", "aape-plus-no-text", "logistic", "zero-shot"], seeds=[1, 2], up_to=True)
    found = run(settings, Inputs(load_features(tmp_path, "w", "lite")), jobs=1)
    assert said in verdict(found).next
    assert len(text_verdict(found).splitlines()) == 6
    assert len(markdown_verdict(found).strip().splitlines()) == 7
    assert "<b>" not in markdown_verdict(found)


def test_ten_thousand_classes_have_a_verdict_at_once(tmp_path: Path) -> None:
    counts = {split: (2,) * 10_000 for split in ("train", "val", "test")}
    found = record(FOUR, images=20_000).model_copy(update={"classes": 10_000, "origin": Origin(images=counts)})
    save_record(found, tmp_path)
    assert (tmp_path / "run.json").stat().st_size < 1_000_000
    assert len(verdict(load_record(tmp_path)).lines) == 5
