"""`trainer run` from stores to tables: the test split stays shut until the end, the same seed gives the same bytes."""

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch
from conftest import Command
from small_stores import CLASSES, NAMES, fast, make_stores

from stages import ImageStore, UserError
from stages.lock import store_lock
from stages.stores.artifacts import TextStore
from stages.sums import SUMS
from trainer.data import Task
from trainer.data.draws import few_shot, sample_shots
from trainer.data.features import Features, load_features
from trainer.methods import GROUPS, Method
from trainer.runs.inputs import Inputs
from trainer.runs.record import RunRecord, load_record
from trainer.runs.run import run


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    make_stores(tmp_path / "cache")
    return tmp_path / "cache"


def inputs(cache: Path) -> Inputs:
    return Inputs(load_features(cache, "w", "lite"))


Events = list[tuple[str, str]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Events]:
    """A run of every method, and what it did in order: ("read", split) and ("fit", method)."""
    cache, events = tmp_path_factory.mktemp("all") / "cache", []
    make_stores(cache)
    from trainer.data import features
    from trainer.runs import fits as module

    read, whole = features.read_split, module.timed_fit

    def reading(store: ImageStore, split: str, *rest: object, **more: object) -> object:
        events.append(("read", split))
        return read(store, split, *rest, **more)  # type: ignore[arg-type]

    def fitting(method: Method, task: Task, seed: int) -> object:
        events.append(("fit", method.name))
        return whole(method, task, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "read_split", reading)
        patch.setattr(module, "timed_fit", fitting)
        return run(fast(protocols=["few-shot", "base-to-new"], methods=["all"]), inputs(cache), jobs=1), events


def test_the_test_split_is_read_once_after_every_method_of_every_protocol_is_fitted(
    watched: tuple[RunRecord, Events],
) -> None:
    _, events = watched
    assert [split for what, split in events if what == "read"] == ["train", "val", "test"]
    assert events[-1] == ("read", "test")
    assert {name for what, name in events if what == "fit"} == set(GROUPS["all"]) - {"awt"}, "there are no views"


def test_every_method_learns_separable_classes_and_baselines_see_the_same_shots(
    watched: tuple[RunRecord, Events],
) -> None:
    record, _ = watched
    accuracy = {fit.method: fit.metrics["accuracy"] for fit in record.fits if fit.protocol == "few-shot"}
    for method in ("aape", "cupl", "logistic", "nearest-centroid", "cupl@people"):
        assert (accuracy[method] or 0) > 0.6, (method, accuracy)
    scores = {fit.method: fit.metrics for fit in record.fits if fit.protocol == "base-to-new"}
    assert set(scores["aape"]) == {"base", "new", "h", "generalized"}
    assert set(scores["logistic"]) == {"base"}, "logistic regression cannot serve classes it never saw"


def test_the_same_seed_gives_the_same_bytes_in_one_process_or_two(cache: Path, tmp_path: Path) -> None:
    settings = fast(protocols=["few-shot", "base-to-new"], methods=["aape", "logistic", "cupl"], seeds=[1, 2, 3])
    for jobs, name in enumerate("ab", 1):
        run(settings, inputs(cache), results=tmp_path / name, jobs=jobs)
    for file in (path for path in (tmp_path / "a").rglob("*") if path.is_file()):
        if file.name == "timing.json" or file == tmp_path / "a" / "runs" / "w" / SUMS:  # which names timing.json
            continue
        other = tmp_path / "b" / file.relative_to(tmp_path / "a")
        assert file.read_bytes() == other.read_bytes(), file
    assert (tmp_path / "a" / "runs" / "w" / "checkpoints" / "aape" / "predictions.csv").exists()


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
    with pytest.raises(
        UserError,
        match=r"9 shots asked, but 4 of 4 classes have fewer .*lower --shots to 8.*--up-to",
    ):
        few_shot(loaded, 9, seed=1)
    with pytest.raises(UserError, match=r"no embedded prompts of 'peple' .*did you mean 'people'"):
        load_features(cache, "w", "lite", sources=["peple"])
    with pytest.raises(UserError, match="no images store of encoder 'open_clip:ViT-B-16/openai', only of lite"):
        load_features(cache, "w", "open_clip:ViT-B-16/openai")
    with pytest.raises(UserError, match="run `pipeline ingest nowhere"):
        load_features(cache, "nowhere", "lite")
    with pytest.raises(UserError, match=r"no method|unknown method"):
        run(fast(methods=["aapes"]), Inputs(loaded))
    with pytest.raises(UserError, match="did you mean 'few-shot'"):
        run(fast(protocols=["fewshot"]), Inputs(loaded))


