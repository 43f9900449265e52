"""The letters of the shapes: the code uses those that `docs/architecture.md` explains, and no other."""

import ast
import re
from pathlib import Path

import jaxtyping

ROOT = Path(__file__).parents[2]
PACKAGES = ("stages", "pipeline", "trainer", "aape")


def letters_of(file: Path) -> set[str]:
    """Single letters among the sizes of a file's jaxtyping shapes."""
    shapes = [
        node.slice.elts[1].value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and hasattr(jaxtyping, node.value.id)
        and isinstance(node.slice, ast.Tuple)
        and isinstance(node.slice.elts[1], ast.Constant)
    ]
    sizes = {size.lstrip("*#_?") for shape in shapes for size in str(shape).split()}
    return {size for size in sizes if len(size) == 1 and size.isalpha()}


def test_the_table_of_letters_holds_exactly_those_of_the_shapes() -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition("## Letters")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| (\w) \|", table, re.MULTILINE)
    used = set().union(*(letters_of(file) for package in PACKAGES for file in (ROOT / package).rglob("*.py")))
    assert explained == sorted(used)
