"""Which of the project's modules a command reaches by its imports, those inside functions included."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("stages", "pipeline", "trainer")


def file_of(module: str) -> Path | None:
    """The file of a module of ours; None for other people's, and for names that are no module."""
    path = ROOT.joinpath(*module.split("."))
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if module.split(".")[0] in PACKAGES and file.exists()), None)


def imported(*nodes: ast.AST) -> set[str]:
    """Our modules that these nodes import, each with the packages around it."""
    found = set()
    for node in (each for top in nodes for each in ast.walk(top)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in found if file_of(name)}
    around = {".".join(name.split(".")[:i]) for name in ours for i in range(1, name.count(".") + 2)}
    return {name for name in around if not name.endswith(".cli")}  # which only gathers the commands


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def reached(start: set[str]) -> set[Path]:
    """Files of all modules that can be reached from these by imports."""
    seen: set[str] = set()
    waiting = set(start)
    while waiting:
        module = waiting.pop()
        seen.add(module)
        file = file_of(module)
        assert file is not None
        waiting |= imported(tree_of(file)) - seen
    files = {file for module in seen if (file := file_of(module))}
    return {file.relative_to(ROOT) for file in files if len(tree_of(file).body) > 1}  # else a docstring


def command_files(package: str, command: str) -> set[Path]:
    """Files that `package command` runs: its function, what stands above it, and all that these import."""
    for file in sorted((ROOT / package / "cli").glob("*.py")):
        tree = tree_of(file)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.decorator_list and node.name == command.replace("-", "_"):
                top = [each for each in tree.body if not isinstance(each, ast.FunctionDef)]
                return {file.relative_to(ROOT), *reached(imported(node, *top))}
    raise AssertionError(f"no command {package} {command}")
