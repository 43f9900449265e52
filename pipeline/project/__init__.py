"""`pipeline init`: a project of one's own outside the clone, with git and DVC, ready for `dvc repro`.

The files stand in `templates/`, with `@NAME@` where something of the user's goes. Everything put in is written as a
YAML scalar, since folder and class names may hold anything.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.project import scm as version_control
from pipeline.project.text import quoted, scalar, with_settings
from pipeline.prompts.gguf_files import is_gguf
from stages.errors import UserError
from stages.files import write_text
from stages.names import dataset_name, slug
from stages.params import DataParams, Params, check, path_of, read_yaml_text

TEMPLATES = Path(__file__).with_name("templates")
DECISIONS = "decisions"
FILES = {
    "params.yaml": "params.yaml", "stages.yaml": "dvc.yaml", "gitignore": ".gitignore", "README.md": "README.md",
    "decisions.md": f"{DECISIONS}/README.md",
}  # fmt: skip
FLAGS = {
    ("datasets",): "--name", ("encoder",): "--encoder", ("prompts", "llm"): "--llm", ("data", "source"): "--source",
    ("data", "split_folders"): "--split-folder", ("data", "encoder_name"): "--encoder-name",
}  # fmt: skip
"""Settings that have an argument of their own, those of the data set without its name."""
SHOWN = 200
"""Class names listed in params.yaml, at most."""


@dataclass(frozen=True)
class Project:
    """What `init` made.

    Attributes:
        folder: where it lies.
        dataset: name of its data set.
        classes: found in the source, by its own names; empty without a source, and for sources that have none.
        files: what was written.
        said: one line on git and DVC.
    """

    folder: Path
    dataset: str
    classes: list[str]
    files: list[Path]
    said: str


def init(
    folder: Path, *, source: str | None = None, split_folders: dict[str, str] | None = None, name: str | None = None,
    llm: str = "smollm2", encoder: str = "lite", encoder_name: str | None = None, scm: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Project:  # fmt: skip
    """Make a project for one data set. No image is opened, and nothing is written before all is known to be right.

    Args:
        folder: new or empty; `.git`, `.dvc` and the source may be in it already.
        source: anything `pipeline ingest` reads; None leaves it to be filled in.
        split_folders: the setting of that name, for class folders whose splits cannot be told by looking.
        name: name of the data set; default the source's, else the folder's.
        llm: as for `--llm`.
        encoder: as for `--encoder`.
        encoder_name: who made the embeddings, where the source holds these.
        scm: False makes a DVC project without git.
        settings: further ones, written into params.yaml: setting -> value, such as `{"train.lambda": 3.0}`.

    Raises:
        UserError: (exit code 2) the folder is not empty, the name cannot be used, or a setting is one of another data
            set, is given by an argument or does not fit; (1) the source cannot be read, DVC
            is not installed, or git or DVC refuse the folder. Then nothing is left behind.
    """
    folder = folder.resolve()
    where = None if source is None else _placed(folder, source)
    _refuse_unless_empty(folder, where)
    called = dataset_name(name) if name is not None else _name_from(source, folder)
    if "." in called:
        raise UserError(f"data-set name {called!r}: DVC reads a dot as a path of settings; use '-' or '_'", exit_code=2)
    changes = _changes(called, settings or {})
    own = {path[2]: value for path, value in changes.items() if path[:2] == ("data", called)}
    own |= {key: value for key, value in (("split_folders", split_folders), ("encoder_name", encoder_name))
            if value is not None}  # fmt: skip
    names, templates = ({}, ["a photo of a {}."]) if source is None else _look(called, source, own)
    on_disk = source is not None and Path(source).exists()
    values = {
        "NAME": scalar(called),
        "SOURCE": "null" if where is None else scalar(where),
        "FOLDERS": _folder_line(split_folders) + _encoder_line(encoder_name),
        "DEPENDENCY": (scalar(where.replace("${", "\\${")) + ", " if where is not None and on_disk else "") + DECISIONS,
        "TEMPLATES": "[" + ", ".join(quoted(text) for text in templates) + "]",
        "LLM": scalar(_placed(folder, llm) if is_gguf(Path(llm)) or (Path(llm) / "config.json").is_file() else llm),
        "ENCODER": scalar(encoder_name or _placed_weights(folder, encoder)),
        "CLASSES": _class_lines(names),
    }
    texts = {
        target: re.sub(r"@([A-Z]+)@", lambda gap: values[gap[1]], (TEMPLATES / file).read_text(encoding="utf-8"))
        for file, target in FILES.items()
    }
    placed = {
        path: _placed(folder, value) if path[2:] == ("images",) and isinstance(value, str) else value
        for path, value in changes.items()
    }
    texts["params.yaml"] = with_settings(texts["params.yaml"], placed)
    check(Params, read_yaml_text(texts["params.yaml"], where="--set"), where="--set")
    start = version_control.plan(folder, scm=scm)
    with version_control.removed_on_failure(folder, [*texts, DECISIONS]):
        for target, text in texts.items():
            write_text(folder / target, text)
        version_control.run(start, folder)
    return Project(folder, called, list(names), [folder / target for target in texts], start.said)


def _placed(folder: Path, named: str) -> str:
    """A file or folder as the project's files name it: relative where it lies in the project or beside it, else whole.

    What is no file or folder, such as `hf:NAME`, stays as it is.
    """
    if not Path(named).exists():
        return named
    path, beside = Path(named).resolve(), folder.parent
    near = path.is_relative_to(folder) or (beside != Path(beside.anchor) and path.is_relative_to(beside))
    return Path(os.path.relpath(path, folder)).as_posix() if near and not folder.is_relative_to(path) else str(path)


def _placed_weights(folder: Path, encoder: str) -> str:
    """`open_clip:ARCH/FILE` with the file as the project names it."""
    kind, _, weights = encoder.partition("/")
    return f"{kind}/{_placed(folder, weights)}" if weights and Path(weights).is_file() else encoder


def _refuse_unless_empty(folder: Path, source: str | None) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; name a new or empty folder", exit_code=2)
    allowed = {*version_control.MADE, *([] if source is None else [Path(source).parts[0]])}
    found = sorted(entry.name for entry in folder.iterdir() if entry.name not in allowed)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise UserError(
            f"{folder} is not empty ({', '.join(map(repr, found[:5]))}{more}); nothing is overwritten: name a new or "
            "empty folder",
            exit_code=2,
        )


def _name_from(source: str | None, folder: Path) -> str:
    """A name made from that of the source, or of the project."""
    named = folder.name if source is None else Path(source).resolve().name if Path(source).exists() else source
    words = re.sub(r"^(package|hf):", "", named)
    return slug(Path(words).stem if Path(words).suffix else words).replace(".", "-")


def _folder_line(split_folders: dict[str, str] | None) -> str:
    if split_folders is None:
        return ""
    return "\n    split_folders: {" + ", ".join(f"{quoted(name)}: {to}" for name, to in split_folders.items()) + "}"


def _encoder_line(encoder_name: str | None) -> str:
    return "" if encoder_name is None else f"\n    encoder_name: {scalar(encoder_name)}  # as the embeddings were named"


def _changes(dataset: str, settings: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The settings by their path, those of the data set one by one."""
    found = {path_of(setting): value for setting, value in settings.items()}
    for depth in (1, 2):
        for path, value in list(found.items()):
            if path[0] == "data" and len(path) == depth and isinstance(value, dict):
                found |= {(*path, str(key)): each for key, each in value.items()}
                del found[path]
    for path in found:
        if path[0] == "data" and path[1] != dataset:
            raise UserError(
                f"--set {'.'.join(path)}: the data set of this project is {dataset!r}; write "
                f"data.{'.'.join([dataset, *path[2:]])}, or name it with --name",
                exit_code=2,
            )
        if (flag := FLAGS.get((path[0], *path[2:]) if path[0] == "data" else path)) is not None:
            raise UserError(f"--set {'.'.join(path)}: say it with {flag}", exit_code=2)
    return found


