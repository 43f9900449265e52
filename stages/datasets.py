"""Which data sets a command works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import say
from stages.errors import UserError

if TYPE_CHECKING:
    from stages.params import Params


def chosen(dataset: str | None, params: Params, *, cache: Path | None = None, variants: bool = False) -> list[str]:
    """The data sets a command works on; with `variants` also those that are only tested on.

    Args:
        cache: where the settings name none, the only one in it is taken, and a line says so.

    Raises:
        UserError: (exit code 2) the settings name none, and the cache holds several.
    """
    if dataset is not None:
        return [dataset]
    if cache is not None and "datasets" not in params.model_fields_set:
        from stages.stores.artifacts import ManifestStore, partition_values

        there = partition_values(cache, ManifestStore, "dataset")
        if len(there) > 1:
            raise UserError(f"{cache}: several data sets; choose with --dataset: {', '.join(there)}", exit_code=2)
        if there:
            say(f"data set: {there[0]}, the only one in {cache}")
            params = params.model_copy(update={"datasets": there})
    return params.stored if variants else list(params.datasets)
