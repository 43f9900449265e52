"""The command line application and what several of its commands say."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stages.command import App, say
from stages.errors import UserError, nearest

if TYPE_CHECKING:
    from stages.params import Params


def _place(name: str, path: Path, reads: bool) -> Path:
    from stages.stores.remote import local

    return local(name, path, reads)


app = App(
    place=_place,
    help="Stage one: images, questions, a language model and an image-text encoder to Parquet stores in cache/.",
)

CACHE = Path("cache")


SplitFolderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--split-folder",
        help="A folder that is a split: FOLDER=train, =val or =test; `none`: folders called so are classes.",
        metavar="FOLDER=SPLIT",
    ),
]


def pairs(flag: str, given: list[str], form: str) -> dict[str, str]:
    """`image=FILE` as a mapping.

    Raises:
        UserError: no `=`, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in found:
            raise UserError(f"{flag} {text!r}: expected {form}, each name once", exit_code=2)
        found[name] = value
    return found


def split_folders(given: list[str] | None) -> dict[str, str] | None:
    """`--split-folder training_set=train` as the setting `split_folders`; None where the flag was not given.

    Raises:
        UserError: not of this form, or no such split.
    """
    from stages.stores.artifacts import SPLITS

    if not given or given == ["none"]:
        return {} if given else None
    found = pairs("--split-folder", given, "FOLDER=SPLIT (train, val or test), or `none` alone")
    for folder, split in found.items():
        if split not in SPLITS:
            raise UserError(f"--split-folder {folder}={split}: {nearest(split, list(SPLITS))}", exit_code=2)
    return found


def list_some(
    what: str, items: list[str], most: int = 10, *, all_at: str = '`pipeline sql "SELECT * FROM manifest"`'
) -> None:
    """The first few of a list of findings, and where the rest can be seen."""
    if items:
        say(f"{len(items)} {what}:")
        for item in items[:most]:
            say(f"  {item}")
        if len(items) > most:
            say(f"  ... and {len(items) - most} more (see {all_at})")


def take_from_arrays(
    names: list[str],
    what: Literal["prompts", "text", "images"],
    settings: "Params",
    cache: Path,
    *,
    asked: str | None = None,
) -> list[str]:
    """Take this part of the data sets that came as embeddings from their files; the names of the other data sets.

    Args:
        asked: the encoder that was named on the line.

    Raises:
        UserError: a data set without a manifest, or with embeddings of another encoder; see `pipeline.features.take`.
    """
    from stages import ManifestStore
    from stages.stores.artifacts import refuse_other_encoder

    refuse_other_encoder(cache, names, asked)
    others = []
    for name in names:
        if not ManifestStore(cache, name).provenance().from_arrays:
            others.append(name)
            continue
        from pipeline.features import take

        lines = take(name, what, data=settings.of(name), cache=cache, embed=settings.embed)
        for line in lines or [f"no {what} came with its embeddings, and nothing can be embedded beside them here"]:
            say(f"{name}: {line}")
    return others


def say_note(note: str) -> None:
    """The honest line about an encoder or a language model, where there is one."""
    if note:
        say(f"note: {note}")
