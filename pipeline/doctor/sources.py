"""Whether the images and sentences that the settings name are there."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.doctor.looks import look_into
from pipeline.ingest import find_reader
from pipeline.ingest.folders import FolderReader
from pipeline.ingest.from_features import is_features
from pipeline.ingest.packaged import PACKAGES, PREFIX
from pipeline.ingest.published import refuse_bare_images
from pipeline.registry import Card, Item, card, elsewhere, prepare
from pipeline.registry.how import download
from stages import ManifestStore, PromptStore, UserError
from stages.params import DataParams, Params


def check_sources(params: Params, cache: Path) -> list[Check]:
    """One finding a data set, those that are only tested on too, one an import that is not there, and what to fetch."""
    checks, missing = [], {}
    for dataset in params.stored:
        source = params.of(dataset).source
        found = _laid_out(dataset, source, params.of(dataset)) or _look(dataset, source, params.of(dataset))
        if found.state == "fault" and ManifestStore(cache, dataset).exists():
            found = Check("", "note", f"{found.text}; its manifest is there already")
        elif found.state == "fault":
            missing[dataset] = to_fetch(dataset, source)
        checks.append(Check(f"data {dataset}", found.state, found.text, found.mend))
    if len(missing) > 1:
        text = f"{len(missing)} of {len(params.stored)} are not there or not whole; to download: "
        text += download([item for items in missing.values() for item in items])
        checks.append(Check("data sets", "note", text, "`pipeline datasets NAME --how` for each"))
    for item in params.imports:
        if item.dataset not in params.datasets or item.file is None or Path(item.file).is_file():
            continue
        done = PromptStore(cache, item.dataset, item.name).exists()
        text = f"{item.file} is not there" + ("; its prompts were imported already" if done else "")
        mend = "" if done else "mend imports: in the settings file"
        checks.append(Check(f"sentences {item.name} of {item.dataset}", "note" if done else "fault", text, mend))
    return checks


def to_fetch(dataset: str, source: str | None) -> list[Item]:
    """What of a known data set is still to be had; nothing where its source is no folder of its own."""
    known = card(dataset)
    if known is None or source is None or _elsewhere(source):
        return []
    return known.lacking(Path(source))


def _elsewhere(source: str) -> bool:
    """Whether a source is no path, or one of many."""
    return "{" in source or source.startswith((PREFIX, "hf:"))


def _laid_out(dataset: str, source: str | None, settings: DataParams) -> Check | None:
    """What a known data set lacks, or how it differs from the published; None where there is nothing to say of it."""
    known, where = card(dataset), f"`pipeline datasets {dataset} --how` says what has to lie where"
    if known is None or source is None or _elsewhere(source):
        return None
    folder = Path(source)
    if not folder.exists():
        text = f"{source} is not there ({known.title}, {download(known.layout)})"
        return Check("", "fault", text, f"{where}, or mend data.{dataset}.source")
    if not folder.is_dir():
        return None
    missing = known.check(folder)
    if not known.marked(folder):
        return _unmarked(known, folder, missing, where)
    if missing:
        text = f"{source} is not the whole of {known.title}: {'; '.join(missing)}"
        return Check("", "fault", f"{text}; {download(known.lacking(folder))}", where)
    seen = look_into(known, folder, prepare(dataset, source, settings)[1])
    if seen.fault:
        return Check("", "fault", seen.fault, where)
    return Check("", "note", seen.note) if seen.note else None


def _unmarked(known: Card, folder: Path, missing: list[str], where: str) -> Check | None:
    """What is to be said of a folder that nothing shows to be the data set."""
    try:
        reader = find_reader(str(folder))
        if isinstance(reader, FolderReader):
            refuse_bare_images(known.name, str(folder))
    except UserError as error:
        return Check("", "fault", str(error), where)
    if text := elsewhere(known, folder):
        return Check("", "fault", f"{folder}: {text}", where)
    own = known.named_folders(folder) or any(folder.glob("*.parquet"))
    if own or not missing:
        return None
    text = f"{folder} is there, and nothing in it says that it is {known.title}: {'; '.join(missing)}"
    return Check("", "note", f"{text}; it would be read as data of your own", where)


def _look(dataset: str, source: str | None, settings: DataParams) -> Check:
    if source is None:
        return Check("", "fault", "no source", f"give data.{dataset}.source in the settings file")
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        if name in PACKAGES and find_spec(PACKAGES[name][0]) is not None:
            return Check("", "ok", f"{source} is installed")
        return Check("", "fault", f"{source} is not installed", 'pip install "aape[demo]"')
    if Path(source).is_file():
        return _file(dataset, source, settings)
    if Path(source).exists():
        return Check("", "ok", f"{source} is there")
    if source.startswith("hf:") or "{" in source:
        return Check("", "note", f"{source}: looked for when `pipeline ingest` runs")
    return Check("", "fault", f"{source} is not there", f"mend data.{dataset}.source in the settings file")


def _file(dataset: str, source: str, settings: DataParams) -> Check:
    """A file, which is of a kind that is understood or a fault."""
    if not Path(source).stat().st_size:
        return Check("", "fault", f"{source} is an empty file", f"mend data.{dataset}.source in the settings file")
    try:
        if not is_features(source, settings):
            find_reader(source)
    except UserError as error:
        return Check("", "fault", str(error))
    return Check("", "ok", f"{source} is there")