def test_features_without_any_prompts_still_run_what_needs_none(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=())
    loaded = load_features(tmp_path, "w", "lite")
    record = run(fast(methods=["zero-shot", "logistic"]), Inputs(loaded))
    assert [(fit.method, fit.source) for fit in record.fits] == [("zero-shot", "none"), ("logistic", "none")]
    asked = r"w: no embedded prompts, and cupl, aape read them: run `pipeline generate-prompts .* --methods logistic$"
    with pytest.raises(UserError, match=asked):
        run(fast(methods=["cupl", "logistic", "aape"]), Inputs(loaded))


def test_the_command_prints_tables_and_leaves_metrics_plots_pictures_and_a_checkpoint(
    typed: Command, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("datasets: [w]\nprompts: {llm: people}\ntrain: {epochs: 8}\n")
    methods = "zero-shot,cupl,aape,nearest-centroid"
    done = typed("trainer", "run", "--features", "cache/", "--shots", 4, "--methods", methods, cwd=tmp_path)
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
    assert (tmp_path / "results" / "runs" / "w" / "checkpoints" / "aape" / "checkpoint.safetensors").exists()
    again = typed("trainer", "run", "--methods", "aape", "--seeds", "1", "--shots", 2, "--json", cwd=tmp_path)
    assert list(json.loads(again.stdout)["w"]["few-shot"]) == ["aape", "aape@llm"]
    quiet = typed("trainer", "report", "--quiet", cwd=tmp_path)
    assert (quiet.stdout, "wrote results/report.html" in quiet.stderr) == ("", True)


def test_wrong_use_is_one_line_and_nothing_is_written(typed: Command, cache: Path, tmp_path: Path) -> None:
    cases = {
        ("run", "--methods", "aapes"): ("did you mean 'aape'", 2),
        ("run", "--seeds", "one"): ("--seeds: input should be a valid integer, found 'one'", 2),
        ("run", "--seeds", "1,1"): ("1 stands twice", 2),
        ("run", "--set", "train.lamda=1"): ("did you mean 'lambda'", 2),
        ("run", "--shots", "50"): ("lower --shots", 1),
        ("run", "--encoder", "open_clip:x/y"): ("no images store of encoder", 1),
        ("report",): ("run `trainer run` first", 1),
        ("predict", "x.png"): ("run `trainer run` first", 1),
    }
    (tmp_path / "params.yaml").write_text("datasets: [w]\n")
    for args, (part, code) in cases.items():
        done = typed("trainer", *args, cwd=tmp_path, code=code)
        assert part in done.stderr, args
        assert len(done.stderr.strip().splitlines()) == 1
    assert not any(path.is_file() for path in (tmp_path / "results").rglob("*"))


def test_features_hold_no_test_image(cache: Path) -> None:
    loaded = load_features(cache, "w", "lite")
    assert isinstance(loaded, Features)
    ids = {*loaded.train.image_ids, *loaded.val.image_ids}
    assert not any(i.startswith("test/") for i in ids)
    assert all(i.startswith("test/") for i in loaded.test().image_ids)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fast(methods=["aape", "logistic", "cupl"], seeds=[1, 2])
    from trainer.runs import fits as module

    whole, fitted = module.timed_fit, []

    def dying(*asked: object) -> object:
        if len(fitted) == 4:
            raise KeyboardInterrupt
        fitted.append(asked)
        return whole(*asked)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "timed_fit", dying)
        with pytest.raises(KeyboardInterrupt):
            run(settings, inputs(cache), results=tmp_path / "kept", jobs=1)
    again: list[object] = []

    def disturbed(*fit: object) -> object:
        shutil.rmtree(tmp_path / "kept" / ".fits" / "w", ignore_errors=True)  # as another run's end once did
        again.append(fit)
        return whole(*fit)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "timed_fit", disturbed)
        run(settings, inputs(cache), results=tmp_path / "kept", jobs=1)
    run(settings, inputs(cache), results=tmp_path / "undisturbed", jobs=1)
    assert len(fitted) == 4
    assert len(again) == 2 * 5 - 4, (
        "aape and cupl with two sources each, logistic with none: what was done is not done again"
    )
    assert not (tmp_path / "kept" / ".fits" / "w").exists()
    for file in (
        "run.json",
        "curves.csv",
        "outcomes.csv",
        "checkpoints/aape/predictions.csv",
        "checkpoints/aape/checkpoint.safetensors",
    ):
        whole_, kept = (tmp_path / name / "runs" / "w" / file for name in ("undisturbed", "kept"))
        assert kept.read_bytes() == whole_.read_bytes(), file


