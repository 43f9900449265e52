"""The house: imports run one way, and heavy ones wait until they are needed."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "stages": {"stages"},
    "pipeline": {"stages", "pipeline"},
    "trainer": {"stages", "trainer"},
    "aape": {"stages", "pipeline", "trainer", "aape"},
}
"""Nothing may import `aape`, the front door."""


def imports(file: Path, modules: Collection[str] = ()) -> list[tuple[str, bool]]:
    """(module, at module level) of every import in a file; `from package import module` names one of `modules`."""
    tree = ast.parse(file.read_text())
    top = set()
    for node in tree.body:
        blocks = [node, *getattr(node, "body", [])] if isinstance(node, ast.If) else [node]
        top |= {id(block) for block in blocks}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in modules else node.module, id(node) in top) for name in named]
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_imports_run_down_the_house(package: str) -> None:
    for file in sorted((ROOT / package).rglob("*.py")):
        for module, at_top in imports(file):
            root = module.split(".")[0]
            if root not in MAY_IMPORT or root in MAY_IMPORT[package]:
                continue
            if package == "trainer" and file.name == "new_classes.py" and not at_top:
                assert module.startswith("pipeline.prompts."), f"{file.relative_to(ROOT)} imports {module}"
                continue
            lazily_encoding = package == "trainer" and file.name in ("predict.py", "explain.py") and not at_top
            allowed = lazily_encoding and module in ("pipeline.encoders", "pipeline.embed.pictures", "pipeline.images")
            speaking = file.relative_to(ROOT) == Path("trainer/language/model.py") and not at_top
            allowed |= speaking and module in ("pipeline.prompts.llms", "pipeline.torchvision_mend")
            pictures = (Path("trainer/report/page/thumbnails.py"), Path("trainer/serve/pictures.py"))
            showing = file.relative_to(ROOT) in pictures and not at_top
            allowed |= showing and module in ("pipeline.blobs", "pipeline.images")
            assert allowed, f"{file.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("command", ["pipeline", "trainer"])
def test_help_loads_nothing_heavy(command: str) -> None:
    heavy = ["torch", "pyarrow", "vllm", "duckdb", "numpy", "ray"]
    code = f"import sys; import {command}.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_there_is_no_circle_of_imports_those_inside_functions_included() -> None:
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for package in MAY_IMPORT
        for f in (ROOT / package).rglob("*.py")
    }
    graph = {
        name: {m for m, _ in imports(file, modules) if m in modules and m != name} for name, file in modules.items()
    }
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
