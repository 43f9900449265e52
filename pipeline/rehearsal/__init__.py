"""`pipeline rehearse`: the whole of `make paper` on stand-ins, before days of a GPU are spent on it.

Into an empty folder come a tiny copy of every data set that the settings name (`sets.py`), random models in the hub's
cache layout (`models.py`), and the settings with few steps. `make paper` then runs there, unchanged and offline: what
it reads, fetches and writes goes the same ways as in the real run. The numbers mean nothing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.prompts.llms import target_of
from pipeline.rehearsal import models
from pipeline.rehearsal.sets import WRITERS, words, write_set
from stages.errors import UserError
from stages.files import user_errors
from stages.params import Params, load_params, read_yaml

MAKEFILE = Path(__file__).parents[2] / "Makefile"
FEW: dict[str, Any] = {
    # A random model says little about the classes: where nothing is kept the template stands in.
    "prompts": {"allow_empty": True},
    "evaluation": {"shots": [1, 2], "seeds": [1, 2]},
    "train": {
        "max_steps": 4,
        "lr_grid": [0.1],
        "aggregator_steps": 4,
        "language": {"epochs": 1},
        "captions": {"max_steps": 4},
    },
}
"""What is other than in the settings, beside the encoder and the answers a question."""
SETTINGS = "params.paper.yaml"
UNFINISHED = ".unfinished"
"""A file that is there while the stand-ins are being written: the names of all that is written into the folder."""
SAMPLES = 3
"""Answers a question."""


@dataclass(frozen=True)
class Rehearsal:
    """What was written, and how to run it.

    Attributes:
        folder: where the run works.
        command: words of a shell's line.
        environment: what is set beside what is there.
    """

    folder: Path
    command: list[str]
    environment: dict[str, str]


def prepare(folder: Path, settings: Path) -> Rehearsal:
    """Write stand-ins and settings into a new or empty folder, or one in which that was interrupted.

    What was written is removed again when it fails or is interrupted; `UNFINISHED` tells of one that was killed.

    Raises:
        UserError: (exit code 2) the folder is not empty, or lies in no clone of the project; the settings name a data
            set that no stand-in is known for, or a source outside the folder.
    """
    if folder.exists() and not _begun(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: name a new folder", exit_code=2)
    if not MAKEFILE.is_file():
        raise UserError("`make paper` belongs to a clone of the project: rehearse with that", exit_code=2)
    if shutil.which("make") is None:
        raise UserError("make is not on the path: install it (Debian, Ubuntu: apt-get install make)", exit_code=2)
    params = load_params(settings)
    if unknown := [name for name in params.stored if name not in WRITERS]:
        raise UserError(f"{settings}: no stand-in is known for {', '.join(unknown)}", exit_code=2)
    folder = folder.absolute()
    places = {name: Path("data") / name for name in params.stored}
    places |= {name: Path(source) for name in params.stored if _is_below(source := params.of(name).source or "")}
    new = not folder.exists()
    with user_errors(folder):
        _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).write_text("\n".join(sorted({"hub", SETTINGS, *(p.parts[0] for p in places.values())})))
    try:
        _write(folder, places, params, settings)
    except BaseException:
        _remove(folder)
        if new:
            folder.rmdir()
        raise
    make = ["make", "-f", str(MAKEFILE), "-C", str(folder), "-o", "setup", "paper"]
    return Rehearsal(folder, make, {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"})


def _begun(folder: Path) -> bool:
    """Whether the folder holds nothing but what a `prepare` that was killed wrote."""
    if not (folder / UNFINISHED).is_file():
        return False
    return {each.name for each in folder.iterdir()} <= {UNFINISHED, *(folder / UNFINISHED).read_text().split("\n")}


def _remove(folder: Path) -> None:
    """Remove what a `prepare` wrote that did not come to its end."""
    if not (folder / UNFINISHED).is_file():
        return
    for name in (folder / UNFINISHED).read_text().split("\n"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    (folder / UNFINISHED).unlink()


def _write(folder: Path, places: Mapping[str, Path], params: Params, settings: Path) -> None:
    """Data sets, models, and settings that name them; then it is finished."""
    with user_errors(folder):
        for name, place in places.items():
            write_set(name, folder / place)
        encoder = _write_models(folder / "hub", params)
        raw = _with_few(read_yaml(settings), {name: str(place) for name, place in places.items()}, encoder)
        text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
        (folder / SETTINGS).write_text(f"# {settings} on stand-ins, with few steps.\n{text}", "utf-8")
        (folder / UNFINISHED).unlink()


def run(rehearsal: Rehearsal) -> int:
    """Run it with the commands of this environment; its lines go where ours go. Gives make's exit code."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(rehearsal.command, env={**os.environ, **rehearsal.environment, "PATH": here}).returncode


def _is_below(source: str) -> bool:
    """Whether a source is a path that stays in the folder it is relative to."""
    parts = Path(source).parts
    return bool(parts) and ":" not in source and not Path(source).is_absolute() and ".." not in parts


def _write_models(hub: Path, params: Params) -> str:
    """Fill the hub's cache with stand-ins of all models that would be fetched from it.

    Returns:
        The encoder to take: that of the settings, or its cached repository, whose own config says how small it is.
    """
    encoder = params.encoder
    repo = _repository(encoder)
    if repo is not None:
        models.write_clip(models.snapshot(hub, repo))
        encoder = f"open_clip:hf-hub:{repo}"
    targets = {target_of(name, params.llms) for name in (params.prompts.llm, params.trained.language.llm)}
    for target in sorted(targets):
        if target.count("/") == 1 and not Path(target).exists():
            models.write_llama(models.snapshot(hub, target), words())
    return encoder


def _repository(encoder: str) -> str | None:
    """The hub's repository of an encoder; None where it needs none."""
    name = encoder.removeprefix("open_clip:")
    if name == encoder or name.startswith("local-dir:"):
        return None
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    from pipeline.torchvision_mend import mend_torchvision

    mend_torchvision()
    from open_clip.pretrained import get_pretrained_cfg

    arch, _, tag = name.partition("/")
    return str(get_pretrained_cfg(arch, tag).get("hf_hub", "")).rpartition("/")[0] or None


def _with_few(raw: dict[str, Any], places: Mapping[str, str], encoder: str) -> dict[str, Any]:
    """The settings as they stand in the file, with `FEW`, the encoder, and the sources of the stand-ins."""
    changed = {**raw, "encoder": encoder}
    changed["data"] = {**raw.get("data", {})}
    for name, place in places.items():
        changed["data"][name] = {**changed["data"].get(name, {}), "source": place, "samples": SAMPLES}
    return _merged(changed, FEW)


def _merged(raw: Mapping[str, Any], few: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the values of `few`, section by section."""
    values = {key: _merged(raw.get(key) or {}, v) if isinstance(v, Mapping) else v for key, v in few.items()}
    return {**raw, **values}
