"""Sweeps go on where they stopped, refuse what does not exist, and comparisons are paired."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from small_stores import FAST, fast, make_stores

from stages import UserError
from stages.params import Params, changed
from trainer.data.features import load_features
from trainer.runs.inputs import Inputs
from trainer.runs.run import run
from trainer.studies.compare import compare, permutation_p
from trainer.studies.study import Study, read_study
from trainer.studies.sweep import sweep

ROOT = Path(__file__).parents[2]
GRID = {"train.lambda": [0.0, 5.0], "evaluation.shots": [1, 2]}
SET = {"evaluation.methods": ["aape"], "evaluation.seeds": [1], "evaluation.protocols": ["few-shot"]}


def test_a_sweep_runs_every_point_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stores(tmp_path / "cache", sources=("llm",))
    recipe = Study(title="lambda", set=SET, grid=GRID)  # type: ignore[arg-type]
    from trainer.studies import sweep as module

    whole, runs = module.run, []

    def counted(*args: object, **kwargs: object) -> object:
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run", counted)
    arguments = {"cache": tmp_path / "cache", "folder": tmp_path / "out", "datasets": ["w"]}
    with pytest.raises(KeyboardInterrupt):
        sweep(recipe, FAST, **arguments)  # type: ignore[arg-type]
    rows = sweep(recipe, FAST, **arguments)  # type: ignore[arg-type]
    assert len(runs) == 3 + 2, "two points were kept"
    assert [tuple(row.point.values()) for row in rows] == [(0.0, 1), (0.0, 2), (5.0, 1), (5.0, 2)]
    table = (tmp_path / "out" / "table.csv").read_bytes()
    assert (tmp_path / "out" / "w.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree(tmp_path / "out" / "points")
    sweep(recipe, FAST, **arguments)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "table.csv").read_bytes() == table, "the same as an undisturbed sweep"


def test_a_sweep_serves_protocols_that_test_on_other_data_sets(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", sources=("llm",))
    make_stores(tmp_path / "cache", dataset="other", names={0: "new one", 1: "new two"}, sources=("llm",))
    settings = {**SET, "evaluation.protocols": ["cross-dataset"], "evaluation.shots": 2}
    recipe = Study(title="targets", set=settings, grid={"train.lambda": [0.0]})  # type: ignore[arg-type]
    alone = changed(FAST, {"datasets": ["w"]}, where="test")
    with pytest.raises(UserError, match="it tests on other data sets: name some with --targets"):
        sweep(recipe, alone, cache=tmp_path / "cache", folder=tmp_path / "out", datasets=["w"])
    params = changed(FAST, {"datasets": ["w", "other"]}, where="test")
    rows = sweep(recipe, params, cache=tmp_path / "cache", folder=tmp_path / "out", datasets=["w"])
    assert set(rows[0].metrics) == {"source", "other", "average"}
    assert (tmp_path / "out" / "w.png").exists(), "what the protocol is known by is drawn"


def test_a_setting_that_does_not_exist_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"train.lamda: unknown key .*did you mean 'lambda'"):
        changed(Params(), {"train.lamda": 3}, where="point 1")
    with pytest.raises(UserError, match="encoder has no settings below it"):
        changed(Params(encoder="lite"), {"encoder.name": 3}, where="point 1")
    with pytest.raises(UserError, match="either grid or points"):
        read_study(_written("title: x\n"))


def _written(text: str) -> Path:
    import tempfile

    file = Path(tempfile.mkdtemp()) / "recipe.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_names_settings_that_exist(file: Path) -> None:
    recipe = read_study(file)
    for point in recipe.settings():
        changed(Params(), {**recipe.set, **point}, where=file.name)


def test_the_commands_sweep_and_compare(tmp_path: Path, typed: Command) -> None:
    make_stores(tmp_path / "cache", sources=("llm",), per_split={"train": 8, "val": 3, "test": 40}, noise=1.4)
    (tmp_path / "params.yaml").write_text(
        "datasets: [w]\nprompts: {llm: llm}\ntrain: {epochs: 8}\n"
        "evaluation: {shots: 2, seeds: [1, 2], methods: [zero-shot, nearest-centroid], protocols: [few-shot]}\n"
    )
    found = json.loads(typed("trainer", "sweep", "--over", "evaluation.shots=1,4", "--json", cwd=tmp_path).stdout)
    assert [(row["point"]["evaluation.shots"], row["method"]) for row in found] == [
        (1, "zero-shot"), (1, "nearest-centroid"), (4, "zero-shot"), (4, "nearest-centroid"),
    ]  # fmt: skip
    assert (tmp_path / "results" / "sweeps" / "evaluation.shots" / "w.png").exists()
    for shots, name in ((1, "a"), (8, "b")):
        typed("trainer", "run", "--shots", shots, "--results", name, "--no-report", cwd=tmp_path)
    rows = {r["first"]: r for r in json.loads(typed("trainer", "compare", "a", "b", "--json", cwd=tmp_path).stdout)}
    assert rows["zero-shot"]["difference"] == 0
    assert rows["zero-shot"]["p_images"] == 1
    assert rows["nearest-centroid"]["difference"] < 0
    assert rows["nearest-centroid"]["p_images"] < 0.2
    one = typed("trainer", "compare", "b", "--methods", "nearest-centroid,zero-shot", cwd=tmp_path).stdout
    assert "nearest-centroid" in one
    assert "no data set in common" in typed("trainer", "compare", "a", "nowhere", cwd=tmp_path, code=1).stderr
    missing = typed("trainer", "compare", "a", cwd=tmp_path, code=2).stderr
    assert "--methods FIRST,SECOND; a has: zero-shot, nearest-centroid" in missing
    assert "unknown key" in typed("trainer", "sweep", "--over", "train.nothing=1", cwd=tmp_path, code=2).stderr


def test_runs_are_compared_on_what_both_have_and_the_rest_is_said(tmp_path: Path) -> None:
    make_stores(tmp_path / "cache", sources=("llm",), per_split={"train": 8, "val": 3, "test": 40}, noise=1.4)
    inputs = Inputs(load_features(tmp_path / "cache", "w", "lite"))
    for name, seeds, methods in (("a", [1], ["nearest-centroid", "zero-shot"]), ("b", [1, 2, 3], ["nearest-centroid"])):
        run(fast(methods=methods, seeds=seeds, shots=2), inputs, results=tmp_path / name)
    found = compare(tmp_path / "a", tmp_path / "b", methods=None, metrics=["accuracy"])
    row = found.rows[0]
    assert (row.seeds, row.difference, row.p_images) == (1, 0, 1), "the one seed in common is the same run"
    assert "w: few-shot, nearest-centroid: paired on the seeds that both have (1); left out: 2, 3" in found.notes
    assert f"w: in {tmp_path / 'a'} alone, left out (1): few-shot zero-shot" in found.notes
    run(fast(methods=["nearest-centroid"], seeds=[7]), inputs, results=tmp_path / "c")
    with pytest.raises(UserError, match="no protocol, method, metric and seed in common"):
        compare(tmp_path / "a", tmp_path / "c", methods=None, metrics=["accuracy"])


def test_the_permutation_test_agrees_with_counting_every_flip() -> None:
    assert permutation_p(np.zeros(20)) == 1
    five = permutation_p(np.ones(5))
    assert abs(five - 2 / 2**5) < 0.01, "all flips the same way: 2 of 32"
    assert permutation_p(np.array([1.0, -1.0] * 10)) > 0.9
    assert permutation_p(np.ones(40)) < 0.001
