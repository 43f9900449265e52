"""Every method of a run can be used after it, the best one by its validation images, and nothing of an older run."""

import csv
import json
from pathlib import Path

import pytest
from small_stores import NAMES, fast, make_stores

from stages import UserError
from stages.sums import SUMS
from trainer.checkpoint import load_checkpoint, read_provenance
from trainer.checkpoints import choose_checkpoint, folder_name, kept_in, kept_ranked
from trainer.data.features import load_features
from trainer.predict import predictions_csv, predictions_table
from trainer.report import report
from trainer.report.verdict import verdict
from trainer.runs.inputs import Inputs
from trainer.runs.record import load_record
from trainer.runs.run import run

UNSEEN = "16 labelled images that no choice was made on"
METHODS = ["zero-shot", "nearest-centroid", "cupl", "lp++"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("stores")
    make_stores(cache)
    return cache


def ran(cache: Path, results: Path, methods: list[str], **asked: object) -> Path:
    settings = fast(**{"methods": methods, "protocols": ["few-shot", "base-to-new"], "seeds": [1, 2], **asked})
    run(settings, Inputs(load_features(cache, "w", "lite")), results=results, jobs=1)
    return results / "runs" / "w"


@pytest.fixture(scope="module")
def results(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves; tests that change it take a copy of their own."""
    folder = tmp_path_factory.mktemp("results")
    ran(cache, folder, METHODS)
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def say_of(run_: Path, measures: dict[str, list[tuple[float, float | None]]]) -> None:
    """Give the methods of a run other validation measures: accuracy and loss of each seed."""
    content = json.loads((run_ / "run.json").read_text())
    left = {name: list(each) for name, each in measures.items()}
    for fit in content["fits"]:
        if fit["protocol"] == "few-shot" and fit["method"] in left:
            accuracy, loss = left[fit["method"]].pop(0)
            fit["validation"] = {"accuracy": accuracy, "loss": loss, "images": "12 validation images"}
    (run_ / "run.json").write_text(json.dumps(content))
    (run_ / SUMS).unlink()


def test_a_run_keeps_one_checkpoint_a_method_and_prompt_source_of_the_first_seed(results: Path) -> None:
    kept = kept_in(results / "runs" / "w")
    assert list(kept) == ["zero-shot", "cupl", "cupl@people", "nearest-centroid", "lp++"]
    for name, folder in kept.items():
        about = read_provenance(folder)
        assert (about["name"], about["seed"], about["shots"], about["protocol"]) == (name, 1, 4, "few-shot")
        assert (about["method"], about["source"]) == ("cupl", "people") if name == "cupl@people" else True
        assert load_checkpoint(folder).text.names == tuple(NAMES.values())


def test_nothing_of_an_older_run_is_left_to_be_served(cache: Path, tmp_path: Path) -> None:
    folder = ran(cache, tmp_path, ["zero-shot", "cupl"])
    (folder / "checkpoint").mkdir()
    report(tmp_path)
    confusion = [tmp_path / "figures" / "confusion-w.png", tmp_path / "plots" / "confusion" / "w.csv"]
    assert all(file.exists() for file in confusion)
    ran(cache, tmp_path, ["nearest-centroid"])
    assert list(kept_in(folder)) == ["nearest-centroid"]
    ran(cache, tmp_path, ["zero-shot"], protocols=["base-to-new"])
    assert sorted(file.name for file in folder.iterdir()) == [
        SUMS,
        "curves.csv",
        "outcomes.csv",
        "run.json",
        "timing.json",
    ]
    report(tmp_path)
    assert not any(file.exists() for file in confusion)
    with pytest.raises(
        UserError, match=r"runs/w: the run kept no checkpoint: run `trainer run --dataset w --protocol few-shot`, or"
    ):
        choose_checkpoint(tmp_path, "w", None)


def test_a_run_that_fails_while_it_writes_leaves_the_older_one_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ran(cache, tmp_path, ["zero-shot"])
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    monkeypatch.setattr("trainer.runs.written.write_lines", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(UserError, match="the disk is full"):
        ran(cache, tmp_path, ["nearest-centroid"])
    assert {file: file.read_bytes() for file in tmp_path.glob("runs/**/*") if file.is_file()} == before


def test_a_run_without_few_shot_keeps_what_learned_from_images_without_labels(cache: Path, tmp_path: Path) -> None:
    both = ["semi-supervised", "transductive", "unsupervised"]
    asked = ["aape-plus", "aape-plus-unlabelled"]
    folder = ran(cache, tmp_path, asked, protocols=both, shots=2)
    kept = sorted(place.name for place in (folder / "checkpoints").iterdir())
    assert kept == sorted(name + at for name in asked for at in ("", "@people"))
    found = load_checkpoint(choose_checkpoint(tmp_path, "w", "aape-plus-unlabelled").folder)
    assert read_provenance(folder / "checkpoints" / "aape-plus-unlabelled")["protocol"] == "semi-supervised"
    images = load_features(cache, "w", "lite").train.images.embeddings.float()
    assert found.predictor.logits(images, found.text).shape == (len(images), len(found.text))
    assert choose_checkpoint(tmp_path, "w", None).folder.name in kept
    folder = ran(cache, tmp_path, ["zero-shot"], protocols=[*both, "few-shot"], shots=2)
    assert read_provenance(folder / "checkpoints" / "zero-shot")["protocol"] == "few-shot"


def test_all_fits_are_kept_on_request(cache: Path, tmp_path: Path) -> None:
    folder = ran(cache, tmp_path, ["zero-shot"], checkpoints="all", shots=[2, 4])
    assert read_provenance(folder / "checkpoints" / "zero-shot")["shots"] == 4
    others = sorted(str(f.parent.relative_to(folder)) for f in folder.glob("all-checkpoints/**/checkpoint.json"))
    assert others == [
        f"all-checkpoints/{protocol}-{shots}/seed-{seed}/zero-shot"
        for protocol in ("base-to-new", "few-shot") for shots in (2, 4) for seed in (1, 2)
        if (protocol, shots, seed) != ("few-shot", 4, 1)
    ]  # fmt: skip
    assert len(load_checkpoint(folder / "all-checkpoints" / "base-to-new-4" / "seed-2" / "zero-shot").text) == 2


def test_a_run_whose_checkpoints_do_not_serve_says_where_they_are(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(cache, tmp_path, ["zero-shot"], protocols=["base-to-new"])
    assert "w: no checkpoint is kept: none of few-shot, semi-supervised" in capsys.readouterr().err
    folder = ran(cache, tmp_path, ["zero-shot"], protocols=["base-to-new"], checkpoints="all")
    assert "w: its checkpoints lie in all-checkpoints/, for --checkpoint DIR: none of" in capsys.readouterr().err
    assert any(folder.glob("all-checkpoints/**/checkpoint.json"))
    with pytest.raises(UserError, match="runs/w: the run kept its checkpoints in all-checkpoints/ alone: run"):
        choose_checkpoint(tmp_path, None, None)


def test_predictions_have_probability_and_runner_up_and_classes_have_counts(results: Path) -> None:
    folder = results / "runs" / "w"
    fits = {fit.method: fit for fit in load_record(folder).fits if (fit.protocol, fit.seed) == ("few-shot", 1)}
    for name, kept in kept_in(folder).items():
        lines, classes = rows(kept / "predictions.csv"), rows(kept / "classes.csv")
        assert len(lines) == 48
        right = sum(line["actual"] == line["predicted"] for line in lines)
        assert right / 48 == pytest.approx(fits[name].metrics["accuracy"])
        for line in lines:
            assert line["predicted"] != line["runner_up"]
            assert 0 <= float(line["runner_up_probability"]) <= float(line["probability"]) <= 1
        assert [line["name"] for line in classes] == list(NAMES.values())
        assert [int(line["images"]) for line in classes] == [12] * 4
        assert sum(int(line["right"]) for line in classes) == right
        assert all(float(line["accuracy"]) == pytest.approx(int(line["right"]) / 12, abs=1e-6) for line in classes)


def test_without_a_name_the_best_on_validation_images_serves_and_the_line_says_why(results: Path) -> None:
    best, *others = kept_ranked(results / "runs" / "w")
    measured = {each.name: each.validation for each in (best, *others)}
    for name, found in measured.items():
        assert found is not None, name
        assert found.images == UNSEEN
        assert found.accuracy <= measured[best.name].accuracy  # type: ignore[union-attr]
    chosen = choose_checkpoint(results, None, None)
    assert chosen.folder.name == best.name
    assert chosen.why.startswith(f"{best.name} of w, the best of 5 on {UNSEEN}: accuracy ")
    assert f"then {others[0].name}, accuracy" in chosen.why


def test_ties_go_by_loss_and_then_by_the_order_of_the_registry(cache: Path, tmp_path: Path) -> None:
    folder = ran(cache, tmp_path, METHODS)
    say_of(folder, {
        "zero-shot": [(0.5, 0.9)] * 2, "cupl": [(0.75, 0.9)] * 2, "nearest-centroid": [(0.75, 0.8)] * 2,
        "cupl@people": [(1.0, 0.8), (0.5, 0.8)], "lp++": [(0.75, None)] * 2,
    })  # fmt: skip
    order = ["cupl@people", "nearest-centroid", "cupl", "lp++", "zero-shot"]
    assert [each.name for each in kept_ranked(folder)] == order, "the mean over the seeds counts"
    said = verdict(load_record(folder))
    assert said.method == choose_checkpoint(tmp_path, "w", None).folder.name == "cupl@people"
    assert "as nearest-centroid; the order of the table decides" in said.best


def test_methods_without_validation_images_are_told_apart_by_nothing_and_the_line_says_so(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 1, "test": 2})
    ran(tmp_path / "cache", tmp_path, ["nearest-centroid", "zero-shot"], shots=1)
    chosen = choose_checkpoint(tmp_path, "w", None)
    assert chosen.folder.name == "zero-shot"
    assert "the first of 2: no method had validation images to be judged on" in chosen.why


def test_a_method_by_name_and_what_there_is_instead(results: Path) -> None:
    assert choose_checkpoint(results, "w", "cupl@people").folder.name == "cupl@people"
    assert choose_checkpoint(results, None, None, usual="cupl").folder.name == "cupl"
    there = "zero-shot, cupl, cupl@people, nearest-centroid, lp"
    with pytest.raises(UserError, match=f"no checkpoint of 'logistic'; there are: {there}.*--methods logistic`"):
        choose_checkpoint(results, "w", "logistic")
    with pytest.raises(UserError, match=f"no checkpoint of 'cpul'; known: {there}.*did you mean 'cupl'"):
        choose_checkpoint(results, "w", "cpul")
    with pytest.raises(UserError, match="no checkpoint of 'v'; choose with --dataset: w"):
        choose_checkpoint(results, "v", None)
    with pytest.raises(UserError, match="no checkpoint there yet: run `trainer run` first"):
        choose_checkpoint(results / "nowhere", None, None)


def test_a_damaged_record_is_one_line_where_the_best_is_looked_for(cache: Path, tmp_path: Path) -> None:
    folder = ran(cache, tmp_path, ["zero-shot", "cupl"])
    say_of(folder, {"cupl": [(2.0, None)] * 2})
    with pytest.raises(UserError, match=r"run.json: fits.*accuracy: Input should be less than or equal to 1"):
        choose_checkpoint(tmp_path, "w", None)
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"run.json is not there: run `trainer run --dataset w` first"):
        choose_checkpoint(tmp_path, "w", None)
    assert choose_checkpoint(tmp_path, "w", "zero-shot").folder == folder / "checkpoints" / "zero-shot"


@pytest.mark.parametrize("name", ["aape", "aape@written", "lp++", "../up", "/etc", "..", "a b/c", "é"])
def test_a_name_becomes_one_folder(name: str) -> None:
    folder = folder_name(name)
    assert "/" not in folder
    assert not folder.startswith(".")
    assert folder


def test_the_table_of_predictions_has_a_column_of_errors_only_where_there_is_one() -> None:
    good = {"path": "a.jpg", "error": None, "classes": [{"class": "hat", "probability": 0.9}]}
    bad = {"path": "b.jpg", "error": "no picture", "classes": []}
    assert "error" not in predictions_table([good], top=1)
    both = predictions_table([good, bad], top=1)
    assert "error" in both
    assert "no picture" in both
    assert predictions_csv([good], top=1).splitlines() == ["path,class_1,probability_1,error", "a.jpg,hat,0.9000,"]
