"""Whether the images and sentences that the settings name are there."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.ingest.json_files import read_json
from pipeline.ingest.packaged import PACKAGES, PREFIX
from pipeline.registry import Card, Item, card
from pipeline.registry.how import download
from stages import ManifestStore, PromptStore, UserError
from stages.params import Params


def check_sources(params: Params, cache: Path) -> list[Check]:
    """One finding a data set, those that are only tested on too, one an import that is not there, and what to fetch."""
    checks, missing = [], {}
    for dataset in params.stored:
        source = params.of(dataset).source
        found = _laid_out(dataset, source) or _look(source)
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


def _laid_out(dataset: str, source: str | None) -> Check | None:
    """What a known data set lacks of its layout, or how its split differs; None where there is nothing to say of it."""
    known, where = card(dataset), f"`pipeline datasets {dataset} --how` says what has to lie where"
    if known is None or source is None or _elsewhere(source):
        return None
    if not Path(source).exists():
        text = f"{source} is not there ({known.title}, {download(known.layout)})"
        return Check("", "fault", text, f"{where}, or mend data.{dataset}.source")
    missing = known.check(Path(source))
    if not known.marked(Path(source)):
        own = known.named_folders(Path(source)) or any(Path(source).glob("*.parquet"))
        if own or not missing:
            return None
        text = f"{source} is there, and nothing in it says that it is {known.title}: {'; '.join(missing)}"
        return Check("", "note", f"{text}; it would be read as data of your own", where)
    if missing:
        text = f"{source} is not the whole of {known.title}: {'; '.join(missing)}"
        return Check("", "fault", f"{text}; {download(known.lacking(Path(source)))}", where)
    if known.names == "split file" and (differs := _split_differs(known, Path(source))):
        return Check("", "note", f"{source}: {differs}")
    return None


def _split_differs(known: Card, folder: Path) -> str | None:
    """How CoOp's split file in a folder differs from the published one; what cannot be read is for `ingest` to say."""
    try:
        rows = read_json(folder / str(known.split_file))
        counts = {split: len(rows[split]) for split in ("train", "val", "test")}
        return known.differs(len({row[1] for split in counts for row in rows[split]}), counts)
    except (UserError, LookupError, TypeError):
        return None


def _look(source: str | None) -> Check:
    if source is None:
        return Check("", "fault", "no source", "give data.NAME.source in the settings file")
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        if name in PACKAGES and find_spec(PACKAGES[name][0]) is not None:
            return Check("", "ok", f"{source} is installed")
        return Check("", "fault", f"{source} is not installed", 'pip install "aape[demo]"')
    if Path(source).exists():
        return Check("", "ok", f"{source} is there")
    if source.startswith("hf:") or "{" in source:
        return Check("", "note", f"{source}: looked for when `pipeline ingest` runs")
    return Check("", "fault", f"{source} is not there", "mend data.NAME.source in the settings file")