def test_a_second_run_into_a_folder_that_one_is_writing_is_told_so(cache: Path, tmp_path: Path) -> None:
    kept = tmp_path / ".fits" / "w"
    with store_lock(tmp_path / "runs" / "w", what="trainer run", beside=kept), ThreadPoolExecutor(1) as second:
        asked = second.submit(run, fast(methods=["zero-shot"]), inputs(cache), results=tmp_path)
        with pytest.raises(UserError, match=r"runs/w: another .* is writing it"):
            asked.result()


def test_two_classes_leave_base_to_new_out_and_say_so(tmp_path: Path) -> None:
    make_stores(tmp_path, names={0: "good", 1: "bad"})
    record = run(fast(protocols=["few-shot", "base-to-new"], methods=["zero-shot"]), inputs(tmp_path))
    assert list(record.protocols) == ["few-shot"]
    assert "w: base-to-new is left out: 2 classes leave one in the base half" in "\n".join(record.notes)
    with pytest.raises(UserError, match="base-to-new cannot be run: 2 classes"):
        run(fast(protocols=["base-to-new"], methods=["zero-shot"]), inputs(tmp_path))


def test_notes_on_sentences_stand_where_a_method_reads_them_alone(tmp_path: Path) -> None:
    make_stores(tmp_path, sources=("llm",))
    store = TextStore(tmp_path, "w", "lite", "llm")
    about = store.provenance().model_copy(update={"llm_note": "llm is often wrong"})
    rows = store.read()
    store.write(rows.filter(pc.not_equal(rows["class_id"], 2)), about)
    names = load_features(tmp_path, "w", "lite").class_names
    lacking = f"llm has no sentence for 1 class ({names[2]}): the template stands in"
    for methods, said in ((["cupl"], True), (["logistic", "zero-shot"], False)):
        record = run(fast(methods=methods), inputs(tmp_path))
        assert "not CLIP" in record.notes
        assert (lacking in record.notes, "llm is often wrong" in record.notes) == (said, said)
        assert record.origin.source_notes == {"llm": ("llm is often wrong", lacking)}


def test_a_run_without_test_images_has_null_for_every_metric_and_says_so(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", per_split={"train": 8, "val": 3})
    settings = fast(protocols=["few-shot", "base-to-new"], methods=["zero-shot"])
    record = run(settings, inputs(tmp_path / "cache"), results=tmp_path)
    assert not record.judged
    assert "w has no test image of 4 of its 4 classes" in record.notes
    assert "base-to-new: not measured without test images: base, new, h, generalized" in record.notes
    assert all(value is None for fit in record.fits for value in fit.metrics.values())
    assert "NaN" not in (tmp_path / "runs" / "w" / "run.json").read_text()
    assert load_record(tmp_path / "runs" / "w").fits == record.fits
