"""From a source to its part: a data set or some of its images, prompts of a data set, a folder of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from stages.errors import UserError, nearest
from stages.names import is_left_behind, slug
from stages.numbers import Shots, amount
from stages.params import Params
from stages.text import counted, read_text
from trainer.compose.parts import About, Part, prints_of
from trainer.compose.sums import image_sums, text_sums
from trainer.data import ClassText, Images, Task
from trainer.data.draws import few_shot, fewer, select
from trainer.data.features import Features, load_features
from trainer.runs.choice import AT

if TYPE_CHECKING:
    from trainer.predict import ImageEncoder


@dataclass(frozen=True)
class Asked:
    """NAME=SOURCE of a command line.

    Attributes:
        name: of the part.
        source: `DATASET`, `DATASET@PROMPTS`, `DATASET:FILE` or a folder.
    """

    name: str
    source: str


def asked_of(text: str) -> Asked:
    """NAME=SOURCE.

    Raises:
        UserError: (exit code 2) it is written otherwise, or the name cannot be a folder.
    """
    name, sign, source = text.partition("=")
    if not sign or not name or not source:
        raise UserError(
            f"{text!r:.80}: expected NAME=SOURCE, such as shop=photos/ or words=textile@written", exit_code=2
        )
    if slug(name) != name:
        raise UserError(f"part name {name!r:.60}: use letters, digits, '.', '_' or '-'", exit_code=2)
    return Asked(name, source)


def dataset_part(
    asked: Asked, dataset: str, params: Params, *, cache: Path, ids: Path | None = None, prompts: str | None = None,
    shots: Shots = "all", seed: int = 1,
) -> tuple[Part, list[str]]:  # fmt: skip
    """The part of a data set: its training images, those of them that a file names, or its prompts of a source.

    Args:
        ids: a text file, one image_id a line.
        prompts: a prompt source; then no image is read.
        shots: training images a class, drawn by seed.

    Returns:
        the part, and lines to say.

    Raises:
        UserError: see `trainer.data.features.load_features`; an id that is no training image; no image left.
    """
    sources = [] if prompts is None else [slug(prompts)]
    features = load_features(cache, dataset, params.encoder, device="cpu", sources=sources)
    about = {
        "made_from": asked.source, "dataset": dataset, "encoder": features.encoder, "width": features.width,
        "encoder_fingerprint": features.encoder_fingerprint, "names": features.class_names,
        "contents": features.contents, "notes": features.notes, "shots": shots, "seed": seed,
    }  # fmt: skip
    if prompts is not None:
        text = text_sums(features.text[slug(prompts)], templates=False, prompts=True)
        return Part(asked.name, About(**about), None, None, _none(features.width), text, _no_prints()), []
    images, val, lines = _images(features, ids, shots, seed, up_to=params.evaluation.up_to)
    named = features.text["none"]
    if features.has_templates:
        about["templates"] = features.templates
    return image_part(asked.name, about, named, images, val, seed=seed), lines


def _images(
    features: Features, ids: Path | None, shots: Shots, seed: int, *, up_to: bool
) -> tuple[Images, Images, list[str]]:
    """The images of a part and those to choose by; classes without any of them are gone with `About.names`."""
    if ids is None:
        train, val = few_shot(features, shots, seed=seed, up_to=up_to)
        counts = features.train.images.labels.bincount(minlength=len(features.class_names)).tolist()
        short = "" if shots == "all" else fewer(counts, shots, features.class_names)
        said = [f"{features.dataset}, {amount(shots, up_to=up_to)}: {short}"] if short else []
        return train.centre_crops(), val.centre_crops(), said
    wanted = [line.strip() for line in read_text(ids).splitlines() if line.strip()]
    known = {image_id: i for i, image_id in enumerate(features.train.image_ids)}
    strange = [image_id for image_id in wanted if image_id not in known]
    if strange:
        raise UserError(
            f"{ids}: {counted(len(strange), 'id is', 'ids are')} no training image of {features.dataset} (first: "
            f"{strange[0]!r:.80}); a test or validation image is never learned from"
        )
    if not wanted:
        raise UserError(f"{ids}: no image_id in it; expected one a line")
    rows = sorted({known[image_id] for image_id in wanted})
    twice = len(wanted) - len(rows)
    lines = [f"{ids}: {counted(twice, 'id')} named more than once"] if twice else []
    taken = features.train.take(np.array(rows)).centre_crops()
    return taken, features.val.images.centre_crops(), lines


def image_part(name: str, about: dict[str, object], text: ClassText, images: Images, val: Images, *, seed: int) -> Part:
    """The part of labelled images, of the classes that have some."""
    there = sorted(set(images.labels.tolist()))
    position = {label: i for i, label in enumerate(there)}
    text = text.select(there)
    train = _relabelled(images, position)
    selection = select(Task(text, train, _relabelled(val, position)), seed=seed)
    width = int(text.template.shape[1])
    whole = image_sums(train, len(there), width=width)
    choosing = image_sums(selection.train, len(there), width=width) if selection.held_out else whole
    judges = _none(width) if selection.val is None else selection.val.centre_crops()
    words = text_sums(text, templates=True, prompts=False) if text.is_text else None
    made = About.model_validate(about | {"names": text.names, "chosen_on": selection.note})
    return Part(name, made, whole, choosing, judges, words, prints_of(train))


def _relabelled(images: Images, position: dict[int, int]) -> Images:
    """The images of some labels, counted anew."""
    kept = [i for i, label in enumerate(images.labels.tolist()) if label in position]
    taken = images.take(torch.tensor(kept, dtype=torch.long))
    return Images(
        taken.embeddings, torch.tensor([position[label] for label in taken.labels.tolist()], dtype=torch.long)
    )


def _none(width: int) -> Images:
    return Images(torch.zeros(0, width), torch.zeros(0, dtype=torch.long))


def _no_prints() -> torch.Tensor:
    return torch.zeros(0, dtype=torch.int64)


def folder_part(
    asked: Asked, folder: Path, encoder: ImageEncoder, *, templates: Sequence[str], batch: int, seed: int = 1
) -> tuple[Part, list[str]]:
    """The part of a folder with one folder of images a class, embedded here.

    Args:
        encoder: that of the other parts; its `encode_text` names the classes.
        templates: sentences that name a class, one `{}` each.

    Returns:
        the part, and lines on images that could not be read.

    Raises:
        UserError: no class folder, or no readable image.
    """
    from trainer.new_classes import class_text
    from trainer.predict import embed_files, find_images

    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not is_left_behind(p.name))
    if not folders:
        raise UserError(f"{folder}: no class folder in it; expected {folder}/CLASS/IMAGE")
    files = [(label, file) for label, each in enumerate(folders) for file in find_images([each])]
    rows, labels, bad = [], [], []
    of = {str(file): label for label, file in files}
    for found in embed_files([file for _, file in files], encoder, batch=batch, what=f"embedding {folder}"):
        bad += [row for row in found.rows if row["error"]]
        if found.readable:
            rows.append(found.images)
            labels += [of[row["path"]] for row in found.readable]
    if not rows:
        raise UserError(f"{folder}: none of {counted(len(files), 'image')} could be read ({bad[0]['error']})")
    lines = []
    if bad:
        lines.append(
            f"{folder}: {counted(len(bad), 'image')} could not be read and "
            f"{'is' if len(bad) == 1 else 'are'} left out (first: {bad[0]['path']}: {bad[0]['error']})"
        )
    images = Images(torch.cat(rows), torch.tensor(labels, dtype=torch.long))
    text = class_text([each.name for each in folders], templates, {}, encoder)
    empty = sorted(set(range(len(folders))) - set(labels))
    if empty:
        lines.append(f"{folder}: no readable image of {', '.join(folders[i].name for i in empty)[:200]}: left out")
    about: dict[str, object] = {
        "made_from": asked.source, "dataset": folder.name, "encoder": encoder.name, "width": encoder.width,
        "encoder_fingerprint": encoder.fingerprint, "templates": tuple(templates),
        "notes": (encoder.note,) if encoder.note else (),
        "seed": seed,
    }  # fmt: skip
    return image_part(asked.name, about, text, images, _none(encoder.width), seed=seed), lines


def split_source(source: str, datasets: Sequence[str]) -> tuple[str | None, str | None, Path | None]:
    """(data set, prompt source, file of ids) of a source; no data set where it is a folder.

    Raises:
        UserError: it is neither.
    """
    if source in datasets:
        return source, None, None
    dataset, at, prompts = source.rpartition(AT)
    if at and dataset in datasets:
        return dataset, prompts, None
    dataset, colon, ids = source.partition(":")
    if colon and dataset in datasets:
        return dataset, None, Path(ids)
    if Path(source).is_dir():
        return None, None, None
    raise UserError(
        f"{source!r:.80} is neither a data set of the cache ({nearest(source, list(datasets))}) nor a folder of class "
        "folders"
    )
