"""Known data sets by name: layout, class names and templates, so that `pipeline ingest NAME` needs no settings."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.registry.cards import Card, Item, card, cards
from stages.command import say
from stages.errors import UserError
from stages.params import DataParams

if TYPE_CHECKING:
    from pipeline.ingest.base import Listing

__all__ = ["Card", "Item", "as_tested", "card", "cards", "prepare"]


def prepare(dataset: str, source: str, data: DataParams) -> tuple[str, DataParams]:
    """What `ingest` reads for a data set: of a known one the card fills in what the user's settings leave open.

    The rule, for a known name and a source that is a folder:
    1. it holds one of the card's marks: it is meant to be this data set, and all of the layout has to be there;
    2. its class folders are called as this data set calls them: class names and templates come from the card;
    3. anything else is the user's own data under that name, read as it is, and a line says so.

    Args:
        dataset: name of the data set; an unknown one passes through.
        source: as the user gave it; anything but a folder passes through.
        data: the user's settings; every field that they set is kept.

    Returns:
        The source to read, and the settings to read it with.

    Raises:
        UserError: a marked folder lacks something; the line says what, and where to get it.
    """
    known, folder = card(dataset), Path(source)
    if known is None or not folder.is_dir():
        return source, data
    if known.marked(folder):
        missing = known.check(folder)
        if missing:
            raise UserError(
                f"{source}: not the whole of {known.title}: {'; '.join(missing)} ({known.addresses()}). To read class "
                "folders as data of your own, name the folder that holds nothing else"
            )
        fields = known.data(folder)
        return fields["source"], _filled(data, fields)
    if known.named_folders(folder):
        say(f"{dataset}: the class folders are those of {known.title}: its class names and templates are taken")
        return source, _filled(data, {"class_names": known.class_names, "templates": known.templates})
    say(f"{dataset}: {source} is not laid out as {known.title}: read as it is (see `pipeline datasets {known.name}`)")
    return source, data


def as_tested(dataset: str, source: str, listing: "Listing") -> "Listing":
    """The listing of a known data set with the split that the field tests on: VQA2's is its validation split.

    Args:
        source: as the user gave it; what is not laid out as the data set stays as it is.
    """
    known, folder = card(dataset), Path(source)
    has_test = any(entry.split == "test" for entry in listing.entries)
    if known is None or not known.val_is_test or has_test or not folder.is_dir() or not known.marked(folder):
        return listing
    moved = [replace(entry, split="test") if entry.split == "val" else entry for entry in listing.entries]
    note = f"its validation split serves as the test split: the test answers of {known.title} are not public"
    return replace(listing, entries=moved, notes=[*listing.notes, note])


def _filled(data: DataParams, fields: dict[str, Any]) -> DataParams:
    """The settings with these fields where the user set none."""
    return DataParams.model_validate({**fields, **data.model_dump(exclude_unset=True)})
