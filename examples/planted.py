"""Faults planted into a copy of a data set, and how many of them `pipeline audit` finds (docs/data-loop.md).

    python examples/planted.py plant SOURCE FOLDER --wrong-label 0.05 --near-duplicate 0.05 --seed 1
    pipeline ingest planted --source FOLDER/images && pipeline embed-images --dataset planted
    pipeline audit --dataset planted --out FOLDER/audit
    python examples/planted.py score FOLDER
    python examples/planted.py decide FOLDER --top 15      (the decisions of someone who looks at the top 15 labels)

SOURCE holds train/CLASS/*.jpg and test/CLASS/*.jpg. `planted.csv` in FOLDER says what was done; `audit` never reads it.
"""

import argparse
import csv
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png"}
KINDS = (
    "wrong-label", "same-file", "same-pixels", "near-duplicate", "outlier", "dark", "bright", "blurred", "tiny",
    "blank", "unreadable",
)  # fmt: skip
NEAR: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda picture: picture.resize((max(8, picture.width * 6 // 10), max(8, picture.height * 6 // 10))),
    lambda picture: ImageOps.crop(picture, border=max(1, min(picture.size) // 25)),
    lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    lambda picture: picture,  # saved with much loss
    ImageOps.mirror,
)
"""What was done to a near duplicate: smaller, cropped, brighter, JPEG of quality 40, mirrored."""


def pictures(folder: Path) -> list[Path]:
    """The images below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def plant(args: argparse.Namespace) -> None:
    """Copy SOURCE and plant each kind into its share of the training images; no image gets two faults."""
    draw = random.Random(args.seed)
    images: Path = args.folder / "images"
    shutil.copytree(args.source, images)
    train = pictures(images / "train")
    free = draw.sample(train, len(train))
    classes = sorted({path.parent.name for path in train})
    done: list[dict[str, str]] = []

    def note(path: Path, kind: str, truth: str) -> None:
        done.append({"image_id": path.relative_to(images).as_posix(), "kind": kind, "label": truth})

    for kind in KINDS:
        for number in range(round(getattr(args, kind.replace("-", "_")) * len(train))):
            if kind == "outlier":
                found = draw.choice(pictures(args.outliers_from))
                place = images / "train" / draw.choice(classes) / f"alien-{number}{found.suffix}"
                shutil.copy(found, place)
                note(place, kind, "")
                continue
            path = free.pop()
            label = path.parent.name
            other = draw.choice([name for name in classes if name != label])
            if kind == "wrong-label":
                place = images / "train" / other / f"moved-{number}{path.suffix}"
                path.rename(place)
                note(place, kind, label)
            elif kind in ("same-file", "same-pixels", "near-duplicate"):
                folder = images / "test" / label if number % 2 else images / "train" / other
                place = folder / f"copy-{kind}-{number}.{'png' if kind == 'same-pixels' else 'jpg'}"
                if kind == "same-file":
                    place = place.with_suffix(path.suffix)
                    shutil.copy(path, place)
                else:
                    picture = Image.open(path).convert("RGB")
                    change = NEAR[number // 2 % len(NEAR)]
                    (picture if kind == "same-pixels" else change(picture)).save(
                        place, quality=40 if number // 2 % 5 == 3 else 90
                    )
                note(place, kind, label)
            else:
                spoil(path, kind, draw)
                note(path, kind, label)
    with (args.folder / "planted.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image_id", "kind", "label"])
        writer.writeheader()
        writer.writerows(done)
    print(f"{len(done)} faults planted among {len(train)} training images: {args.folder / 'planted.csv'}")


def spoil(path: Path, kind: str, draw: random.Random) -> None:
    """Replace a picture by a bad one of itself."""
    if kind == "unreadable":
        path.write_bytes(path.read_bytes()[:300])
        return
    picture = Image.open(path).convert("RGB")
    if kind == "dark":
        picture = ImageEnhance.Brightness(picture).enhance(draw.uniform(0.05, 0.15))
    elif kind == "bright":
        picture = picture.point([min(255, 235 + value // 8) for value in range(256)] * 3)
    elif kind == "blurred":
        picture = picture.filter(ImageFilter.GaussianBlur(min(picture.size) * draw.uniform(0.02, 0.04)))
    elif kind == "tiny":
        picture = picture.resize((draw.randint(8, 24), draw.randint(8, 24)))
    else:
        picture = Image.new("RGB", picture.size, tuple(draw.randrange(256) for _ in range(3)))
    picture.save(path, quality=95)


def read(file: Path) -> list[dict[str, str]]:
    """A CSV file as rows."""
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def score(args: argparse.Namespace) -> None:
    """Precision and recall of each kind, over all that was listed and over as many as were planted."""
    planted, listed = read(args.folder / "planted.csv"), read(args.folder / "audit" / "audit.csv")
    print("| kind | planted | listed | of them planted | recall | precision at the number planted |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        wanted = {row["image_id"] for row in planted if row["kind"] == kind}
        if not wanted:
            continue
        pair = kind in ("same-file", "same-pixels", "near-duplicate")
        columns = ("image_id", "other_image_id") if pair else ("image_id",)
        rows = [{row[name] for name in columns} for row in listed if row["kind"] == kind]
        hits = [bool(ids & wanted) for ids in rows]
        found = set().union(*rows) & wanted
        top = sum(hits[: len(wanted)]) / len(wanted)
        print(f"| {kind} | {len(wanted)} | {len(rows)} | {sum(hits)} | {len(found) / len(wanted):.2f} | {top:.2f} |")


def decide(args: argparse.Namespace) -> None:
    """Write what someone who knows the truth would decide about the first labels of the list."""
    truth = {row["image_id"]: row["label"] for row in read(args.folder / "planted.csv") if row["kind"] == "wrong-label"}
    rows = [row for row in read(args.folder / "audit" / "audit.csv") if row["kind"] == "wrong-label"][: args.top]
    file = args.folder / "decisions.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image_id", "action", "label"])
        for row in rows:
            right = truth.get(row["image_id"])
            writer.writerow([row["image_id"], "label" if right else "confirm", right or ""])
    print(f"{len(rows)} decisions, {sum(row['image_id'] in truth for row in rows)} of them labels put right: {file}")


def main(line: list[str] | None = None) -> None:
    """Read the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    planting = commands.add_parser("plant")
    planting.add_argument("source", type=Path)
    planting.add_argument("folder", type=Path)
    for kind in KINDS:
        planting.add_argument(f"--{kind}", type=float, default=0.0, metavar="SHARE")
    planting.add_argument("--outliers-from", type=Path, metavar="FOLDER")
    planting.add_argument("--seed", type=int, default=1)
    planting.set_defaults(run=plant)
    for name, run in (("score", score), ("decide", decide)):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--top", type=int, default=15)
        command.set_defaults(run=run)
    args = parser.parse_args(line)
    args.run(args)


if __name__ == "__main__":
    main()
