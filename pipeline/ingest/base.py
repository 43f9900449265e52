"""What a reader is: it looks at a source and lists the images it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Entry:
    """One image of a source; `split` None asks for the seeded split."""

    file: Path
    image_id: str
    class_id: int
    class_name: str
    split: str | None


@dataclass(frozen=True)
class Listing:
    """What a reader found.

    Attributes:
        root: folder that the manifest's paths are relative to.
        entries: images in a fixed order.
        class_names: class_id -> class name, for all classes of the source, empty ones included.
        ignored: files that are no images by their name.
        settings: facts for the manifest's provenance.
    """

    root: Path
    entries: list[Entry]
    class_names: dict[int, str]
    ignored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """One kind of source."""

    def matches(self, source: str) -> bool:
        """Whether this reader understands the source."""
        ...

    def read(self, source: str, class_names: Mapping[str, str]) -> Listing:
        """List the images; `class_names` maps names of the source to names in sentences.

        Raises:
            UserError: the source is missing, empty, or not laid out as it should be.
        """
        ...
