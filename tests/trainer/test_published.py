"""`trainer paper-table`: ours beside the published numbers, where all of it was run, and said where it is none."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Command

from pipeline.registry import cards
from stages.params import EvaluationParams
from stages.training import TrainParams
from trainer.methods import METHODS
from trainer.published import Row, paper_table, published
from trainer.runs.record import FitRecord, ProtocolRecord, RunRecord, save_record

ELEVEN = published().eleven


def record(dataset: str, *, base: float = 0.8, new: float = 0.7, **other: object) -> RunRecord:
    """Base-to-new and few-shot with 16 shots of `aape`; the second seed is a hundredth better."""
    about = {
        "few-shot": ProtocolRecord(name="few-shot", shots=16, title="", headline=("accuracy",)),
        "base-to-new": ProtocolRecord(name="base-to-new", shots=16, title="", headline=("base", "new", "h")),
    }
    fits = []
    for seed in (1, 2):
        more = (seed - 1) / 100
        values = {"few-shot": {"accuracy": base + more}, "base-to-new": {"base": base + more, "new": new + more}}
        fits += [
            FitRecord(protocol=key, method="aape", source="llama3", seed=seed, metrics=metrics, info={})
            for key, metrics in values.items()
        ]
    found = RunRecord(
        dataset=dataset, encoder="open_clip:ViT-B-16/openai", notes=(), sources=("llama3",), classes=ELEVEN[dataset],
        protocols=about, evaluation=EvaluationParams(), train=TrainParams(), fits=tuple(fits), test_images=48,
    )  # fmt: skip
    return found.model_copy(update=other)


def every(**other: object) -> dict[str, RunRecord]:
    return {name: record(name, **other) for name in ELEVEN}


def row(records: Mapping[str, RunRecord], table: str, metric: str, *, name: str = "AAPE", shots: int = 16) -> Row:
    [found] = [
        each for each in paper_table(records)
        if (each.table, each.metric, each.name, each.shots) == (table, metric, name, shots)
    ]  # fmt: skip
    return found


def test_the_numbers_name_methods_and_data_sets_of_this_project() -> None:
    assert {name: cards()[name].classes for name in ELEVEN} == ELEVEN
    assert len(ELEVEN) == 11
    named = {each.method for table in published().tables for each in table.rows if each.method}
    assert {name.partition("@")[0].removesuffix("-tuned") for name in named} <= set(METHODS)


def test_without_a_run_every_row_is_not_run_and_keeps_its_published_number() -> None:
    rows = paper_table({})
    assert {(each.ours, each.difference) for each in rows} == {(None, None)}
    assert row({}, "base-to-new", "h").published == 80.97
    assert row({}, "few-shot", "accuracy", name="GDA", shots=4).published == 76.24


def test_h_is_of_the_mean_base_and_the_mean_new_accuracy_as_in_the_paper() -> None:
    records = every()
    records["dtd"] = record("dtd", base=0.25, new=0.95)
    found = row(records, "base-to-new", "h")
    base, new = (10 * 0.8 + 0.25) / 11 + 0.005, (10 * 0.7 + 0.95) / 11 + 0.005  # the mean of the two seeds
    assert found.ours == pytest.approx(200 * base * new / (base + new), abs=0.01)
    assert found.difference == pytest.approx(found.ours - 80.97, abs=1e-3)
    assert found.ci95 == pytest.approx(12.71 * 0.5, rel=0.05), "a point between two seeds"
    assert (found.seeds, found.said) == (2, "")


def test_a_mean_over_some_of_the_data_sets_is_no_result() -> None:
    records = every()
    del records["sun397"], records["dtd"]
    found = row(records, "base-to-new", "base")
    assert found.ours is None
    assert found.said == "not run on 2 of 11 data sets: sun397, dtd"
    assert row(every(), "few-shot", "accuracy", shots=8).ours is None, "16 shots are not 8"


def test_seeds_that_not_all_data_sets_have_do_not_count() -> None:
    records = every()
    some = tuple(fit for fit in records["ucf101"].fits if fit.seed == 2)
    records["ucf101"] = records["ucf101"].model_copy(update={"fits": some})
    found = row(records, "few-shot", "accuracy")
    assert (found.seeds, found.ours, found.ci95) == (1, 81.0, None)


def test_what_sets_a_row_apart_is_said_in_it() -> None:
    found = row(every(encoder="lite", sources=("smollm2",), classes=4), "few-shot", "accuracy")
    assert found.ours is not None
    assert found.said == (
        "encoder lite, not ViT-B/16; prompts of smollm2, not llama3; other classes: imagenet 4 of 1000 and 10 more"
    )


def test_the_command_prints_the_table_and_json(tmp_path: Path, typed: Command) -> None:
    for name in ELEVEN:
        folder = tmp_path / "results" / "runs" / name
        folder.mkdir(parents=True)
        save_record(record(name), folder)
    done = typed("trainer", "paper-table", cwd=tmp_path)
    [line] = [each for each in done.stdout.splitlines() if each.startswith("base-to-new") and " h  " in each
              and " AAPE " in each]  # fmt: skip
    assert line.split() == ["base-to-new", "16", "h", "AAPE", "80.97", "75.17", "±", "6.38", "-5.80", "±", "6.38", "2"]
    rows = json.loads(typed("trainer", "paper-table", "--json", cwd=tmp_path).stdout)
    assert len(rows) == len(paper_table({}))
    assert "not run" in typed("trainer", "paper-table", "--results", "none", cwd=tmp_path).stdout


def test_an_accuracy_that_is_no_fraction_and_results_that_are_a_file_are_refused(
    tmp_path: Path, typed: Command
) -> None:
    folder = tmp_path / "results" / "runs" / "dtd"
    save_record(record("dtd", base=0.5), folder)
    file = folder / "run.json"
    file.write_text(
        file.read_text().replace('"accuracy": 0.5', '"accuracy": 7.0', 1).replace('"accuracy":0.5', '"accuracy":7.0', 1)
    )
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    said = typed("trainer", "paper-table", "--results", tmp_path / "results", cwd=tmp_path, code=1).stderr
    assert "accuracy is 7, expected a fraction of 1" in said
    assert said.count("\n") == 1
    said = typed("trainer", "paper-table", "--results", file, cwd=tmp_path, code=2).stderr
    assert said.strip() == f"error: --results {file}: a file; name the folder of a run, such as results/paper"
    assert "note: none is not there" in typed("trainer", "paper-table", "--results", "none", cwd=tmp_path).stderr
