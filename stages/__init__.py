"""The contract between the two stages: settings, stores and where they came from. Imports neither of the two.

Names are loaded on first use, so that `pipeline --help` does not wait for pyarrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.errors import UserError, nearest
    from stages.names import display_name, slug
    from stages.stores.artifacts import ImageStore, ManifestStore, PromptStore, Store, TextStore
    from stages.stores.provenance import (
        ImageProvenance,
        ManifestProvenance,
        PromptProvenance,
        Provenance,
        TextProvenance,
    )

_HOMES = {
    "ImageProvenance": "stores.provenance",
    "ImageStore": "stores.artifacts",
    "ManifestProvenance": "stores.provenance",
    "ManifestStore": "stores.artifacts",
    "PromptProvenance": "stores.provenance",
    "PromptStore": "stores.artifacts",
    "Provenance": "stores.provenance",
    "Store": "stores.artifacts",
    "TextProvenance": "stores.provenance",
    "TextStore": "stores.artifacts",
    "UserError": "errors",
    "display_name": "names",
    "nearest": "errors",
    "slug": "names",
}

__all__ = [
    "ImageProvenance",
    "ImageStore",
    "ManifestProvenance",
    "ManifestStore",
    "PromptProvenance",
    "PromptStore",
    "Provenance",
    "Store",
    "TextProvenance",
    "TextStore",
    "UserError",
    "display_name",
    "nearest",
    "slug",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stages' has no attribute {name!r}")
    return getattr(import_module(f"stages.{_HOMES[name]}"), name)
