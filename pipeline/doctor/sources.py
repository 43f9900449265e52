"""Whether the images and sentences that the settings name are there."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.ingest.packaged import PACKAGES, PREFIX
from pipeline.registry import card
from stages import ManifestStore, PromptStore
from stages.params import Params


def check_sources(params: Params, cache: Path) -> list[Check]:
    """One finding a data set, and one an import that is not there."""
    checks = []
    for dataset in params.datasets:
        source = params.of(dataset).source
        found = _laid_out(dataset, source) or _look(source)
        if found.state == "fault" and ManifestStore(cache, dataset).exists():
            found = Check("", "note", f"{found.text}; its manifest is there already")
        checks.append(Check(f"data {dataset}", found.state, found.text, found.mend))
    for item in params.imports:
        if item.dataset not in params.datasets or item.file is None or Path(item.file).is_file():
            continue
        done = PromptStore(cache, item.dataset, item.name).exists()
        text = f"{item.file} is not there" + ("; its prompts were imported already" if done else "")
        mend = "" if done else "mend imports: in the settings file"
        checks.append(Check(f"sentences {item.name} of {item.dataset}", "note" if done else "fault", text, mend))
    return checks


def _laid_out(dataset: str, source: str | None) -> Check | None:
    """What a known data set lacks of its layout; None where there is nothing to say of it."""
    known, where = card(dataset), f"`pipeline datasets {dataset}` says what has to lie where"
    if known is None or source is None or "{" in source or source.startswith((PREFIX, "hf:")):
        return None
    if not Path(source).exists():
        return Check("", "fault", f"{source} is not there ({known.title})", f"{where}, or mend data.{dataset}.source")
    missing = known.check(Path(source)) if known.marked(Path(source)) else []
    if not missing:
        return None
    return Check("", "fault", f"{source} is not the whole of {known.title}: {'; '.join(missing)}", where)


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
