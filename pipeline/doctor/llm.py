"""Whether the settings' language model can be asked, without loading, converting or downloading it."""

import glob
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.check import Check, size
from pipeline.doctor.hub import Hub
from pipeline.prompts.engines.server import find_served
from pipeline.prompts.gguf_files import GROWTH, is_gguf, models_folder, packaged_gguf
from pipeline.prompts.hub import OFFLINE
from pipeline.prompts.llms import PACKAGED, known_aliases, target_of
from pipeline.registry import card
from stages import ManifestStore, PromptStore, UserError, nearest
from stages.extras import installed, mend
from stages.params import Params

SECONDS = 3.0


SPEAKING = ("captioning", "vqa")
"""Protocols with a language model of their own, `train.language.llm`."""


@dataclass(frozen=True)
class LlmCheck:
    """The finding; whether a data set still has to be asked about; bytes to fetch and to write beside the models.

    Attributes:
        weights: bytes of the weights, where they are known.
    """

    check: Check
    needed: bool
    download: int | None = None
    convert: int = 0
    weights: int | None = None


def check_llm(params: Params, cache: Path, hub: Hub) -> LlmCheck:
    """Whether the LLM is packaged, a folder, in the hub's cache, to be downloaded, or served by a server.

    Where every data set has its prompts already, a model that cannot be had is a note and no fault.
    """
    llm = params.prompts.llm
    asked = [dataset for dataset in params.datasets if _has_classes(dataset, cache)]
    needed = any(not PromptStore(cache, dataset, llm).exists() for dataset in asked)
    found = _server(llm, params) if params.prompts.server.url else _local_or_hub(llm, params, hub)
    check, download, convert = found
    if check.state == "fault" and not needed:
        check = Check(check.name, "note", f"{check.text}; every data set has its prompts already")
    weights = None if params.prompts.server.url else download or weights_of(target_of(llm, params.llms), hub)
    return LlmCheck(check, needed, download, convert, weights)


def check_speaking(params: Params, cache: Path, hub: Hub) -> LlmCheck | None:
    """The same for the language model of captioning and VQA; None where nobody asks for these, or it is no other."""
    llm = params.trained.language.llm
    asked = any(protocol in SPEAKING for protocol in params.evaluation.protocols)
    pictures = any(not _has_classes(dataset, cache) for dataset in params.stored)
    same = target_of(llm, params.llms) == target_of(params.prompts.llm, params.llms)
    if not asked or not pictures or (same and params.prompts.server.url is None):
        return None
    check, download, convert = _local_or_hub(llm, params, hub)
    named = Check(f"{check.name} of captioning and vqa", check.state, check.text, check.mend)
    return LlmCheck(named, True, download, convert, download or weights_of(target_of(llm, params.llms), hub))


def weights_of(target: str, hub: Hub) -> int | None:
    """Bytes of the weights of a model on this machine; None where there are none."""
    config = Path(target).expanduser() / "config.json"
    found = config if config.is_file() else hub.cached(target, "config.json") if target.count("/") == 1 else None
    files = [file for kind in ("*.safetensors", "*.bin") for file in (found.parent.glob(kind) if found else ())]
    return sum(file.stat().st_size for file in files if file.suffix == files[0].suffix) or None


def _has_classes(dataset: str, cache: Path) -> bool:
    """Whether there are classes to ask about, as far as is known: a set of captions or questions has none."""
    try:
        return bool(ManifestStore(cache, dataset).provenance().class_names)
    except UserError:  # no manifest yet
        known = card(dataset)
        return known is None or known.task == "classification"


def _local_or_hub(llm: str, params: Params, hub: Hub) -> tuple[Check, int | None, int]:
    what = f"llm {llm}"
    target = target_of(llm, params.llms)
    folder = Path(target).expanduser()
    if target == PACKAGED != llm:
        try:
            return _converted(what, packaged_gguf(), "packaged")
        except UserError as error:
            return Check(what, "fault", str(error)), None, 0
    if folder.is_file():
        if is_gguf(folder):
            return _converted(what, folder, "GGUF file")
        return Check(what, "fault", f"{folder} is a file and no GGUF file"), None, 0
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return Check(what, "ok", f"local folder {folder}"), None, 0
        return Check(what, "fault", f"{folder} holds no config.json; expected a Hugging Face model"), None, 0
    if target.count("/") != 1:
        return (
            Check(
                what,
                "fault",
                "neither an alias, nor a hub id, nor a folder or GGUF file",
                nearest(llm, known_aliases(params.llms)),
            ),
            None,
            0,
        )
    config = hub.cached(target, "config.json")
    if config is not None and _complete(config.parent):
        return Check(what, "ok", f"{target} in the hub's cache"), None, 0
    remote = hub.remote(target, _weights)
    if remote.size is None:
        return Check(what, "fault", f"{target} is not on this machine and {remote.problem}", OFFLINE), None, 0
    if remote.gated:
        mend = "accept its licence on its hub page, then `hf auth login`"
        return Check(what, "fault", f"{target} is gated", mend), None, 0
    text = f"{target}: {size(remote.size)} will be downloaded to {hub.cache}"
    return Check(what, "note", text), remote.size, 0


def _converted(what: str, gguf: Path, kind: str) -> tuple[Check, int | None, int]:
    parent, bytes_ = models_folder(), GROWTH * gguf.stat().st_size
    if any(parent.glob(f"{glob.escape(gguf.stem.split('.')[0])}-*/config.json")):
        return Check(what, "ok", f"{kind}, converted in {parent}"), None, 0
    text = f"{kind}; the first use converts it into {parent} (about {size(bytes_)})"
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        return Check(what, "fault", f"converting needs {', '.join(missing)}", 'pip install "aape[demo]"'), None, 0
    return Check(what, "note", text), None, bytes_


def _weights(files: list[str]) -> list[str]:
    """What of a model's files is loaded: safetensors where there are any, and the small files beside them."""
    top = [name for name in files if "/" not in name]
    kinds = [[name for name in top if name.endswith(suffix)] for suffix in (".safetensors", ".bin")]
    small = [name for name in top if name.endswith((".json", ".txt", ".model", ".jinja"))]
    return next((kind for kind in kinds if kind), []) + small


def _complete(snapshot: Path) -> bool:
    """Whether a model's weights are all in the cache: those that its index names, or any at all where it has none."""
    index = snapshot / "model.safetensors.index.json"
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((snapshot / str(name)).is_file() for name in named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return any(snapshot.glob("*.safetensors")) or any(snapshot.glob("*.bin"))


def _server(llm: str, params: Params) -> tuple[Check, int | None, int]:
    server = params.prompts.server.model_copy(update={"timeout": SECONDS, "retries": 0})
    what = f"llm {llm} at {server.url}"
    if not installed("openai"):
        return Check(what, "fault", "openai is not installed", mend("openai")), None, 0
    try:
        served = find_served(llm, server, params.llms)
    except UserError as error:
        return Check(what, "fault", str(error)), None, 0
    takes = f", {served.context} tokens" if served.context else ""
    return Check(what, "ok", f"serves {served.model!r}{takes}"), None, 0
