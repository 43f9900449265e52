"""Predictors as named tensors and a JSON tree, and back. Never pickle: a name in a file only picks one of KINDS.

A predictor is a dataclass of numbers, text, tensors, lists, torch modules and settings; so is a method. A module comes
back from its plain attributes, parameters and parts, without its constructor.

What comes back has its tensors row by row in memory of their own. Libraries of linear algebra take other paths for
other strides and other alignments, with another last bit: `canonical` gives a fresh predictor the same layout, so that
it scores as the one from a file does.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from stages.language import LanguageParams
from stages.training import TrainParams

Tree = Any
"""What json.dumps takes."""


SERVES = ("logits", "embed", "prefix")
"""What a predictor can do, one of these."""


PACKAGES = (
    "trainer.methods",
    "trainer.methods.family",
    "trainer.aape",
    "trainer.several",
    "trainer.multilabel",
    "trainer.retrieval",
    "trainer.language",
)
"""Where those classes stand that a file may name."""


@functools.cache
def kinds() -> Mapping[str, type]:
    """The classes that a file may name: predictors and modules of these packages, and settings."""
    found: dict[str, type] = {each.__name__: each for each in (TrainParams, LanguageParams)}
    for package in PACKAGES:
        for place in pkgutil.iter_modules(importlib.import_module(package).__path__):
            module = importlib.import_module(f"{package}.{place.name}")
            for name, value in vars(module).items():
                if isinstance(value, type) and value.__module__ == module.__name__:
                    is_predictor = is_dataclass(value) and any(hasattr(value, name) for name in SERVES)
                    if is_predictor or issubclass(value, nn.Module):
                        found[name] = value
    return found


def pack(value: Any) -> tuple[Tree, dict[str, Tensor]]:
    """The tree of a predictor or a method, and the tensors that it names, on their device.

    Raises:
        TypeError: something in it has no form in JSON.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Tree:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            tensors[path] = value.detach().contiguous()
            return {"tensor": path}
        if isinstance(value, list | tuple):
            items = [walk(item, f"{path}.{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            return {"dict": {str(key): walk(item, f"{path}.{key}") for key, item in value.items()}}
        if isinstance(value, BaseModel):
            content = value.model_dump(mode="json", by_alias=True)
        elif isinstance(value, nn.Module):
            content = {name: walk(item, f"{path}.{name}") for name, item in _parts(value).items()}
        elif is_dataclass(value):
            content = {f.name: walk(getattr(value, f.name), f"{path}.{f.name}") for f in fields(value)}
        else:
            raise TypeError(f"{path.lstrip('.')} is a {type(value).__name__}: a predictor cannot hold that")
        return {"kind": type(value).__name__, "is": content}

    return walk(value, ""), tensors


def unpack(tree: Tree, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given.

    Raises:
        ValueError, KeyError, TypeError: the tree was not written by `pack`, or a tensor is missing.
    """
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return [unpack(item, tensors) for item in tree]
    if "tensor" in tree:
        return tensors[tree["tensor"]].clone(memory_format=torch.contiguous_format)
    if "tuple" in tree:
        return tuple(unpack(item, tensors) for item in tree["tuple"])
    if "dict" in tree:
        return {key: unpack(item, tensors) for key, item in tree["dict"].items()}
    if tree["kind"] not in kinds():
        raise ValueError(f"unknown kind {tree['kind']!r}")
    kind = kinds()[tree["kind"]]
    if issubclass(kind, BaseModel):
        return kind.model_validate(tree["is"])
    content = {name: unpack(item, tensors) for name, item in tree["is"].items()}
    return _module(kind, content) if issubclass(kind, nn.Module) else kind(**content)


Fitted = TypeVar("Fitted")


def canonical(predictor: Fitted) -> Fitted:
    """The same predictor as it would come back from a file: ready to serve, every tensor row by row in its own memory.

    Raises:
        TypeError: it holds something that no file can.
    """
    same: Fitted = unpack(*pack(predictor))
    return same


_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def _parts(module: nn.Module) -> dict[str, Any]:
    """Plain attributes, parameters, buffers and parts of a module by name."""
    plain = {name: value for name, value in vars(module).items() if name not in _OWN}
    own = [module.named_parameters(recurse=False), module.named_buffers(recurse=False), module.named_children()]
    return plain | {name: value for each in own for name, value in each}


def _module(kind: type[nn.Module], content: Mapping[str, Any]) -> nn.Module:
    """A module with these parts, ready to serve."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    for name, value in content.items():
        setattr(made, name, nn.Parameter(value, requires_grad=False) if isinstance(value, Tensor) else value)
    return made.eval()
