"""Settings written into the text of a params.yaml, whose comments and order stay."""

import re
from collections.abc import Mapping
from typing import Any

import yaml


def scalar(text: str) -> str:
    """A string as a YAML scalar on one line, plain where YAML 1.1 and 1.2 both read it as the same string."""
    plain = re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./:-]*", text) is not None and yaml.safe_load(text) == text
    return text if plain else quoted(text)


def quoted(text: str) -> str:
    """A string as a double-quoted YAML scalar on one line."""
    return str(yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)).strip()


def with_settings(text: str, changes: Mapping[tuple[str, ...], Any]) -> str:
    """The text with these settings, each in the place of what was there, else on a line below its section.

    Args:
        text: block mappings, whose values may be flow lists and mappings; ends with a line break.
        changes: path, such as `("train", "lambda")`, -> value.
    """
    for path, value in changes.items():
        text = _with(_without_comment(text, path), path, value)
    return text


def _without_comment(text: str, path: tuple[str, ...]) -> str:
    """The text without the line that shows the default of a setting of a data set."""
    shown = rf"^    # {re.escape(path[-1])}:.*\n(    #   .*\n)*"
    return re.sub(shown, "", text, flags=re.MULTILINE) if path[0] == "data" else text


def _with(text: str, path: tuple[str, ...], value: Any) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, key in enumerate(path, 1):
        below = next((child for name, child in node.value if name.value == key), None)
        if below is None:
            last = node.value[-1][1]
            while _is_block(last):
                last = last.value[-1][1]
            at = text.index("\n", last.end_mark.index) + 1
            line = f"{' ' * node.start_mark.column}{scalar(key)}: {_flow(_nested({}, path[depth:], value))}\n"
            return text[:at] + line + text[at:]
        if not _is_block(below):
            start, end = below.start_mark.index, below.end_mark.index
            return text[:start] + _flow(_nested(yaml.safe_load(text[start:end]), path[depth:], value)) + text[end:]
        node = below
    for key, each in value.items():
        text = _with(text, (*path, key), each)
    return text


def _is_block(node: Any) -> bool:
    return isinstance(node, yaml.MappingNode) and not node.flow_style


def _nested(old: Any, path: tuple[str, ...], value: Any) -> Any:
    """The old value with this one below it."""
    if not path:
        return value
    known = old if isinstance(old, dict) else {}
    return {**known, path[0]: _nested(known.get(path[0]), path[1:], value)}


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return str(yaml.safe_dump(value)).removesuffix("...\n").strip()
