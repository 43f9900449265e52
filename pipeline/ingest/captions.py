"""Captions as COCO, NoCaps and Karpathy's splits write them, in JSON; captions in tables are `tables`' business."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.ingest.json_files import checked
from pipeline.ingest.places import Places
from pipeline.ingest.records import Records
from pipeline.ingest.splits import split_named


@dataclass(slots=True)
class CocoImage:
    """One image of a COCO file."""

    id: int | str
    file_name: str


@dataclass(slots=True)
class CocoCaption:
    """One caption of a COCO file."""

    image_id: int | str
    caption: str | None
    id: int | str | None = None


@dataclass(slots=True)
class Coco:
    """`captions_val2017.json`, `nocaps_val_4500_captions.json`; a file of images alone has no annotations."""

    images: list[CocoImage]
    annotations: list[CocoCaption] = field(default_factory=list)


@dataclass(slots=True)
class Sentence:
    """One caption of Karpathy's files."""

    raw: str | None


@dataclass(slots=True)
class KarpathyImage:
    """One image of Karpathy's files."""

    filename: str
    split: str
    sentences: list[Sentence]
    filepath: str = ""
    cocoid: int | None = None


@dataclass(slots=True)
class Karpathy:
    """`dataset_coco.json`, `dataset_flickr30k.json`: captions with the split that retrieval is measured on."""

    images: list[KarpathyImage]


def is_coco(raw: Any) -> bool:
    """An object with images that have a file name."""
    return _first_image_has(raw, "file_name")


def is_karpathy(raw: Any) -> bool:
    """An object with images that have sentences."""
    return _first_image_has(raw, "sentences")


def _first_image_has(raw: Any, key: str) -> bool:
    images = raw.get("images") if isinstance(raw, dict) else None
    return isinstance(images, list) and bool(images) and isinstance(images[0], dict) and key in images[0]


def add_coco(records: Records, raw: Any, places: Places, *, where: str, split: str | None) -> None:
    """Take a COCO file's images and captions; images are looked for in the folder that its name has (`val2017`)."""
    coco = checked(Coco, raw, where=where)
    hints = sorted(places.folders_like(("train", "val", "test")), key=lambda folder: folder not in Path(where).name)
    captions: dict[int | str, list[str | None]] = {}
    for number, image in enumerate(coco.images):
        if image.id in captions:
            raise ValueError(f"images.{number}: the id {image.id!r} stands there twice; keep one")
        captions[image.id] = []
    known: set[tuple[int | str, int | str, str | None]] = set()
    twice = 0
    for number, note in enumerate(coco.annotations):
        if note.image_id not in captions:
            raise ValueError(f"annotations.{number}: no image has the id {note.image_id!r}")
        if note.id is not None:
            if (note.id, note.image_id, note.caption) in known:
                twice += 1
                continue
            known.add((note.id, note.image_id, note.caption))
        captions[note.image_id].append(note.caption)
    if twice:
        records.notes.append(
            f"{twice} captions stand twice in {Path(where).name}, with the same id: each is taken once"
        )
    for image in coco.images:
        path = places.find(image.file_name, hints=hints)
        records.paths[image.id] = path
        records.caption(path, captions[image.id], split=split, file=Path(where).name)


def add_karpathy(records: Records, raw: Any, places: Places, *, where: str) -> None:
    """Take the images and captions of one of Karpathy's files; `restval` is training data."""
    for image in checked(Karpathy, raw, where=where).images:
        path = places.find(image.filename, hints=[image.filepath] if image.filepath else [])
        if image.cocoid is not None:
            records.paths[image.cocoid] = path
        sentences = [sentence.raw for sentence in image.sentences]
        records.caption(path, sentences, split=split_named(image.split), file=Path(where).name)
