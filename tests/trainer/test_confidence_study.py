"""`trainer confidence`: what is promised is measured, by method and by what it rests on."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from small_stores import CLASSES, make_stores
from typer.testing import CliRunner

from stages import UserError
from trainer.cli import analysis


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    make_stores(Path("cache"), per_split={"train": 8, "val": 8, "test": 30})
    make_stores(Path("cache"), dataset="far", per_split={"train": 4, "test": 10}, noise=9.0)

    def run(*args: str) -> Any:
        return CliRunner().invoke(
            analysis.app,
            ["confidence", "--dataset", "w", "--methods", "zero-shot,gda", "--seeds", "1,2", "--shots", "4", *args],
            catch_exceptions=False,
        )

    return run


def test_every_kind_of_images_is_measured_and_the_tables_are_files(typed: Any) -> None:
    done = typed("--elsewhere", "far", "--error-rates", "0.1,0.25", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = found["probabilities"]
    kinds = ["left over", "of the choices", "held out of the shots"]
    assert [row["on"] for row in rows if row["method"] == "gda" and row["rate"] == 0.1] == kinds
    assert [row["images"] for row in rows[:6:2]] == [CLASSES * 8, CLASSES * 4, CLASSES]
    for row in rows:
        assert 0 <= row["lowest"] <= row["coverage"] <= 1 <= row["size"] <= CLASSES
        assert row["seeds"] == 2
    far, half = found["distance"]
    assert (far["elsewhere"], far["images"]) == ("far", CLASSES * 10)
    assert half["images"] == 2 * 30
    assert far["auroc"] > 0.9
    assert far["kept"] > 0.8
    for name, lines in (("probabilities", rows), ("distance", found["distance"])):
        with Path(f"results/confidence/{name}.csv").open(newline="") as handle:
            assert len(list(csv.DictReader(handle))) == len(lines)


def test_the_tables_are_for_people_and_a_wrong_rate_is_one_line(typed: Any) -> None:
    done = typed("--error-rates", "0.1")
    assert "coverage" in done.stdout
    assert "other half of its classes" in done.stdout
    for wrong in ("0", "1", "x", "10%"):
        with pytest.raises(UserError, match=f"--error-rates '{wrong}': expected shares") as caught:
            typed("--error-rates", wrong)
        assert caught.value.exit_code == 2


def test_every_command_of_the_page_is_one_that_the_command_line_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "confidence.md").read_text(encoding="utf-8")
    lines = re.findall(r"^trainer .*", page, re.MULTILINE)
    assert len(lines) >= 6
    group: Any = typer.main.get_command(analysis.app)
    for line in lines:
        name, *args = shlex.split(line, comments=True)[1:]
        group.commands[name].make_context(name, args)
