"""CoOp's split files: a folder with one `split_zhou_*.json`, rows `[path, class_id, class name]` per split."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.ingest.base import Entry, Listing
from stages import UserError

SPLITS = ("train", "val", "test")


class CoOpReader:
    """Class ids and names are those of the file, so base-to-new halves are CoOp's."""

    def matches(self, source: str) -> bool:
        """A folder that holds such a file."""
        return Path(source).is_dir() and any(Path(source).glob("split_zhou_*.json"))

    def read(self, source: str, class_names: Mapping[str, str]) -> Listing:
        """List the images; paths are looked up below the folder, or below its folder of the split's name."""
        root = Path(source).resolve()
        files = sorted(root.glob("split_zhou_*.json"))
        if len(files) > 1:
            raise UserError(f"{source}: {len(files)} split files ({', '.join(f.name for f in files)}): keep one")
        rows = _rows(files[0])
        names: dict[int, str] = {}
        entries: list[Entry] = []
        for split in SPLITS:
            for path, class_id, name in rows[split]:
                if names.setdefault(class_id, name) != name:
                    raise UserError(f"{files[0]}: class {class_id} is called {names[class_id]!r} and {name!r}")
                file = root / path
                if not file.exists() and (root / split / path).exists():
                    file = root / split / path
                entries.append(Entry(file, f"{split}/{path}", class_id, class_names.get(name, name), split))
        shown = {class_id: class_names.get(name, name) for class_id, name in sorted(names.items())}
        if len(set(shown.values())) < len(shown):
            raise UserError(f"{files[0]}: two class ids share one class name; class names must differ")
        return Listing(root, entries, shown, settings={"split_file": files[0].name})


def _rows(file: Path) -> dict[str, list[tuple[str, int, str]]]:
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict) or not all(isinstance(raw.get(split), list) for split in SPLITS):
        raise UserError(f"{file}: expected an object with the lists train, val and test")
    for split in SPLITS:
        for number, row in enumerate(raw[split]):
            good = (
                isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
                and isinstance(row[1], int) and 0 <= row[1] < 1_000_000
            )  # fmt: skip
            if not good:
                raise UserError(
                    f"{file}: {split}[{number}] is {str(row)[:80]!r}, expected [path, class id, class name]"
                )
            path = PurePosixPath(row[0])
            if path.is_absolute() or ".." in path.parts or "\\" in row[0] or "\0" in row[0]:
                raise UserError(f"{file}: {split}[{number}] leaves the image folder: {row[0][:80]!r}")
    return {split: [(row[0], row[1], row[2]) for row in raw[split]] for split in SPLITS}
