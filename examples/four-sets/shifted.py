"""Two shifted variants of Caltech101's test images, in grey and blurred (Gaussian, 3 pixels).

    python examples/four-sets/shifted.py data/caltech101-small shifted

The first folder holds `split_zhou_Caltech101_small.json` and the images below test/. Each variant is a folder of PNGs
and a list that `pipeline ingest` reads.
"""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageFilter

VARIANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image.convert("L"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
}


def main() -> None:
    """Write both variants."""
    source, target = map(Path, sys.argv[1:3])
    split = json.loads((source / "split_zhou_Caltech101_small.json").read_text(encoding="utf-8"))
    for name, shift in VARIANTS.items():
        rows = [("image", "class", "split")]
        for path, _, label in split["test"]:
            image = target / name / Path(path).with_suffix(".png")
            image.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(source / "test" / path) as picture:
                shift(picture.convert("RGB")).save(image)
            rows.append((str(image.relative_to(target / name)), label, "test"))
        with (target / name / "list.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
