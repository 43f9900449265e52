"""The record of a run: the same after saving, refused in one line when it is damaged, summarised without NaN."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from small_stores import fast, make_stores

from stages import UserError
from stages.sums import SUMS
from trainer.data.features import load_features
from trainer.report import report
from trainer.runs.inputs import Inputs
from trainer.runs.record import (
    Curve,
    Outcome,
    Prediction,
    RunRecord,
    finished_runs,
    load_record,
    read_lines,
    save_record,
    summarize,
    write_lines,
)
from trainer.runs.run import run
from trainer.studies.compare import compare


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """The results of a small run."""
    folder = tmp_path_factory.mktemp("made")
    make_stores(folder / "cache", sources=("llm",))
    inputs = Inputs(load_features(folder / "cache", "w", "lite"))
    settings = fast(methods=["aape", "zero-shot"], seeds=[1, 2], protocols=["few-shot", "base-to-new"])
    return folder / "results", run(settings, inputs, results=folder / "results", jobs=1)


@pytest.fixture
def results(made: tuple[Path, RunRecord], tmp_path: Path) -> Path:
    """As of a version that wrote no sums, so that what stands in the files is read."""
    shutil.copytree(made[0], tmp_path / "results", ignore=shutil.ignore_patterns(SUMS))
    return tmp_path / "results"


def test_a_record_comes_back_as_it_was(made: tuple[Path, RunRecord], tmp_path: Path) -> None:
    folder, record = made
    assert load_record(folder / "runs" / "w") == record
    save_record(record, tmp_path)
    for name in ("run.json", "timing.json"):
        assert (tmp_path / name).read_bytes() == (folder / "runs" / "w" / name).read_bytes()
    assert record.seeds == (1, 2)
    assert {fit.source for fit in record.fits} == {"llm", "none"}
    assert record.evaluation.shots == 4
    assert set(record.timing["few-shot"]) == {"aape", "zero-shot"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{}", "dataset: Field required"),
        ("[]", "should be an object"),
        ("{", "Invalid JSON"),
        ('{"dataset": "../../../escaped"}', "use letters, digits"),
        ('{"format": 1}', "format: Input should be 3"),
    ],
)
def test_a_damaged_record_is_one_line_with_file_and_mend(results: Path, text: str, part: str) -> None:
    file = results / "runs" / "w" / "run.json"
    file.write_text(text)
    with pytest.raises(UserError, match=part) as caught:
        report(results)
    assert str(file) in str(caught.value)
    assert "run `trainer run` again" in str(caught.value)
    assert not list(results.rglob("*escaped*"))


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (["fits", 0, "metrics", "accuracy"], float("nan"), "fits.0.metrics.accuracy"),
        (["fits", 0, "seed"], "1", "fits.0.seed: Input should be a valid integer"),
        (["fits", 0, "protocol"], "few-shot-9", "few-shot-9', which is not among the protocols"),
        (["fits", 1, "seed"], 1, "aape with seed 1 stands twice|zero-shot with seed 1 stands twice|valid"),
        (["protocols", "few-shot"], None, "protocols.few-shot"),
        (["train", "hidden"], -1, "train.hidden"),
        (["strange"], 1, "strange: Extra inputs"),
    ],
)
def test_every_value_of_a_record_is_checked(results: Path, path: list[str | int], value: object, part: str) -> None:
    file = results / "runs" / "w" / "run.json"
    content = json.loads(file.read_text())
    here = content
    for key in path[:-1]:
        here = here[key]
    if path[:2] == ["fits", 1]:
        content["fits"][1] = {**content["fits"][0]}
    here[path[-1]] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=part):
        report(results)


@pytest.mark.parametrize("name", ["run.json", "timing.json", "checkpoints/aape/predictions.csv"])
def test_a_file_of_a_run_that_has_changed_or_is_gone_is_refused(
    made: tuple[Path, RunRecord], tmp_path: Path, name: str
) -> None:
    shutil.copytree(made[0], tmp_path / "results")
    file = tmp_path / "results" / "runs" / "w" / name
    subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=file.parent, check=True)
    whole = file.read_bytes()
    place = max(i for i, byte in enumerate(whole) if chr(byte).isdigit())
    file.write_bytes(whole[:place] + b"%d" % (9 - int(whole[place : place + 1])) + whole[place + 1 :])

    def reads() -> object:
        return read_lines(file, Prediction) if "aape" in name else load_record(file.parent)

    with pytest.raises(UserError, match=f"{file.name}: has changed since it was written .*run `trainer run` again"):
        reads()
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name}: is missing, and SHA256SUMS beside it names it"):
        reads()
    file.write_bytes(whole)
    (file.parent / SUMS).write_text("nothing\n")
    with pytest.raises(UserError, match="SHA256SUMS: damaged: run `trainer run` again"):
        reads()


def test_the_folder_of_a_run_is_that_of_its_data_set(results: Path) -> None:
    (results / "runs" / "w").rename(results / "runs" / "v")
    with pytest.raises(UserError, match=r"is of data set 'w', in the folder of 'v': move it to .*runs/w"):
        finished_runs(results)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("timing.json", "[1]", "timing.json: Input should be an object"),
        (
            "timing.json",
            '{"few-shot": {"aape": "fast"}}',
            r"timing.json: few-shot.aape: Input should be a valid number",
        ),
        ("curves.csv", "epoch,loss\n1,2\n", "curves.csv: expected the columns protocol, method, seed"),
        ("curves.csv", ",".join(Curve._fields) + "\nfew-shot,aape,1,x,1,1,1\n", "line 2: could not convert"),
        ("outcomes.csv", ",".join(Outcome._fields) + "\na,b\n", "line 2: 2 cells where the header has 6"),
        ("outcomes.csv", ",".join(Outcome._fields) + '\n"a,b,c\n', "line 2: unexpected end"),
        ("outcomes.csv", ",".join(Outcome._fields) + "\na,b,1,c,0,-1\n", "line 2: -1 is less than 0"),
    ],
)
def test_a_damaged_file_beside_the_record_is_one_line(results: Path, name: str, content: str, part: str) -> None:
    (results / "runs" / "w" / name).write_text(content)
    reads = compare if name == "outcomes.csv" else report
    arguments = {"second": results, "methods": None, "metrics": ["accuracy"]} if reads is compare else {}
    with pytest.raises(UserError, match=part):
        reads(results, **arguments)  # type: ignore[operator]


def test_rows_come_back_as_text_and_numbers_whatever_they_are_called(tmp_path: Path) -> None:
    outcomes = [Outcome("1e5", "007", 1, "a,b\n", 0, 1), Outcome('"', "nan", 2, " b ", 1, 1)]
    write_lines(tmp_path / "o.csv", Outcome, outcomes)
    assert read_lines(tmp_path / "o.csv", Outcome) == outcomes
    curves = [Curve("few-shot", "aape", 1, 2.0, None, 0.5, None)]
    write_lines(tmp_path / "c.csv", Curve, curves)
    assert read_lines(tmp_path / "c.csv", Curve) == curves
    assert read_lines(tmp_path / "nowhere.csv", Outcome) == []


def test_what_was_not_measured_counts_for_no_mean(made: tuple[Path, RunRecord]) -> None:
    _, record = made
    first, *others = record.fits
    without = first.model_copy(update={"metrics": {**first.metrics, "accuracy": None}})
    found = summarize(record.model_copy(update={"fits": (without, *others)}))[first.protocol][first.method]
    assert found["accuracy"].n == 1
    assert found["accuracy"].ci95 is None
    assert found["macro_accuracy"].n == 2
