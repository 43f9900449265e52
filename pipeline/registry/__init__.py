"""Known data sets by name: layout, class names and templates, so that `pipeline ingest NAME` needs no settings."""

from pathlib import Path
from typing import Any

from pipeline.registry.cards import Card, Item, card, cards
from stages.command import say
from stages.errors import UserError
from stages.params import DataParams
from stages.text import counted

__all__ = ["Card", "Item", "card", "cards", "elsewhere", "prepare"]


def prepare(dataset: str, source: str, data: DataParams) -> tuple[str, DataParams]:
    """What `ingest` reads for a data set: of a known one the card fills in what the user's settings leave open.

    The rule, for a known name and a source that is a folder:
    1. it holds one of the card's marks: it is meant to be this data set, and all of the layout has to be there;
    2. its class folders are called as this data set calls them: class names and templates come from the card;
    3. anything else is the user's own data under that name, read as it is, and a line says so; but for a folder in
       which the data set lies deeper.

    Args:
        dataset: name of the data set; an unknown one passes through.
        source: as the user gave it; anything but a folder passes through, a file with a line that says so.
        data: the user's settings; every field that they set is kept.

    Returns:
        The source to read, and the settings to read it with.

    Raises:
        UserError: a marked folder lacks something, and the line says what, and where to get it; or the data set lies in
            a folder below.
    """
    known, folder = card(dataset), Path(source)
    if known is None or not folder.exists():
        return source, data
    if not folder.is_dir():
        say(
            f"{dataset}: {source} is a file, read as it is, without the split and names of {known.title}: {_how(known)}"
        )
        return source, data
    if known.marked(folder):
        missing = known.check(folder)
        if missing:
            raise UserError(
                f"{source}: not the whole of {known.title}: {'; '.join(missing)}{known.told_addresses()}. To read it "
                f"as data of your own give it another name than {dataset}"
            )
        fields = known.data(folder)
        return fields["source"], _filled(data, fields)
    if known.named_folders(folder):
        say(f"{dataset}: the class folders are those of {known.title}: its class names and templates are taken")
        return source, _filled(data, {"class_names": known.class_names, "templates": known.templates})
    if lacking := elsewhere(known, folder):
        raise UserError(f"{source}: {lacking} ({_how(known)} says what has to lie where)")
    above = folder.resolve().parent
    part = f"; for that give --source {above}, of which it is a part" if known.marked(above) else ""
    say(f"{dataset}: {source} is not laid out as {known.title}: read as it is (see {_how(known)}{part})")
    return source, data


def _how(known: Card) -> str:
    return f"`pipeline datasets {known.name} --how`"


def elsewhere(known: Card, folder: Path) -> str | None:
    """Why a folder without a mark of a data set can be nobody's own data either; None where it may be."""
    if not any(folder.iterdir()):
        return "an empty folder"
    if other := next((name for name in known.other_versions if (folder / name).is_dir()), None):
        return f"{other} is another version of {known.title}"
    if deeper := known.deeper(folder):
        levels = counted(len(deeper.parts) - len(folder.parts), "folder", "folders")
        return f"{known.title} lies {levels} deeper: --source {deeper}"
    return None


def _filled(data: DataParams, fields: dict[str, Any]) -> DataParams:
    """The settings with these fields where the user set none."""
    return DataParams.model_validate({**fields, **data.model_dump(exclude_unset=True)})
