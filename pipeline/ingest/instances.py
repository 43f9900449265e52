"""COCO's `instances_*.json`: the categories of the objects in an image are its classes; boxes are left aside."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.ingest.captions import CocoImage
from pipeline.ingest.json_files import checked
from pipeline.ingest.places import Places
from pipeline.ingest.records import Records


@dataclass(slots=True)
class Category:
    """One class of a file."""

    id: int | str
    name: str


@dataclass(slots=True)
class Instance:
    """One object in an image."""

    image_id: int | str
    category_id: int | str


@dataclass(slots=True)
class Instances:
    """`instances_val2017.json`, and the exports of labelling tools."""

    images: list[CocoImage]
    categories: list[Category]
    annotations: list[Instance]


def is_instances(raw: Any) -> bool:
    """An object with images, categories, and annotations that name one of them."""
    if not isinstance(raw, dict) or not isinstance(raw.get("categories"), list) or not raw["categories"]:
        return False
    first = next(iter(raw.get("annotations") or [None]), None)
    return isinstance(first, dict) and "category_id" in first


def add_instances(records: Records, raw: Any, places: Places, *, where: str, split: str | None) -> None:
    """Take a file's images and the categories in each; an image without any object is one of none of the classes.

    Raises:
        ValueError: an object of an image or a category that the file does not list, or a category listed twice.
        UserError: see `checked`.
    """
    found = checked(Instances, raw, where=where)
    names = {category.id: category.name.strip() for category in found.categories}
    if len(names) < len(found.categories):
        twice = next(c.id for c in found.categories if sum(o.id == c.id for o in found.categories) > 1)
        raise ValueError(f"categories: the id {twice!r} stands there twice")
    records.order([names[category.id] for category in found.categories], where=where)
    hints = sorted(places.folders_like(("train", "val", "test")), key=lambda folder: folder not in Path(where).name)
    labels: dict[int | str, dict[str, None]] = {image.id: {} for image in found.images}
    for number, each in enumerate(found.annotations):
        if each.image_id not in labels:
            raise ValueError(f"annotations.{number}: no image has the id {each.image_id!r}")
        if each.category_id not in names:
            raise ValueError(f"annotations.{number}: no category has the id {each.category_id!r}")
        labels[each.image_id][names[each.category_id]] = None
    for image in found.images:
        path = places.find(image.file_name, hints=hints)
        records.paths[image.id] = path
        records.add(path, split=split, labels=list(labels[image.id]))
