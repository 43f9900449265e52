"""`trainer compose` as a function: parts are made, kept beside the head, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages import ManifestStore
from stages.errors import UserError, nearest
from stages.lock import store_lock
from stages.numbers import Shots
from stages.params import Params
from stages.stores.artifacts import partition_values
from stages.text import counted
from trainer.checkpoint import RECORD as CHECKPOINT
from trainer.checkpoint import save_checkpoint
from trainer.compose.composition import Composition, compose, provenance_of
from trainer.compose.parts import PARTS, RECORD, Part, load_part, save_part
from trainer.compose.sources import Asked, asked_of, dataset_part, folder_part, split_source

if TYPE_CHECKING:
    from trainer.predict import ImageEncoder


@dataclass(frozen=True)
class Wanted:
    """What a command line asks for.

    Attributes:
        sources: NAME=SOURCE of parts to make.
        without: parts that the head leaves out.
    """

    sources: Sequence[str] = ()
    without: Sequence[str] = ()
    form: Literal["gaussian", "ridge"] = "gaussian"
    shots: Shots = "all"
    seed: int = 1
    batch: int = 64
    device: str = "auto"


@dataclass(frozen=True)
class Done:
    """What was made.

    Attributes:
        parts: each with name, source, classes, images, and whether it is in the head.
        head: what was chosen.
        lines: to say.
    """

    parts: list[dict[str, Any]]
    head: dict[str, Any]
    lines: list[str] = field(default_factory=list)


def run(to: Path, wanted: Wanted, params: Params, *, cache: Path) -> Done:
    """Make the parts, and the head of all that are in the folder but those that are left out.

    Nothing is written where any of it fails.

    Raises:
        UserError: a source that is none, a part that is there already or is not there, and see
            `trainer.compose.composition.compose`.
    """
    asked = [asked_of(text) for text in wanted.sources]
    folder = to / PARTS
    with store_lock(to, what=f"trainer compose {to}"):
        if (to / CHECKPOINT).exists() and not folder.is_dir():
            raise UserError(f"{to}: holds a checkpoint that is no composition: name another folder")
        old = [load_part(place.parent) for place in sorted(folder.glob(f"*/{RECORD}"))]
        _require_new(asked, old, folder)
        new, lines = _made(asked, old, wanted, params, cache)
        parts = sorted([*old, *new], key=lambda part: part.name)
        names = [part.name for part in parts]
        if not parts:
            raise UserError(f"{to}: there is no part yet: name one, NAME=SOURCE")
        for name in wanted.without:
            if name not in names:
                raise UserError(f"--without {name}: no such part in {to}; {nearest(name, names)}")
        used = [part for part in parts if part.name not in wanted.without]
        if not used:
            raise UserError(f"{to}: every part is left out: leave one of {', '.join(names)}", exit_code=2)
        found = compose(used, form=wanted.form)
        for part in new:
            save_part(part, folder / part.name)
        left = [name for name in names if name in wanted.without]
        save_checkpoint(to, found.predictor, found.text, provenance=provenance_of(used, found, left_out=left))
    lines += found.notes
    for name in left:
        lines.append(f"{name} is left out of the head; its part stays in {folder / name}: delete it to forget it")
    if found.validation is not None:
        lines.append(_measured(found, used))
    rows = [
        {
            "name": part.name, "source": part.about.made_from, "classes": len(part.about.names),
            "images": 0 if part.images is None else part.images.images,
            "state": "no" if part.name in left else "yes",
        }
        for part in parts
    ]  # fmt: skip
    return Done(rows, dict(found.predictor.info), lines)


def _measured(found: Composition, used: Sequence[Part]) -> str:
    """The accuracy, and of which of the classes its images are."""
    assert found.validation is not None
    judged = {part.about.names[label] for part in used for label in set(part.judges.labels.tolist())}
    names = found.text.names
    others = len(names) - len(judged)
    of = f"{len(judged)} of the {len(names)}" if others else f"all {len(names)}"
    prints = [set(part.prints.tolist()) for part in used]
    twice = any(one & other for i, one in enumerate(prints) for other in prints[:i])
    learnt = ", too high where one part learnt from what another chose on" * twice
    unseen = f"; of the other {others} nothing is measured" * bool(others)
    images = counted(sum(len(part.judges) for part in used), "image")
    return f"accuracy {found.validation[0]:.4f} on {images} of {of} classes, which alpha was chosen on{learnt}{unseen}"


def _require_new(asked: Sequence[Asked], old: Sequence[Part], folder: Path) -> None:
    names = [each.name for each in asked]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name!r} is named twice: each part has a name of its own", exit_code=2)
        for part in old:
            if part.name == name:
                raise UserError(
                    f"part {name!r} is there already, made from {part.about.made_from!r}: take another name, or delete "
                    f"{folder / name}"
                )


def _made(
    asked: Sequence[Asked], old: Sequence[Part], wanted: Wanted, params: Params, cache: Path
) -> tuple[list[Part], list[str]]:
    """The new parts, and lines to say; folders come last, since the others tell which encoder they need."""
    datasets = partition_values(cache, ManifestStore, "dataset") if asked else []
    split = {each.name: split_source(each.source, datasets) for each in asked}
    found: list[Part] = []
    lines: list[str] = []
    for each in asked:
        dataset, prompts, ids = split[each.name]
        if dataset is not None:
            part, said = dataset_part(
                each, dataset, params, cache=cache, ids=ids, prompts=prompts, shots=wanted.shots, seed=wanted.seed
            )
            found.append(part)
            lines += said
    folders = [each for each in asked if split[each.name][0] is None]
    if folders:
        known = [*old, *found]
        encoder = _encoder(known, params, wanted.device)
        templates = next((part.about.templates for part in known if part.about.templates), ("a photo of a {}.",))
        for each in folders:
            part, said = folder_part(
                each, Path(each.source), encoder, templates=templates, batch=wanted.batch, seed=wanted.seed
            )
            found.append(part)
            lines += said
    return found, lines


def _encoder(known: Sequence[Part], params: Params, device: str) -> ImageEncoder:
    """The encoder of the parts that there are, else that of the settings."""
    from trainer.predict import load_encoder_by_name

    return load_encoder_by_name(known[0].about.encoder if known else params.encoder, device=device)
