"""Whether the settings' language model can be asked, without loading, converting or downloading it."""

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.check import Check, size
from pipeline.doctor.hub import Hub
from pipeline.prompts.llms import PACKAGED, known_aliases, models_folder, packaged_gguf, target_of
from stages import PromptStore, UserError, nearest
from stages.extras import installed, mend
from stages.params import Params, ServerParams

CONVERTED = 270_000_000
"""Bytes of the packaged model once it is converted."""
OFFLINE = "connect, or use --llm smollm2, or a local folder with the model"
SECONDS = 3


@dataclass(frozen=True)
class LlmCheck:
    """The finding; whether a data set still has to be asked about; bytes to fetch and to write beside the models."""

    check: Check
    needed: bool
    download: int | None = None
    convert: int = 0


def check_llm(params: Params, cache: Path, hub: Hub) -> LlmCheck:
    """Whether the LLM is packaged, a folder, in the hub's cache, to be downloaded, or served by a server.

    Where every data set has its prompts already, a model that cannot be had is a note and no fault.
    """
    llm = params.prompts.llm
    needed = any(not PromptStore(cache, dataset, llm).exists() for dataset in params.datasets)
    found = _server(llm, params.prompts.server) if params.prompts.server.url else _local_or_hub(llm, params, hub)
    check, download, convert = found
    if check.state == "fault" and not needed:
        check = Check(check.name, "note", f"{check.text}; every data set has its prompts already")
    return LlmCheck(check, needed, download, convert)


def _local_or_hub(llm: str, params: Params, hub: Hub) -> tuple[Check, int | None, int]:
    what = f"llm {llm}"
    target = target_of(llm, params.llms)
    if target == PACKAGED != llm:
        return _packaged(what)
    folder = Path(target).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return Check(what, "ok", f"local folder {folder}"), None, 0
        return Check(what, "fault", f"{folder} holds no config.json; expected a Hugging Face model"), None, 0
    if target.count("/") != 1:
        return (
            Check(
                what, "fault", "neither an alias, nor a hub id, nor a folder", nearest(llm, known_aliases(params.llms))
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


def _packaged(what: str) -> tuple[Check, int | None, int]:
    try:
        gguf = packaged_gguf()
    except UserError as error:
        return Check(what, "fault", str(error)), None, 0
    parent = models_folder()
    if any(parent.glob(f"{gguf.stem.split('.')[0]}-*/config.json")):
        return Check(what, "ok", f"packaged, converted in {parent}"), None, 0
    text = f"packaged; the first use converts it into {parent} ({size(CONVERTED)}, about half a minute)"
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        return Check(what, "fault", f"converting needs {', '.join(missing)}", 'pip install "aape[demo]"'), None, 0
    return Check(what, "note", text), None, CONVERTED


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


def _server(llm: str, server: ServerParams) -> tuple[Check, int | None, int]:
    what = f"llm {llm} at {server.url}"
    if not installed("openai"):
        return Check(what, "fault", "openai is not installed", mend("openai")), None, 0
    from openai import OpenAI, OpenAIError

    try:
        key = os.environ.get(server.key_variable) or "none"
        client = OpenAI(base_url=server.url, api_key=key, timeout=SECONDS, max_retries=0)
        served = [model.id for model in client.models.list()]
    except (OpenAIError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        return Check(what, "fault", f"no answer ({reason})", "start the server, or mend prompts.server.url"), None, 0
    return Check(what, "ok", f"serves {', '.join(served)[:200]}"), None, 0
