"""The two sets of `docs/results.md` with several classes an image, made from data that have none of their own.

    python examples/several_classes.py mosaics CALTECH101 OUT    # folders train/, val/, test/ of class folders
    python examples/several_classes.py captions captions.csv OUT.csv    # image,caption

`mosaics` puts none to four photographs of different classes into one picture, each of its own split: real photographs,
an artificial scene. `captions` gives an image the classes that two of its captions or more name. Both are the same
bytes every time.
"""

import csv
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from trainer.multilabel.nouns import Nouns

CLASSES, SIZE = 24, 256
COUNTS = (("train", 400), ("val", 120), ("test", 400))
SHARE_OF_NUMBER = [0.05, 0.2, 0.35, 0.25, 0.15]
"""Of pictures with none, one, ... four photographs."""
PEOPLE = "man woman people men women boy girl child children kid guy lady player skier surfer rider baby skateboarder"
ALSO_CALLED = {
    "person": PEOPLE.split(), "table": ["desk"], "street": ["road"], "grass": ["field"],
    "water": ["ocean", "lake", "river", "sea"], "toilet": [], "laptop": ["computer"], "cat": ["kitten"], "bowl": [],
    "plate": [], "food": ["vegetable", "fruit", "pizza", "cake", "sandwich"], "skateboard": ["skate board"], "bed": [],
    "vehicle": ["bus", "car", "truck", "bicycle", "bike", "motorcycle", "train"],
    "animal": ["dog", "bird", "bear", "elephant", "cow", "sheep", "zebra", "giraffe", "horse"],
}  # fmt: skip
"""Class -> further words for it; `data.NAME.also_called` of the run is the same."""


def mosaics(source: Path, out: Path) -> None:
    """Write the pictures and `labels.csv`."""
    rng = np.random.default_rng(1)
    names = sorted(folder.name for folder in (source / "train").iterdir() if folder.is_dir())
    chosen = sorted(rng.choice(names, CLASSES, replace=False).tolist())
    rate = np.linspace(2.0, 0.5, CLASSES)
    rng.shuffle(rate)
    rows = []
    for split, count in COUNTS:
        files = {name: sorted((source / split / name).iterdir()) for name in chosen}
        (out / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            several = int(rng.choice(len(SHARE_OF_NUMBER), p=SHARE_OF_NUMBER))
            own = rng.choice(chosen, several, replace=False, p=rate / rate.sum()).tolist()
            picture = Image.new("RGB", (SIZE, SIZE), tuple(int(value) for value in rng.integers(0, 256, 3)))
            for cell, name in zip(rng.permutation(4)[:several].tolist(), own, strict=True):
                photograph = Image.open(files[name][int(rng.integers(len(files[name])))]).convert("RGB")
                side = SIZE if several == 1 else SIZE // 2
                place = (0, 0) if several == 1 else (side * (cell % 2), side * (cell // 2))
                picture.paste(ImageOps.fit(photograph, (side, side)), place)
            picture.save(out / split / f"{number:04d}.jpg", quality=92)
            rows.append([f"{split}/{number:04d}.jpg", ";".join(own), split])
    with (out / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "labels", "split"], *rows])


def captions(source: Path, out: Path) -> None:
    """Write `image,labels`."""
    said: dict[str, list[str]] = defaultdict(list)
    with source.open(newline="") as file:
        for row in csv.DictReader(file):
            said[row["image"]].append(row["caption"])
    names, nouns = list(ALSO_CALLED), Nouns(list(ALSO_CALLED), ALSO_CALLED)
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels"])
        for image, texts in sorted(said.items()):
            counts = Counter(label for text in texts for label in nouns.in_text(text))
            writer.writerow([image, ";".join(names[label] for label, count in sorted(counts.items()) if count >= 2)])


if __name__ == "__main__":
    {"mosaics": mosaics, "captions": captions}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
