"""Methods over many settings: ranks, ties by paired intervals, and what is said of one method."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from scipy.stats import studentized_range
from small_stores import fast, make_stores

from stages import UserError
from stages.params import Params
from trainer.analysis.ranked import markdown_of, pictures, text_of, write_tables
from trainer.analysis.ranking import Setting, gaps, ranking, settings_of
from trainer.data.features import load_features
from trainer.metrics import harmonic_mean
from trainer.runs.inputs import Inputs
from trainer.runs.record import OUTCOMES, FitRecord, Outcome, ProtocolRecord, RunRecord, save_record, write_lines
from trainer.runs.run import run

SEEDS = (1, 2, 3)


def setting(name: str, metric: str = "accuracy", **means: float) -> Setting:
    return Setting(
        name, "lite", "few-shot", "few-shot, 4 shots", metric, {m.replace("_", "-"): {1: v} for m, v in means.items()}
    )


def test_ranks_are_means_over_settings_and_equal_methods_share_theirs() -> None:
    found = ranking(
        [setting("a", aape_plus=0.9, gda=0.8, cupl=0.8), setting("b", aape_plus=0.5, gda=0.6, cupl=0.7)],
        subject="aape-plus",
    )
    assert {each.method: each.mean_rank for each in found.standings} == {"cupl": 1.75, "aape-plus": 2.0, "gda": 2.25}
    plus = next(each for each in found.standings if each.method == "aape-plus")
    assert (plus.close, plus.where) == (1, "b, few-shot, 4 shots")
    assert plus.worst == pytest.approx(-0.2)
    assert "worst loss 20.0 points, to cupl (b, few-shot, 4 shots)" in found.statements[0]


def test_nemenyis_difference_is_demsars_and_few_settings_make_no_test() -> None:
    many = [setting(str(i), gda=0.5 + i / 100, cupl=0.4, taskres=0.3) for i in range(10)]
    (test,) = ranking(many, subject="gda").tests
    assert test.critical == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 10)), abs=1e-3)  # q of Demsar's table 5
    assert float(studentized_range.ppf(0.95, 3, np.inf)) / math.sqrt(2) == pytest.approx(2.343, abs=1e-3)
    assert test.p is not None
    assert test.p < 1e-4
    (alone,) = ranking(many[:1], subject="gda").tests
    assert (alone.p, alone.critical) == (None, None)


def test_a_method_that_is_not_everywhere_is_left_out_of_the_test_with_a_line() -> None:
    found = ranking([setting("a", gda=0.9, cupl=0.8, taskres=0.7), setting("b", gda=0.5, cupl=0.6)], subject="gda")
    assert found.notes == ["accuracy: not in every setting, and so not in the test of ranks: taskres"]
    assert found.tests[0].methods == 2
    assert {each.method: each.settings for each in found.standings} == {"gda": 2, "cupl": 2, "taskres": 1}


def test_settings_without_a_common_method_have_tables_and_no_picture(tmp_path: Path) -> None:
    settings = [setting("a", gda=0.9, cupl=0.8), setting("b", taskres=0.5, logistic=0.6)]
    found = ranking(settings, subject="gda")
    assert found.tests[0].methods == 0
    assert "`taskres`" in markdown_of(found, settings)
    assert pictures(found, [], tmp_path, subject="gda", curves=["gda"]) == []


def test_without_test_images_and_with_one_seed_nothing_is_called_separable_or_not() -> None:
    found = ranking([setting("a", aape_plus=0.5, gda=0.9)], subject="aape-plus")
    assert "in 0 of 0 settings" in found.statements[0]
    assert {line.method: line.tied for line in found.lines} == {"gda": True, "aape-plus": None}


def judged(rates: dict[str, float], images: int, *, seed: int = 0) -> dict[str, dict[int, np.ndarray]]:
    """Whether images were right: the same luck for all methods, so that their differences are certain."""
    rng = np.random.default_rng(seed)
    luck = {seed: rng.random(images) for seed in SEEDS}
    return {name: {seed: luck[seed] < rate for seed in SEEDS} for name, rate in rates.items()}


def test_a_small_difference_on_few_images_is_not_separable_and_a_large_one_is() -> None:
    right = judged({"aape-plus": 0.80, "gda": 0.82, "cupl": 0.3}, 300)
    values = {name: {seed: float(hits.mean()) for seed, hits in by.items()} for name, by in right.items()}
    whole = Setting("a", "lite", "few-shot", "few-shot, 4 shots", "accuracy", values, right)
    found = ranking([whole], subject="aape-plus")
    tied = {line.method: line.tied for line in found.lines}
    assert tied["gda"]
    assert not tied["cupl"]
    against = gaps(whole, "gda")
    assert against["gda"].difference == 0
    assert -0.05 < against["aape-plus"].difference < 0


def test_the_interval_of_h_is_that_of_images_drawn_again_from_both_halves() -> None:
    right = judged({"aape-plus": 0.8, "gda": 0.7}, 400)
    base = np.arange(400) < 150
    values = {
        name: {s: harmonic_mean(float(hits[base].mean()), float(hits[~base].mean())) for s, hits in by.items()}
        for name, by in right.items()
    }
    whole = Setting("a", "lite", "base-to-new", "base-to-new, 4 shots", "h", values, right, base)
    gap = gaps(whole, "aape-plus")["gda"]
    rng, drawn = np.random.default_rng(5), []
    mean = {name: np.mean(list(by.values()), axis=0) for name, by in right.items()}
    for _ in range(2000):
        rows = np.concatenate([rng.choice(np.flatnonzero(half), half.sum()) for half in (base, ~base)])
        each = {n: harmonic_mean(m[rows[:150]].mean(), m[rows[150:]].mean()) for n, m in mean.items()}
        drawn.append(each["gda"] - each["aape-plus"])
    differences = [values["gda"][s] - values["aape-plus"][s] for s in SEEDS]
    of_seeds = 4.302653 * np.std(differences, ddof=1) / math.sqrt(3)
    assert gap.ci95 == pytest.approx(math.hypot(1.96 * np.std(drawn), of_seeds), rel=0.08)
    assert gap.tied is False


def written(folder: Path, dataset: str, rates: dict[str, float], *, key: str = "few-shot", shots: int = 4) -> Path:
    """A results folder with one run."""
    asked, right = Params(), judged(rates, 60)
    fits = [
        FitRecord(
            protocol=key, method=name, source="none", seed=seed, metrics={"accuracy": float(hits.mean())}, info={}
        )
        for name, by in right.items()
        for seed, hits in by.items()
    ]
    title = f"few-shot, {shots} shots"
    record = RunRecord(
        dataset=dataset, encoder="lite", notes=(), sources=(), classes=2,
        protocols={key: ProtocolRecord(name="few-shot", shots=shots, title=title, headline=("accuracy",))},
        evaluation=asked.evaluation, train=asked.train, fits=tuple(fits), test_images=60,
    )  # fmt: skip
    place = folder / "runs" / dataset
    place.mkdir(parents=True)
    save_record(record, place)
    lines = [
        Outcome(key, name, seed, str(i), i % 2, i % 2 if hit else 1 - i % 2)
        for name, by in right.items()
        for seed, hits in by.items()
        for i, hit in enumerate(hits.tolist())
    ]
    write_lines(place / OUTCOMES, Outcome, lines)
    return folder


def test_results_folders_are_read_with_their_test_images_and_none_twice(tmp_path: Path) -> None:
    rates = {"aape-plus": 0.9, "logistic": 0.6, "cupl@written": 0.5}
    one, two = written(tmp_path / "1", "birds", rates), written(tmp_path / "2", "pets", rates)
    settings = settings_of([one, two], metrics=["accuracy", "h"], methods=None)
    assert [each.name for each in settings] == ["birds, few-shot, 4 shots", "pets, few-shot, 4 shots"]
    assert set(settings[0].values) == {"aape-plus", "logistic"}
    assert settings[0].right["logistic"][2].shape == (60,)
    named = settings_of([one], metrics=["accuracy"], methods=["cupl@written", "logistic"])
    assert set(named[0].values) == {"cupl@written", "logistic"}
    with pytest.raises(UserError, match=r"stands in .*1 and in .*1: name one"):
        settings_of([one, one], metrics=["accuracy"], methods=None)
    with pytest.raises(UserError, match="no run of `trainer run` lies there"):
        settings_of([tmp_path / "nowhere"], metrics=["accuracy"], methods=None)
    with pytest.raises(UserError, match="nothing to rank"):
        settings_of([one], metrics=["h"], methods=None)


def test_base_to_new_keeps_what_each_test_image_was_taken_for_among_its_half(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache")
    loaded = load_features(tmp_path / "cache", "w", "lite", device="cpu")
    asked = fast(protocols=["base-to-new"], methods=["zero-shot", "gda", "logistic"], shots=2)
    record = run(asked, Inputs(loaded), results=tmp_path / "results")
    (whole,) = settings_of([tmp_path / "results"], metrics=["h"], methods=None)
    assert set(whole.right) == {"zero-shot", "gda"}, "logistic serves no new class"
    assert whole.base is not None
    for fit in record.fits:
        if fit.method in whole.right:
            hits = whole.right[fit.method][fit.seed]
            shares = [float(hits[half].mean()) for half in (whole.base, ~whole.base)]
            assert shares == pytest.approx([fit.metrics["base"], fit.metrics["new"]])


def test_tables_and_pictures_say_the_same_and_come_with_the_same_bytes(tmp_path: Path) -> None:
    folders = [
        written(
            tmp_path / str(shots), "birds", {"aape-plus": 0.9 - shots / 100, "logistic": 0.6, "gda": 0.7}, shots=shots
        )
        for shots in (1, 4)
    ]
    settings = settings_of(folders, metrics=["accuracy"], methods=None)
    found = ranking(settings, subject="aape-plus")
    assert "aape-plus is best or not separable from the best in 2 of 2 settings" in text_of(found)
    assert "| `gda` " in markdown_of(found, settings)
    from trainer.runs.record import finished_runs

    records = [record for folder in folders for record in finished_runs(folder).values()]
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        write_tables(found, settings, out)
        drawn = pictures(found, records, out, subject="aape-plus", curves=["aape-plus", "logistic"])
        assert [path.name for path in drawn] == ["ranks-accuracy.png", "shots-lite.png"]
        files.append({path.name: path.read_bytes() for path in sorted(out.iterdir())})
    assert files[0] == files[1]
    assert set(files[0]) == {"ranks.md", "ranks.csv", "settings.csv", "ranks-accuracy.png", "shots-lite.png"}


def test_the_command_prints_the_statement_and_json(tmp_path: Path, typed: Command) -> None:
    written(tmp_path / "results", "birds", {"aape-plus": 0.9, "logistic": 0.6, "zero-shot": 0.5})
    said = typed("trainer", "ranks", "results", "--json", cwd=tmp_path).stdout
    found = json.loads(said)
    assert found["statements"][1].startswith("aape-plus against logistic: never behind; separably ahead in 1")
    assert [each["method"] for each in found["standings"]] == ["aape-plus", "logistic", "zero-shot"]
    assert "nowhere: no run" in typed("trainer", "ranks", "nowhere", cwd=tmp_path, code=2).stderr
