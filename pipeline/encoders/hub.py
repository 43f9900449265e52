"""Whether the weights of an encoder can be had, told before torch is imported: a hub that is silent costs seconds then.

Which repository a tag of open_clip lies in stands in open_clip's own table, which is read as text: importing it would
import torch.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pipeline.hub import hub_problem
from stages.errors import UserError

WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
OFFLINE = "without a hub take '--encoder lite', or a checkpoint on this machine: open_clip:ARCH/FILE"
QUICK = "-quickgelu"
"""Ends the name of an architecture with the activation of some tags."""


def require_hub(name: str) -> None:
    """Refuse at once an encoder of the hub whose weights it does not give; those with an address elsewhere pass.

    Args:
        name: `open_clip:...`.

    Raises:
        UserError: out of reach, gated, or not there.
    """
    identifier = name.removeprefix("open_clip:")
    if identifier.startswith("hf-hub:"):
        repo, _, revision = identifier.removeprefix("hf-hub:").partition("@")
        problem = hub_problem(repo, WEIGHTS, revision=revision or None)
    else:
        arch, _, tag = identifier.partition("/")
        repo, _, file = tagged(arch, tag).rpartition("/")
        names = (str(Path(file).with_suffix(".safetensors")), file) if file else WEIGHTS
        problem = hub_problem(repo, names) if repo else None
    if problem:
        raise UserError(f"cannot fetch the weights of {name}: {problem}; {OFFLINE}")


def tagged(arch: str, tag: str) -> str:
    """`OWNER/MODEL/FILE` of a tag's weights, the file empty for open_clip's own names; "" where the table has none."""
    found = _table().get(arch.removesuffix(QUICK), {}).get(tag.lower().replace("-", "_"))
    if found is None or (arch.endswith(QUICK) and not found[1]):
        return ""
    return found[0]


@cache
def _table() -> dict[str, dict[str, tuple[str, bool]]]:
    """Architecture -> tag -> place on the hub, and whether QuickGELU was used; {} where it cannot be read."""
    spec = find_spec("open_clip")
    file = next(
        (Path(place) / "pretrained.py" for place in (spec.submodule_search_locations if spec else None) or ()), None
    )
    try:
        tree = ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (OSError, SyntaxError, UnicodeDecodeError):
        return {}
    values = {
        node.targets[0].id: node.value
        for node in (tree.body if tree else ())
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    whole = values.get("_PRETRAINED")
    if not isinstance(whole, ast.Dict):
        return {}
    return {
        key.value: _tags(values.get(value.id, value) if isinstance(value, ast.Name) else value)
        for key, value in zip(whole.keys, whole.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


def _tags(node: ast.expr) -> dict[str, tuple[str, bool]]:
    """The tags of `dict(openai=_pcfg(hf_hub=..., quick_gelu=True), ...)`."""
    found = {}
    for tag in node.keywords if isinstance(node, ast.Call) else ():
        given = tag.value.keywords if isinstance(tag.value, ast.Call) else []
        facts = {each.arg: each.value.value for each in given if isinstance(each.value, ast.Constant)}
        if tag.arg:
            found[tag.arg] = (str(facts.get("hf_hub") or ""), bool(facts.get("quick_gelu")))
    return found
