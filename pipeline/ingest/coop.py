"""CoOp's split files: `split_zhou_*.json`, rows `[path, class_id, class name]` per split."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.ingest.base import Entry, Listing
from pipeline.ingest.class_names import join_spellings, spelling_key
from pipeline.ingest.json_files import read_json
from pipeline.ingest.places import Places
from stages.errors import UserError
from stages.params import DataParams

SPLITS = ("train", "val", "test")


class CoOpReader:
    """Class ids and names are those of the file, so base-to-new halves are CoOp's."""

    def matches(self, source: str) -> bool:
        """Such a file, or a folder that holds one."""
        place = Path(source)
        if place.is_file() and place.suffix.lower() == ".json":
            with place.open("rb") as handle:
                return re.match(rb'\s*\{\s*"(train|val|test)"\s*:\s*\[', handle.read(1000)) is not None
        return place.is_dir() and any(place.glob("split_zhou_*.json"))

    def read(self, source: str, data: DataParams) -> Listing:
        """List the images; paths are looked up below the image folder, or below its folder of the split's name."""
        place = Path(source)
        files = [place] if place.is_file() else sorted(place.glob("split_zhou_*.json"))
        if len(files) > 1:
            raise UserError(
                f"{source}: {len(files)} split files ({', '.join(f.name for f in files)[:200]}): name one of them as "
                "the source, with --images for the folder of the images"
            )
        places = Places(files[0].parent, data)
        rows = split_rows(files[0])
        names = class_names(files[0], rows)
        counts: dict[str | None, Counter[str]] = {split: Counter(row[2] for row in rows[split]) for split in SPLITS}
        try:
            ids = {name: class_id for split in SPLITS for _, class_id, name in rows[split]}
            # What is known of a data set names its folders, and the file may call the classes otherwise.
            wanted = {name: shown for name, shown in data.class_names.items() if name in ids}
            shown, notes = join_spellings(counts, wanted, ids=ids)
        except ValueError as error:
            raise UserError(f"{files[0]}: {error}") from error
        entries: dict[str, Entry] = {}
        twice = 0
        for split in SPLITS:
            for number, (path, class_id, name) in enumerate(rows[split]):
                try:
                    found = places.find(path, hints=[split])
                except ValueError as error:
                    raise UserError(f"{files[0]}: {split}[{number}]: {error}") from error
                entry = Entry(found, f"{split}/{path}", class_id, shown[name], split)
                twice += entry.image_id in entries
                if entries.setdefault(entry.image_id, entry) != entry:
                    raise UserError(f"{files[0]}: {split}[{number}]: {path[:120]!r} stands there in two classes")
        return Listing(
            places.root,
            list(entries.values()),
            {class_id: shown[name] for class_id, name in sorted(names.items())},
            settings={"split_file": files[0].name},
            notes=[
                *notes,
                *places.notes,
                *[f"{twice} rows stand there twice in one split: each is taken once"] * bool(twice),
            ],
        )


Rows = dict[str, list[tuple[str, int, str]]]
"""Split -> (path, class id, class name) of each image."""


def class_names(file: Path, rows: Rows) -> dict[int, str]:
    """Class id -> class name, in the spelling that comes first.

    Raises:
        UserError: a class has two names.
    """
    names: dict[int, str] = {}
    for split in SPLITS:
        for _, class_id, name in rows[split]:
            if spelling_key(names.setdefault(class_id, name)) != spelling_key(name):
                raise UserError(f"{file}: class {class_id} is called {names[class_id]!r} and {name!r}")
    return names


def split_rows(file: Path) -> Rows:
    """The rows of a split file; their images are not looked for.

    Raises:
        UserError: unreadable, or not of this form.
    """
    raw: Any = read_json(file)
    if not isinstance(raw, dict) or not all(isinstance(raw.get(split), list) for split in SPLITS):
        raise UserError(f"{file}: expected an object with the lists train, val and test")
    for split in SPLITS:
        for number, row in enumerate(raw[split]):
            good = (
                isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[2], str)
                and type(row[1]) is int and 0 <= row[1] < 1_000_000
            )  # fmt: skip
            if not good:
                raise UserError(
                    f"{file}: {split}[{number}] is {str(row)[:80]!r}, expected [path, class id, class name]"
                )
    return {split: [(row[0], row[1], row[2]) for row in raw[split]] for split in SPLITS}
