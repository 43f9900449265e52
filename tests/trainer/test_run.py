"""`trainer run` from stores to tables: the test split stays shut until the end, the same seed gives the same bytes."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import Command
from small_stores import CLASSES, FAST, NAMES, make_stores

from stages import ImageStore, UserError
from trainer.draws import few_shot, sample_shots
from trainer.features import Features, load_features
from trainer.protocols import protocols
from trainer.run import run_dataset, write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_stores(tmp_path / "cache")
    return tmp_path / "cache"


ALL = {"protocols": protocols(["few-shot", "base-to-new"], shots=[4]), "method_names": ["all"], "seeds": [1, 2]}
FEW_SHOT = protocols(["few-shot"], shots=[4])


def test_no_method_can_look_at_a_test_image_before_the_final_evaluation(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    from trainer import features

    whole = features._read_split

    def watched(store: ImageStore, split: str, *rest: object) -> object:
        opened.append(split)
        if split == "test":
            raise RuntimeError("the test split was opened")
        return whole(store, split, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_read_split", watched)
    loaded = load_features(cache, "w", "lite")
    fitted: list[str] = []
    from trainer.methods import METHODS

    for name, make in list(METHODS.items()):

        def wrap(settings: object, make: object = make, name: str = name) -> object:
            method = make(settings)  # type: ignore[operator]
            fit = type(method).fit

            def fitting(self: object, task: object, *, seed: int) -> object:
                fitted.append(name)
                return fit(self, task, seed=seed)

            monkeypatch.setattr(type(method), "fit", fitting)
            return method

        monkeypatch.setitem(METHODS, name, wrap)
    with pytest.raises(RuntimeError, match="the test split was opened"):
        run_dataset(loaded, FAST, jobs=1, **ALL)  # type: ignore[arg-type]
    assert opened == ["train", "val", "test"], "opened once, after everything else"
    assert set(fitted) == set(METHODS), "every method was fitted before"


def test_the_same_seed_gives_the_same_bytes_in_one_process_or_two(cache: Path, tmp_path: Path) -> None:
    for jobs, name in enumerate("ab", 1):
        outcome = run_dataset(load_features(cache, "w", "lite"), FAST, jobs=jobs, **ALL)  # type: ignore[arg-type]
        write(outcome, FAST, tmp_path / name)
    files = [
        "run.json",
        "curves.csv",
        "predictions.csv",
        "checkpoint/checkpoint.json",
        "checkpoint/checkpoint.safetensors",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_every_method_learns_separable_classes_and_baselines_see_the_same_shots(cache: Path) -> None:
    outcome = run_dataset(load_features(cache, "w", "lite"), FAST, **ALL)  # type: ignore[arg-type]
    accuracy = {r.key: r.score.metrics["accuracy"] for r in outcome.runs if r.score and r.protocol.name == "few-shot"}
    for method in ("aape", "cupl", "logistic", "nearest-centroid", "cupl@people"):
        assert accuracy[method] > 0.6, (method, accuracy)
    scores = {r.key: r.score.metrics for r in outcome.runs if r.score and r.protocol.name == "base-to-new"}
    assert set(scores["aape"]) == {"base", "new", "h", "generalized"}
    assert set(scores["logistic"]) == {"base"}, "logistic regression cannot serve classes it never saw"


def test_shots_are_drawn_by_seed_nested_and_never_from_another_class(cache: Path) -> None:
    loaded = load_features(cache, "w", "lite")
    labels = loaded.train.images.labels
    four, eight = (sample_shots(labels, k, seed=3, names=loaded.class_names) for k in (4, 8))
    assert set(four) < set(eight)
    assert torch.bincount(labels[torch.as_tensor(four)]).tolist() == [4] * CLASSES
    assert list(four) == list(sample_shots(labels, 4, seed=3, names=loaded.class_names))
    assert list(four) != list(sample_shots(labels, 4, seed=4, names=loaded.class_names))


def test_validation_images_are_never_the_shots(tmp_path: Path) -> None:
    make_stores(tmp_path, per_split={"train": 8, "test": 4})
    train, val = few_shot(load_features(tmp_path, "w", "lite"), 5, seed=1)
    assert (len(train), len(val)) == (20, 12)
    rows = {tuple(row) for row in train.embeddings.tolist()}
    assert not any(tuple(row) in rows for row in val.embeddings.tolist())


def test_bad_stores_are_one_clear_line(cache: Path, tmp_path: Path) -> None:
    loaded = load_features(cache, "w", "lite")
    with pytest.raises(UserError, match=r"9 shots asked, but 4 classes have fewer.*lower --shots to 8"):
        few_shot(loaded, 9, seed=1)
    with pytest.raises(UserError, match=r"no embedded prompts of 'peple' .*did you mean 'people'"):
        load_features(cache, "w", "lite", sources=["peple"])
    with pytest.raises(UserError, match="no images store of encoder 'open_clip:ViT-B-16/openai', only of lite"):
        load_features(cache, "w", "open_clip:ViT-B-16/openai")
    with pytest.raises(UserError, match="run `pipeline ingest nowhere"):
        load_features(cache, "nowhere", "lite")
    with pytest.raises(UserError, match=r"no method|unknown method"):
        run_dataset(loaded, FAST, protocols=FEW_SHOT, method_names=["appe"], seeds=[1])
    with pytest.raises(UserError, match="did you mean 'few-shot'"):
        protocols(["fewshot"], shots=[4])


def test_features_without_any_prompts_still_run_what_needs_none(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=())
    loaded = load_features(tmp_path, "w", "lite")
    outcome = run_dataset(loaded, FAST, protocols=FEW_SHOT, method_names=["zero-shot", "logistic"], seeds=[1])
    assert [r.key for r in outcome.runs] == ["zero-shot", "logistic"]
    with pytest.raises(UserError, match="generate-prompts"):
        run_dataset(loaded, FAST, protocols=FEW_SHOT, method_names=["cupl"], seeds=[1])


def test_the_command_prints_tables_and_leaves_metrics_plots_pictures_and_a_checkpoint(
    command: Command, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("datasets: [w]\nprompts: {llm: people}\ntrain: {epochs: 8}\n")
    done = command("trainer", "run", "--features", "cache/", "--shots", 4, cwd=tmp_path)
    assert "w: few-shot, 4 shots, 3 seeds, encoder lite" in done.stdout
    assert "cupl@llm" in done.stdout, "the settings' own source has the plain name"
    assert "note: not CLIP" in done.stdout
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    entry = metrics["w"]["base-to-new"]["aape"]["h"]
    assert set(entry) == {"mean", "ci95", "n"}
    assert entry["n"] == 3
    for name in ("comparison-w", "loss-w", "confusion-w"):
        assert (tmp_path / "results" / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "results" / "plots" / "confusion" / "w.csv").open(newline="") as handle:
        assert {row["actual"] for row in csv.DictReader(handle)} == set(NAMES.values())
    assert (tmp_path / "results" / "plots" / "curves.csv").read_text().startswith("run,epoch,loss\n")
    assert (tmp_path / "results" / "runs" / "w" / "checkpoint" / "checkpoint.safetensors").exists()
    again = command("trainer", "run", "--methods", "aape", "--seeds", "1", "--shots", 2, "--json", cwd=tmp_path)
    assert list(json.loads(again.stdout)["w"]["few-shot"]) == ["aape", "aape@llm"]


def test_wrong_use_is_one_line_and_nothing_is_written(command: Command, cache: Path, tmp_path: Path) -> None:
    cases = {
        ("run", "--methods", "appe"): ("did you mean 'aape'", 2),
        ("run", "--seeds", "one"): ("whole numbers", 2),
        ("run", "--shots", "50"): ("lower --shots", 1),
        ("run", "--encoder", "open_clip:x/y"): ("no images store of encoder", 1),
        ("report",): ("run `trainer run` first", 1),
        ("predict", "x.png"): ("run `trainer run` first", 1),
    }
    (tmp_path / "params.yaml").write_text("datasets: [w]\n")
    for args, (part, code) in cases.items():
        done = command("trainer", *args, cwd=tmp_path, code=code)
        assert part in done.stderr, args
        assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_features_hold_no_test_image(cache: Path) -> None:
    loaded = load_features(cache, "w", "lite")
    assert isinstance(loaded, Features)
    ids = {*loaded.train.image_ids, *loaded.val.image_ids}
    assert not any(i.startswith("test/") for i in ids)
    assert all(i.startswith("test/") for i in loaded.test().image_ids)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["aape", "logistic", "cupl"]
    ways = protocols(["few-shot"], shots=[4])
    from trainer import run as module

    whole, fitted = module.fit, []

    def dying(*asked: object, seed: int) -> object:
        if len(fitted) == 4:
            raise KeyboardInterrupt
        fitted.append(asked)
        return whole(*asked, seed=seed)  # type: ignore[arg-type]

    def outcome(keep: Path | None) -> Path:
        found = run_dataset(
            load_features(cache, "w", "lite"), FAST, protocols=ways, method_names=names, seeds=[1, 2], jobs=1, keep=keep
        )
        folder = tmp_path / ("kept" if keep else "undisturbed")
        write(found, FAST, folder)
        return folder

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", dying)
        with pytest.raises(KeyboardInterrupt):
            outcome(tmp_path / "fits")
    again: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", lambda *a, seed: (again.append(a), whole(*a, seed=seed))[1])
        kept = outcome(tmp_path / "fits")
    undisturbed = outcome(None)
    assert len(fitted) == 4
    assert len(again) == 2 * 5 - 4, (
        "aape and cupl with two sources each, logistic with none: what was done is not done again"
    )
    for file in ("run.json", "curves.csv", "outcomes.csv", "predictions.csv", "checkpoint/checkpoint.safetensors"):
        assert (kept / file).read_bytes() == (undisturbed / file).read_bytes(), file
