"""The head of one source on disk: `part.safetensors` with its sums, `part.json` with what it was made from.

No image is in it but those that choices are made on, as embeddings.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from stages.errors import UserError
from stages.files import replaced_folder, write_bytes, write_text
from trainer.compose.sums import ImageSums, TextSums
from trainer.data import Images

TENSORS, RECORD, PARTS = "part.safetensors", "part.json", "parts"


class About(BaseModel):
    """What a part was made from.

    Attributes:
        made_from: as the user wrote it.
        dataset: the data set, or the folder.
        contents: store -> hash of its rows, where it came from stores.
        shots, seed: how its images were drawn, and those that choices are made on.
        chosen_on: which images choices are made on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    made_from: str
    dataset: str
    encoder: str
    encoder_fingerprint: str
    width: int
    names: tuple[str, ...]
    templates: tuple[str, ...] = ()
    contents: dict[str, str] = {}
    shots: int | Literal["all"] = "all"
    seed: int | None = None
    chosen_on: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """The head of a source.

    Attributes:
        name: as the user calls it.
        images: the sums over its images; None of a source of words.
        choosing: those over the images that it learns from while choices are made; the same where none was held out.
        judges: images that choices are made on.
        text: the sums over its words; None where it has none.
        prints: a hash of each image, to say which ones two sources share.
    """

    name: str
    about: About
    images: ImageSums | None
    choosing: ImageSums | None
    judges: Images
    text: TextSums | None
    prints: Int[Tensor, " B"]


def save_part(part: Part, folder: Path) -> None:
    """Write a part in one step.

    Raises:
        UserError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {
        "judges": part.judges.embeddings, "judge_labels": part.judges.labels, "prints": part.prints
    }  # fmt: skip
    for key, each in (("images", part.images), ("choosing", part.choosing), ("text", part.text)):
        if each is not None and not (key == "choosing" and each is part.images):
            tensors |= {f"{key}.{name}": value for name, value in vars(each).items()}
    blob = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    record = part.about.model_dump(mode="json") | {"tensors_sha256": hashlib.sha256(blob).hexdigest()}
    record["sha256"] = _digest(record)
    with replaced_folder(folder) as new:
        write_bytes(new / TENSORS, blob)
        write_text(new / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def load_part(folder: Path) -> Part:
    """Read a part back.

    Raises:
        UserError: it is missing, damaged or changed.
    """
    place = folder / RECORD
    mend = f"delete {folder} and make the part again"
    try:
        record, blob = json.loads(place.read_bytes()), (folder / TENSORS).read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror or error}): {mend}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is no JSON ({error}): {mend}") from error
    if not isinstance(record, dict) or record.pop("sha256", None) != _digest(record):
        raise UserError(f"{place}: was changed since it was written: {mend}")
    if record.pop("tensors_sha256", None) != hashlib.sha256(blob).hexdigest():
        raise UserError(f"{folder / TENSORS}: was cut off or changed: {mend}")
    try:
        about, tensors = About.model_validate(record), load(blob)
        images, choosing = (
            ImageSums(*(tensors[f"{key}.{n}"] for n in ("counts", "sums", "scatter")))
            if f"{key}.sums" in tensors
            else None
            for key in ("images", "choosing")
        )
        text = None
        if "text.template" in tensors:
            text = TextSums(*(tensors[f"text.{n}"] for n in ("template", "templates", "prompts", "said")))
        judges = Images(tensors["judges"], tensors["judge_labels"])
        return Part(folder.name, about, images, choosing or images, judges, text, tensors["prints"])
    except (ValidationError, KeyError, ValueError) as error:
        raise UserError(f"{place}: made by another version ({' '.join(str(error).split())[:120]}): {mend}") from error


def prints_of(images: Images) -> Int[Tensor, " B"]:
    """Eight bytes of a hash of each embedding."""
    rows = images.embeddings.half().cpu().contiguous().numpy()
    found = [
        int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True) for row in rows
    ]
    return torch.tensor(found, dtype=torch.int64)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
