"""Class text as its owner holds it: names, and embeddings of templates and of reference prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from aape.arrays import ArrayLike, as_array, checked
from trainer.data import ClassText


class Classes:
    """What text knows about some classes, for `fit(..., text=)` or, of classes never seen, `predict(..., text=)`.

    C classes, T templates a class, N_c reference prompts of class c, D the width of the embeddings. Embeddings of any
    length are taken and normalised. It has no `len()`, so that scikit-learn's cross-validation hands it on whole.

    Args:
        names: C class names, each once; position is the label. Or a mapping label -> name for other labels.
        templates: (C, D) embeddings of "a photo of a {class}", or (C, T, D) of several templates.
        prompts: C arrays (N_c, D) with as many rows as the class has prompts, or one array (C, N, D).

    Attributes:
        names: the names, in order.
        labels: their labels where `names` was a mapping, else None.
        templates: unit float32 (C, T, D), or None.
        prompts: C unit float32 arrays (N_c, D), or None.

    Raises:
        ValueError: NaN, infinity, zero vectors, widths that differ, a name that stands twice, templates or prompts for
            another number of classes, a class without prompts beside classes with prompts.
    """

    names: tuple[str, ...]
    labels: tuple[Any, ...] | None
    templates: Float[np.ndarray, "C T D"] | None
    prompts: list[Float[np.ndarray, "N D"]] | None

    def __init__(
        self,
        names: Sequence[str] | Mapping[Any, str],
        templates: ArrayLike | None = None,
        prompts: Sequence[ArrayLike] | ArrayLike | None = None,
    ) -> None:
        self.labels = tuple(names) if isinstance(names, Mapping) else None
        given = list(names.values() if isinstance(names, Mapping) else as_array(names))
        strange = next((name for name in given if not isinstance(name, str)), None)
        if strange is not None or isinstance(names, str):
            raise ValueError(f"class_names must be a list of strings, got {names if strange is None else strange!r}.")
        self.names = tuple(map(str, given))
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"class_names has {twice!r} more than once: classes are told apart by name.")
        self.templates = None if templates is None else self._templates(templates)
        self.prompts = None if prompts is None else self._prompts(prompts)
        widths = {"templates": self.templates, "prompts": None if self.prompts is None else self.prompts[0]}
        found = {name: array.shape[-1] for name, array in widths.items() if array is not None}
        if len(set(found.values())) > 1:
            said = " and ".join(f"{name} have {width} features" for name, width in found.items())
            raise ValueError(f"{said}: both must come from the same encoder.")
        self.width: int | None = next(iter(found.values()), None)

    def _templates(self, templates: ArrayLike) -> Float[np.ndarray, "C T D"]:
        array = checked(templates, name="templates", dims=(2, 3))
        self._require_count("templates", len(array))
        return array[:, None] if array.ndim == 2 else array

    def _prompts(self, prompts: Sequence[ArrayLike] | ArrayLike) -> list[Float[np.ndarray, "N D"]]:
        each: list[Any] = list(as_array(prompts))
        self._require_count("prompts", len(each))
        each = [as_array(rows) for rows in each]
        empty = [name for name, rows in zip(self.names, each, strict=True) if len(rows) == 0]
        if empty:
            raise ValueError(
                f"prompts are missing for {len(empty)} of {len(each)} classes (first: {empty[0]!r}): give each "
                "class at least one, such as its template."
            )
        arrays = [checked(rows, name=f"prompts[{i}]") for i, rows in enumerate(each)]
        other = next((i for i, rows in enumerate(arrays) if rows.shape[1] != arrays[0].shape[1]), None)
        if other is not None:
            raise ValueError(
                f"prompts[{other}] has {arrays[other].shape[1]} features, but prompts[0] has {arrays[0].shape[1]}."
            )
        return arrays

    def _require_count(self, what: str, count: int) -> None:
        if count != len(self.names):
            raise ValueError(f"Found {what} for {count} classes, but {len(self.names)} classes are named.")

    @property
    def source(self) -> str:
        """What there is beside the names: `templates`, `prompts`, `templates and prompts`, or nothing."""
        there = [("templates", self.templates), ("prompts", self.prompts)]
        return " and ".join(name for name, value in there if value is not None)

    def tensors(self, device: torch.device) -> ClassText:
        """The same as the trainer's tensors; without templates the prompts' mean stands in for them.

        Raises:
            ValueError: there are names alone.
        """
        if self.templates is None and self.prompts is None:
            raise ValueError("class text needs templates or prompts beside the names.")
        padded, mask = (None, None) if self.prompts is None else _padded(self.prompts, device)
        if self.templates is None:
            assert padded is not None
            return ClassText(self.names, normalize(padded.sum(1), dim=-1), padded, mask)
        templates = torch.from_numpy(self.templates).to(device)
        return ClassText(self.names, templates[:, 0].clone(), padded, mask, templates)

    def __repr__(self) -> str:
        return f"Classes({len(self.names)} names, {self.source or 'no embeddings'})"


def _padded(
    prompts: Sequence[Float[np.ndarray, "N D"]], device: torch.device
) -> tuple[Float[Tensor, "C N D"], Float[Tensor, "C N"]]:
    longest = max(len(rows) for rows in prompts)
    padded = torch.zeros(len(prompts), longest, prompts[0].shape[1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for i, rows in enumerate(prompts):
        padded[i, : len(rows)], mask[i, : len(rows)] = torch.from_numpy(rows), True
    return padded.to(device), mask.to(device)
