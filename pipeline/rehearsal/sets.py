"""Tiny stand-ins of the known data sets: published folder names, split files and formats, generated pictures.

What is odd in the real ones is odd here too: ImageNet has PNG and CMYK files called `.JPEG` and 1,000 folders, pets lie
in one folder among MATLAB files and one of them is a GIF, Cars come with `.mat` annotations, a scene of SUN397 lies one
folder deeper than the others, an aircraft is called `F/A-18`. Numbers of images and classes are small, nothing else is.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.registry.synsets import class_ids, imagenet_names

SPLITS = {"train": 3, "val": 1, "test": 2}
"""Images of a class in each split."""
SYNSETS = ("n01443537", "n01498041", "n01531178", "n02012849", "n04355933")
"""ImageNet classes with images: three that -A or -R begin with (two are in both), two whose names are taken twice."""
CAPTIONS = ("two birds stand in the water", "a red bus on a street", "a man rides a horse", "a cat sleeps on a chair")
QUESTIONS = (("What color is the bus?", "red"), ("Is there a cat?", "yes"), ("How many birds are there?", "2"))


def write_set(name: str, folder: Path) -> None:
    """Write the stand-in of a known data set, one of `WRITERS`, into a new folder: what `data.NAME.source` names."""
    folder.mkdir(parents=True)
    WRITERS[name](folder)


def words() -> list[str]:
    """Words of all class names, without their marks: what the stand-in language model says."""
    names = [name for table in COOP.values() for name in table.values()]
    names += [*_AIRCRAFT, *(imagenet_names()[wnid] for wnid in SYNSETS)]
    found = (word for name in names for word in re.findall(r"[a-z]+", name.lower()))
    return sorted({word for word in found if len(word) > 2})


# Pictures


def picture(path: Path, key: int, *, mode: str = "RGB", format: str | None = None) -> None:
    """Write a small noisy picture whose colours depend on `key`, such as its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(key).integers(40, 215, 3)
    noise = np.random.default_rng([key, *path.name.encode()]).normal(0, 30, (30, 40, 3))
    image = Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8)).convert(mode)
    image.save(path, format=format or ("JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else None), quality=90)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _mat(path: Path, content: dict[str, Any]) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)


# The ten sets with a split file of CoOp, or with lists of their own

COOP: dict[str, dict[str, str]] = {
    "Caltech101": {"Faces": "face", "Leopards": "leopard", "car_side": "car_side", "yin_yang": "yin_yang"},
    "OxfordPets": {"Abyssinian": "abyssinian", "Egyptian_Mau": "egyptian_mau", "beagle": "beagle", "pug": "pug"},
    "StanfordCars": {
        "1": "2000 AM General Hummer SUV", "2": "2012 Acura RL Sedan", "3": "2012 BMW M3 Coupe",
        "4": "2012 smart fortwo Convertible",
    },
    "OxfordFlowers": {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "sunflower", "4": "blackberry lily"},
    "Food101": {"apple_pie": "apple_pie", "sushi": "sushi", "tacos": "tacos", "waffles": "waffles"},
    "SUN397": {
        "a/abbey": "abbey", "a/apartment_building/outdoor": "outdoor apartment_building", "b/beach": "beach",
        "z/zoo": "zoo",
    },
    "DescribableTextures": {"banded": "banded", "dotted": "dotted", "woven": "woven", "zigzagged": "zigzagged"},
    "EuroSAT": {
        "AnnualCrop": "Annual Crop Land", "Forest": "Forest", "River": "River", "SeaLake": "Sea or Lake",
    },
    "UCF101": {
        "Apply_Eye_Makeup": "Apply_Eye_Makeup", "Archery": "Archery", "Tai_Chi": "Tai_Chi", "Yo_Yo": "Yo_Yo",
    },
}  # fmt: skip
"""Name in the split file's -> class folder, or number -> class name; in the order of the classes."""
_AIRCRAFT = ("707-320", "A380", "ATR-72", "F/A-18")

Place = Callable[[str, str, int], str]
"""Path of an image below the image folder, by class folder, split and number."""


def _coop(folder: Path, name: str, images: str, place: Place) -> dict[str, list[list[Any]]]:
    """Write the pictures and `split_zhou_NAME.json`; gives what stands in it."""
    rows: dict[str, list[list[Any]]] = {split: [] for split in SPLITS}
    for label, (of, shown) in enumerate(COOP[name].items()):
        number = 0
        for split, count in SPLITS.items():
            for _ in range(count):
                number += 1
                path = place(of, split, number)
                picture(folder / images / path, label)
                rows[split].append([path, label, shown])
    _json(folder / f"split_zhou_{name}.json", rows)
    return rows


def _caltech101(folder: Path) -> None:
    _coop(folder, "Caltech101", "101_ObjectCategories", lambda of, _, n: f"{of}/image_{n:04d}.jpg")
    picture(folder / "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 90)  # in the archive, in no split
    picture(folder / "101_ObjectCategories/Faces/image_0001.jpg", 0, mode="L")  # many are grey


def _oxford_pets(folder: Path) -> None:
    rows = _coop(folder, "OxfordPets", "images", lambda of, _, n: f"{of}_{n}.jpg")
    _mat(folder / "images/Abyssinian_100.mat", {"image": np.zeros((2, 2))})
    picture(folder / "images/Egyptian_Mau_1.jpg", 1, format="GIF")
    for file, splits in (("trainval.txt", ("train", "val")), ("test.txt", ("test",))):
        paths = [(path, label) for split in splits for path, label, _ in rows[split]]
        _lines(folder / "annotations" / file, [f"{path.removesuffix('.jpg')} {label + 1} 1 1" for path, label in paths])
    picture(folder / "annotations/trimaps/Abyssinian_1.png", 0, mode="L")
    (folder / "annotations/trimaps/._Abyssinian_1.png").write_bytes(b"\0\5\26\7")  # left by a Mac


def _stanford_cars(folder: Path) -> None:
    def place(of: str, split: str, n: int) -> str:
        part = "cars_test" if split == "test" else "cars_train"
        return f"{part}/{10 * int(of) + n:05d}.jpg"

    rows = _coop(folder, "StanfordCars", "", place)
    kind = [("class", "O"), ("fname", "O")]
    for file, splits in (
        ("devkit/cars_train_annos.mat", ("train", "val")),
        ("cars_test_annos_withlabels.mat", ("test",)),
    ):
        found = [(label + 1, Path(path).name) for split in splits for path, label, _ in rows[split]]
        _mat(folder / file, {"annotations": np.array(found, dtype=kind)})
    names = np.array([*COOP["StanfordCars"].values()], dtype=object)
    _mat(folder / "devkit/cars_meta.mat", {"class_names": names})


def _flowers102(folder: Path) -> None:
    _coop(folder, "OxfordFlowers", "jpg", lambda of, _, n: f"image_{10 * int(of) + n:05d}.jpg")
    _mat(folder / "imagelabels.mat", {"labels": np.arange(1, 5, dtype=np.uint8)[None]})
    _json(folder / "cat_to_name.json", COOP["OxfordFlowers"])


def _food101(folder: Path) -> None:
    rows = _coop(folder, "Food101", "images", lambda of, _, n: f"{of}/{1000 + n}.jpg")
    _lines(folder / "meta/classes.txt", list(COOP["Food101"]))
    for file, splits in (("train", ("train", "val")), ("test", ("test",))):
        _lines(folder / f"meta/{file}.txt", [row[0].removesuffix(".jpg") for split in splits for row in rows[split]])
    _lines(folder / "README.txt", ["Food-101"])


def _fgvc_aircraft(folder: Path) -> None:
    _lines(folder / "variants.txt", _AIRCRAFT)
    _lines(folder / "families.txt", ["Boeing 707", "A380", "ATR-72", "F/A-18"])
    for split, count in SPLITS.items():
        lines = []
        for label, variant in enumerate(_AIRCRAFT):
            for n in range(count):
                image = f"{label + 1}{list(SPLITS).index(split)}{n:05d}"
                picture(folder / f"images/{image}.jpg", label)
                lines.append(f"{image} {variant}")
        _lines(folder / f"images_variant_{split}.txt", lines)


def _sun397(folder: Path) -> None:
    _coop(folder, "SUN397", "SUN397", lambda of, _, n: f"{of}/sun_{n:016x}.jpg")
    _lines(folder / "ClassName.txt", [f"/{of}" for of in COOP["SUN397"]])


def _dtd(folder: Path) -> None:
    rows = _coop(folder, "DescribableTextures", "images", lambda of, _, n: f"{of}/{of}_{n:04d}.jpg")
    _mat(folder / "imdb/imdb.mat", {"meta": np.zeros((1, 1))})
    every = [row for split in SPLITS for row in rows[split]]
    _lines(folder / "labels/labels_joint_anno.txt", [f"{path} {name}" for path, _, name in every])


def _eurosat(folder: Path) -> None:
    _coop(folder, "EuroSAT", "2750", lambda of, _, n: f"{of}/{of}_{n}.jpg")


def _ucf101(folder: Path) -> None:
    def place(of: str, _: str, n: int) -> str:
        return f"{of}/v_{of.replace('_', '')}_g{n:02d}_c01.jpg"

    rows = _coop(folder, "UCF101", "UCF-101-midframes", place)
    of_split = {"trainlist01.txt": rows["train"], "testlist01.txt": rows["test"]}
    for file, some in of_split.items():
        _lines(folder / "ucfTrainTestlist" / file, [f"{row[0].removesuffix('.jpg')}.avi {row[1] + 1}" for row in some])


# ImageNet and its variants


def _synset_folders(folder: Path, wnids: Sequence[str]) -> None:
    for wnid in wnids:
        (folder / wnid).mkdir(parents=True)


def _classnames(folder: Path) -> None:
    _lines(folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in imagenet_names().items()])


def _imagenet(folder: Path) -> None:
    for split, count in (("train", SPLITS["train"]), ("val", SPLITS["test"])):
        _synset_folders(folder / "images" / split, list(imagenet_names()))
        for label, wnid in enumerate(SYNSETS):
            for n in range(count):
                file = f"{wnid}/{wnid}_{n}.JPEG" if split == "train" else f"{wnid}/ILSVRC2012_val_{label}{n:07d}.JPEG"
                picture(folder / "images" / split / file, label)
    picture(folder / f"images/train/{SYNSETS[0]}/{SYNSETS[0]}_0.JPEG", 0, format="PNG")
    picture(folder / f"images/train/{SYNSETS[1]}/{SYNSETS[1]}_0.JPEG", 1, mode="CMYK")
    _classnames(folder)


def _imagenetv2(folder: Path) -> None:
    for number, wnid in enumerate(imagenet_names()):
        of = folder / "imagenetv2-matched-frequency-format-val" / str(number)
        of.mkdir(parents=True)
        if wnid in SYNSETS:
            picture(of / f"{number:040x}.jpeg", SYNSETS.index(wnid))
    _classnames(folder)


def _imagenet_sketch(folder: Path) -> None:
    _synset_folders(folder / "images", list(imagenet_names()))
    for label, wnid in enumerate(SYNSETS):
        picture(folder / f"images/{wnid}/sketch_{label}.JPEG", label, mode="L")
    _classnames(folder)


def _two_hundred(folder: Path, name: str) -> None:
    """A variant with 200 of ImageNet's classes, some of which have images."""
    wnids = class_ids(name.replace("-", "_"))
    _synset_folders(folder / name, sorted(wnids))
    for label, wnid in enumerate(SYNSETS):
        if wnid in wnids:
            picture(folder / name / wnid / "0_picture_0.9.jpg", label)
    _lines(folder / name / "README.txt", [name])
    _classnames(folder)


def _imagenet_a(folder: Path) -> None:
    _two_hundred(folder, "imagenet-a")


def _imagenet_r(folder: Path) -> None:
    _two_hundred(folder, "imagenet-r")


# Captions and questions


def _sentences(number: int) -> list[dict[str, Any]]:
    said = [CAPTIONS[(number + k) % len(CAPTIONS)] for k in range(5)]
    return [
        {"tokens": text.split(), "raw": f"{text.capitalize()}.", "imgid": number, "sentid": 5 * number + k}
        for k, text in enumerate(said)
    ]


def _karpathy(folder: Path, name: str, images: Sequence[dict[str, Any]]) -> None:
    filled = [
        {**image, "imgid": number, "sentids": [*range(5 * number, 5 * number + 5)], "sentences": _sentences(number)}
        for number, image in enumerate(images)
    ]
    _json(folder / f"dataset_{name}.json", {"images": filled, "dataset": name})


def _coco_image(folder: Path, part: str, number: int) -> str:
    name = f"COCO_{part}_{number:012d}.jpg"
    picture(folder / part / name, number % len(CAPTIONS), mode="L" if number % 5 == 0 else "RGB")
    return name


def _coco(folder: Path) -> None:
    splits = ["train"] * 8 + ["restval"] * 2 + ["val"] * 2 + ["test"] * 4
    images = []
    for number, split in enumerate(splits, 9):
        part = "train2014" if split == "train" else "val2014"
        file = _coco_image(folder, part, number)
        images.append({"filepath": part, "filename": file, "split": split, "cocoid": number})
    _karpathy(folder, "coco", images)


def _flickr30k(folder: Path) -> None:
    images = []
    for number, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 4):
        name = f"{1000092795 + number}.jpg"
        picture(folder / "flickr30k-images" / name, number)
        images.append({"filename": name, "split": split})
    _karpathy(folder, "flickr30k", images)


def _nocaps(folder: Path) -> None:
    images, notes = [], []
    for number, domain in enumerate(("in-domain", "near-domain", "out-domain")):
        name = f"{number:016x}.jpg"
        picture(folder / "images" / name, number)
        images.append({
            "id": number, "file_name": name, "open_images_id": f"{number:016x}", "height": 30, "width": 40,
            "domain": domain, "coco_url": f"https://example.org/{name}", "license": 0,
        })  # fmt: skip
        notes += [
            {"id": 10 * number + k, "image_id": number, "caption": CAPTIONS[(number + k) % len(CAPTIONS)]}
            for k in range(10)
        ]
    _json(
        folder / "nocaps_val_4500_captions.json", {"info": {}, "licenses": [], "images": images, "annotations": notes}
    )


def _vqa2(folder: Path) -> None:
    for part, numbers in (("train2014", range(9, 15)), ("val2014", range(19, 23))):
        asked, answered = [], []
        for number in numbers:
            _coco_image(folder, part, number)
            for k, (question, answer) in enumerate(QUESTIONS):
                of = {"image_id": number, "question_id": 1000 * number + k}
                asked.append({**of, "question": question})
                kind = "yes/no" if answer == "yes" else "number" if answer.isdigit() else "other"
                said = enumerate([answer] * 8 + ["no"] * 2, 1)
                people = [{"answer": each, "answer_confidence": "yes", "answer_id": n} for n, each in said]
                answered.append({
                    **of, "answers": people, "answer_type": kind, "multiple_choice_answer": answer,
                    "question_type": " ".join(question.split()[:2]).lower(),
                })  # fmt: skip
        common = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": part}
        _json(
            folder / f"v2_OpenEnded_mscoco_{part}_questions.json",
            {**common, "task_type": "Open-Ended", "questions": asked},
        )
        _json(folder / f"v2_mscoco_{part}_annotations.json", {**common, "annotations": answered})


WRITERS: dict[str, Callable[[Path], None]] = {
    "imagenet": _imagenet, "caltech101": _caltech101, "oxford_pets": _oxford_pets, "stanford_cars": _stanford_cars,
    "flowers102": _flowers102, "food101": _food101, "fgvc_aircraft": _fgvc_aircraft, "sun397": _sun397, "dtd": _dtd,
    "eurosat": _eurosat, "ucf101": _ucf101, "imagenetv2": _imagenetv2, "imagenet_sketch": _imagenet_sketch,
    "imagenet_a": _imagenet_a, "imagenet_r": _imagenet_r, "coco": _coco, "flickr30k": _flickr30k, "nocaps": _nocaps,
    "vqa2": _vqa2,
}  # fmt: skip
"""Name of a known data set -> what writes its stand-in into an empty folder."""
