"""What messages offer: every command exists, with every option that it is offered with, and has the line's folders."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from stages import UserError
from stages.command import App, CacheOption, EncoderOption, say
from stages.offers import ASKS, as_typed

ROOT = Path(__file__).parents[2]
OFFER = re.compile(r"`(pipeline|trainer) ([a-z][a-z-]*)([^`]*)`")


def commands(program: str) -> dict[str, Any]:
    found = get_command(importlib.import_module(f"{program}.cli").app)
    return dict(found.commands)  # type: ignore[attr-defined]


def options(command: Any) -> set[str]:
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


def texts() -> list[tuple[str, str]]:
    """Every string of the code with its place; what an f-string fills in is X."""
    found = []
    for file in (file for room in ("stages", "pipeline", "trainer", "aape") for file in (ROOT / room).rglob("*.py")):
        tree = ast.parse(file.read_text())
        parts_of = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        parts_of -= {id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)}
        for node in ast.walk(tree):
            where = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else "X" for each in node.values]
                found.append((where, "".join(map(str, parts))))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts_of:
                found.append((where, node.value))
    return found


def test_every_command_that_a_message_offers_is_there_with_its_options() -> None:
    there = {program: commands(program) for program in ("pipeline", "trainer")}
    seen = 0
    for where, text in texts():
        if re.search(r"`(pipeline|trainer) [a-z]", text):
            assert text.count("`") % 2 == 0, f"{where}: a command that does not end"
        for program, name, rest in OFFER.findall(text):
            assert name in there[program], f"{where}: {program} {name}"
            known = options(there[program][name])
            asked = re.findall(r"(?<![\w-])--[a-z-]+", rest)
            assert set(asked) <= known, f"{where}: {program} {name} {set(asked) - known}"
            seen += 1
    assert seen > 60


def test_the_options_that_offers_are_completed_with_are_those_that_the_commands_take() -> None:
    for flag, takers in ASKS.values():
        for program in ("pipeline", "trainer"):
            wanted = "--features" if (program, flag) == ("trainer", "--cache") else flag
            taking = {name for name, command in commands(program).items() if wanted in options(command)}
            assert taking - {"bench", "init"} == {name for name in takers if name in commands(program)}, (program, flag)


def test_an_offer_has_the_folders_settings_and_encoder_of_the_line_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App(help="test")
    file = tmp_path / "my settings.yaml"
    file.write_text("datasets: [a]\n")

    @app.command()
    def look(cache: CacheOption = Path("cache"), encoder: EncoderOption = None) -> None:
        say("`pipeline verify`; `pipeline verify --dataset a`; `trainer run --dataset a --encoder b`; `trainer run`")
        raise UserError("run `pipeline embed-images --dataset a`, or `trainer predict x --dataset a`")

    @app.command()
    def other() -> None:
        """Two commands: one alone would be called without its name."""

    run = typer.main.get_command(app)
    with pytest.raises(UserError) as caught:
        run(["look", "--cache", "my stores", "--encoder", "lite", "--params", str(file)], standalone_mode=False)
    assert capsys.readouterr().err == (
        f"`pipeline verify`; `pipeline verify --dataset a --cache 'my stores' --params '{file}'`; "
        f"`trainer run --dataset a --encoder b --features 'my stores' --params '{file}'`; `trainer run`\n"
    )
    assert str(caught.value) == (
        f"run `pipeline embed-images --dataset a --cache 'my stores' --encoder lite --params '{file}'`, "
        f"or `trainer predict x --dataset a --params '{file}'`"
    )
    with pytest.raises(UserError) as plain:
        run(["look", "--cache", "cache"], standalone_mode=False)
    assert str(plain.value) == "run `pipeline embed-images --dataset a`, or `trainer predict x --dataset a`"
    assert as_typed("`trainer run --dataset a`") == "`trainer run --dataset a`", "what a line says ends with it"
