"""What both command lines share: --set on every command, under the rules of the settings file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from stages import UserError
from stages.command import App, ParamsOption, numbers, settings, table, words
from stages.datasets import chosen
from stages.params import Params

ROOT = Path(__file__).parents[2]


def line(*words: str, flags: dict[str, object] | None = None) -> object:
    """What a command gets as its settings when these words stand on the line."""
    app = App(help="test")
    found: list[object] = []

    @app.command()
    def show(params: ParamsOption = None) -> None:
        found.append(settings(params, flags))

    @app.command()
    def other() -> None:
        found.append("nothing asked of the settings")

    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return found[0]


@pytest.mark.parametrize("name", ["pipeline", "trainer"])
def test_every_command_takes_set_and_params(name: str) -> None:
    import importlib

    commands = get_command(importlib.import_module(f"{name}.cli").app).commands  # type: ignore[attr-defined]
    assert len(commands) > 8
    for command in commands.values():
        options = [option for parameter in command.params for option in parameter.opts]
        assert options.count("--set") == 1, command.name
        assert options.count("--params") == 1, command.name


def test_set_changes_the_file_and_values_are_yaml(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("datasets: [a]\ntrain: {lambda: 1.0}\ndata: {my.set: {samples: 2}}\n")
    found = line(
        "show", "--params", str(file), "--set", "train.lambda=3", "--set", "evaluation.seeds=[4, 5]", "--set",
        "train.lr=1e-3", "--set", 'data."my.set".samples=7', "--set", "encoder=open_clip:ViT-B-16/openai",
    )  # fmt: skip
    assert found.train.lambda_ == 3  # type: ignore[attr-defined]
    assert found.train.lr == 0.001  # type: ignore[attr-defined]
    assert found.evaluation.seeds == [4, 5]  # type: ignore[attr-defined]
    assert found.of("my.set").samples == 7  # type: ignore[attr-defined]
    assert found.encoder == "open_clip:ViT-B-16/openai"  # type: ignore[attr-defined]
    assert found.datasets == ["a"]  # type: ignore[attr-defined]


def test_faults_of_file_and_line_come_together_each_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("encodr: x\n")
    changes = ["train.lamda=3", "evaluation.shots=many", "encoder.name=x"]
    with pytest.raises(UserError) as caught:
        line("show", "--params", str(file), *(word for change in changes for word in ("--set", change)))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert f"{file}: encodr: unknown key" in message
    assert "command line: encoder: input should be a valid string, found {'name': 'x'}" in message
    assert "train.lamda: unknown key" in message
    assert "did you mean 'lambda'" in message
    assert "evaluation.shots" in message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show", "--set", "train.lambda"], "expected SECTION.KEY=VALUE"),
        (["show", "--set", "train.lambda=1", "--set", "train.lambda=2"], "train.lambda is set twice"),
        (["show", "--set", "train..lambda=1"], "expected SECTION.KEY"),
        (["show", "--set", "train.lambda=[1"], "--set train.lambda, line 1"),
        (["show", "--set", "trian.lambda=1"], "trian: unknown key .*did you mean 'train'"),
        (["show", "--set", "encoder=lite"], "encoder is given twice: by --set and by a flag"),
        (["other", "--set", "nothing.at.all=1"], "nothing: unknown key"),
        (["other", "--params", "nowhere.yaml"], "nowhere.yaml: not found"),
    ],
)
def test_a_wrong_set_is_one_line_on_every_command(words: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part) as caught:
        line(*words, flags={"encoder": "lite"})
    assert caught.value.exit_code == 2


def test_lists_on_a_line_keep_what_is_no_number_for_the_settings_to_refuse() -> None:
    assert words(" a, b,,") == ["a", "b"]
    assert words(None) is None
    assert numbers("1,2") == [1, 2]
    assert numbers("-1,x,1" + "0" * 40) == [-1, "x", "1" + "0" * 40]
    with pytest.raises(UserError, match=r"^--seeds: input should be a valid integer, found 'x'$"):
        settings(None, {"evaluation.seeds": numbers("1,x")})


def test_where_no_settings_name_a_data_set_the_only_one_in_the_cache_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ingested(name: str) -> None:
        (tmp_path / "manifest" / f"dataset={name}").mkdir(parents=True)
        (tmp_path / "manifest" / f"dataset={name}" / "part-0.parquet").touch()

    named, open_ = Params(datasets=["other"]), Params()
    assert chosen(None, open_, cache=tmp_path) == open_.datasets
    ingested("birds")
    assert chosen(None, open_, cache=tmp_path) == chosen(None, open_, cache=tmp_path, variants=True) == ["birds"]
    assert f"data set: birds, the only one in {tmp_path}\n" in capsys.readouterr().err
    assert chosen(None, named, cache=tmp_path) == ["other"]
    ingested("weaves")
    assert chosen("else", open_, cache=tmp_path) == ["else"]
    with pytest.raises(UserError, match=r"several data sets; choose with --dataset: birds, weaves$"):
        chosen(None, open_, cache=tmp_path)


def test_a_command_of_an_app_is_still_the_function_it_was() -> None:
    app = App(help="test")

    @app.command()
    def double(number: int, params: ParamsOption = None) -> int:
        return 2 * number

    assert double(4) == 8
    assert isinstance(app, typer.Typer)


def test_a_table_shows_every_cell_as_it_is_and_numbers_to_the_right() -> None:
    found = table(["class", "share", "gap"], [["1e5", 0.5, "+1.0"], ["007", None, "-12.5"], ["nan", "-", "+0.0"]])
    lines = found.splitlines()
    assert [line.split() for line in lines[2:]] == [["1e5", "0.5", "+1.0"], ["007", "-12.5"], ["nan", "-", "+0.0"]]
    assert {len(line) for line in lines[2:]} == {len(lines[1])}, "numbers end together"
    assert table(["a", "b"], []) == "a    b\n---  ---"


def test_a_reader_that_leaves_does_not_stop_the_work(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom stages.command import put\n"
        "for i in range(100000): put(f'line {i}')\n"
        "open(sys.argv[1], 'w').write('all of it')\n"
    )
    line = f'{sys.executable} -c "$CODE" {tmp_path / "end"} | head -2'
    env = {**os.environ, "CODE": code}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env=env, check=True)
    assert done.stdout == "line 0\nline 1\n"
    assert done.stderr == ""
    assert (tmp_path / "end").read_text() == "all of it"


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("evaluation.seeds", "", "--seeds: at least one is needed, found []"),
        ("evaluation.seeds", "1,-1", "--seeds: input should be greater than or equal to 0, found -1"),
        ("evaluation.shots", "", "--shots: at least one is needed, found []"),
        ("evaluation.shots", "-1,x", "--shots: input should be greater than or equal to 0 or 'all', found -1; input "
         "should be a valid integer or 'all', found 'x'"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_flag_is_named_by_the_flag(setting: str, value: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        settings(None, {setting: numbers(value)})
    assert str(caught.value) == line