def _look(dataset: str, source: str, own: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Class names (in the source -> in sentences) and templates, as `pipeline ingest` takes them.

    Args:
        own: settings of the data set.
    """
    from pipeline.ingest import read_source
    from pipeline.ingest.base import check_listing
    from pipeline.ingest.exported import ExportedReader
    from pipeline.ingest.from_features import is_features, named_features
    from pipeline.registry import prepare

    place, data = prepare(dataset, source, check(DataParams, dict(own), where=f"data.{dataset}"))
    if ExportedReader().matches(place):
        return {}, data.templates
    if is_features(place, data):
        found, _ = named_features(dataset, place, data)
        return {name: name for name in found.class_names.values()}, data.templates
    listing = read_source(place, data.model_copy(update={"class_names": {}}))
    check_listing(source, listing)
    return {name: data.class_names.get(name, name) for name in listing.class_names.values()}, data.templates


def _class_lines(names: dict[str, str]) -> str:
    if not names:
        return "    # class_names: {}  # name in the source: name in sentences"
    lines = [
        f"    # {len(names)} classes were found. A name that says little in a sentence gets a better one here:",
        "    # class_names:",
        *(f"    #   {quoted(name)}: {quoted(shown)}" for name, shown in list(names.items())[:SHOWN]),
    ]
    return "\n".join([*lines, f"    #   ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else lines)
