"""Every model of open_clip as an encoder: `open_clip:ViT-B-16/openai`, a hub model, or a checkpoint on this machine.

The weights stay float32 and lower precisions are autocast, so the fingerprint does not depend on where the model runs.
A tag trained with QuickGELU (`openai` and others) gets QuickGELU, which open_clip by itself only warns about; for a
local checkpoint of such a model name the `-quickgelu` architecture.
"""

import hashlib
import json
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.encoders.augment import as_pixels, random_view
from pipeline.encoders.base import Augment, Preprocess
from pipeline.encoders.hub import OFFLINE
from pipeline.encoders.memory import keep_freed_memory
from pipeline.torchvision_mend import mend_torchvision
from stages.device import pick_device
from stages.errors import UserError, nearest
from stages.files import refuse_lfs_pointer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SECONDS_TO_ANSWER = 30  # a server that is silent for longer counts as out of reach
TEXT_BATCH = 256
CPU_BATCH = 32  # pictures at once on a CPU: what a layer of ViT-B/32 hands on stays below `SMALLEST_MAPPED`
_SCHEMAS = ("hf-hub:", "local-dir:")


class OpenClipEncoder:
    """A model of open_clip, its own evaluation transform (centre crop) and its own tokenizer.

    Args:
        name: `open_clip:ARCH/PRETRAINED`, `open_clip:ARCH/FILE` (.safetensors, or a state dict in .pt that is loaded
            without running code), `open_clip:hf-hub:OWNER/MODEL` or `open_clip:local-dir:FOLDER`.
        device: `auto` (the GPU when there is one), or a device of torch.
        precision: `auto` (fp16 on a GPU, else fp32), `fp32`, `bf16` or `fp16`.

    Raises:
        UserError: the architecture, tag or file is unknown, the file does not fit, or the weights cannot be fetched.
    """

    note: str = ""

    def __init__(self, name: str, *, device: str = "auto", precision: str = "auto") -> None:
        if precision not in ("auto", *PRECISIONS):
            raise UserError(
                f"unknown precision {precision!r}; {nearest(precision, ['auto', *PRECISIONS])}", exit_code=2
            )
        self.name = name
        self.device = pick_device(device)
        keep_freed_memory()
        if precision == "auto":
            precision = "fp16" if self.device.type == "cuda" else "fp32"
        self._precision = PRECISIONS[precision]
        self._model, self._tokenizer, architecture = _load(name)
        settings = self._model.visual.preprocess_cfg
        self._transform = _Transform(settings)
        self.preprocess: Preprocess = self._transform
        self.augment: Augment = self._transform.augment
        self.fingerprint = _fingerprint(self._model, self._tokenizer, architecture, settings)
        self._model.to(self.device)
        self.width: int = self.encode_text([""]).shape[1]

    @torch.no_grad()
    def encode_images(self, pixels: UInt8[Tensor, "B 3 height width"]) -> Float[Tensor, "B D"]:
        """Embed preprocessed images; rows have length 1, float32, on the CPU."""
        if not len(pixels):
            return torch.empty(0, self.width)
        at_once = CPU_BATCH if self.device.type == "cpu" else len(pixels)
        with self._autocast():
            found = [
                self._model.encode_image(self._transform.scale(part.to(self.device, non_blocking=True)))
                for part in torch.split(pixels, at_once)
            ]
        return normalize(torch.cat(found).float(), dim=-1).cpu()

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Embed sentences, cut at the context length (77 tokens for CLIP); rows have length 1, float32, on the CPU.

        The tokenizer pads to the context length, so a sentence does not lean on its neighbours.
        """
        if not texts:
            return torch.empty(0, self.width)
        tokens: Int[Tensor, "N context"] = self._tokenizer(list(texts))
        with self._autocast():
            found = [self._model.encode_text(part.to(self.device)) for part in torch.split(tokens, TEXT_BATCH)]
        return normalize(torch.cat(found).float(), dim=-1).cpu()

    def encode_sentences(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Embed sentences for comparing them with each other; the model has one text space."""
        return self.encode_text(texts)

    def _autocast(self) -> torch.autocast:
        lower = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision if lower else None, enabled=lower)


class _Transform:
    """open_clip's evaluation transform, and random views with its size and scale.

    Only its settings are pickled, so that a worker mends torchvision in time.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def __reduce__(self) -> tuple[type["_Transform"], tuple[dict[str, Any]]]:
        return _Transform, (self.config,)

    @cached_property
    def _transform(self) -> Any:
        """All of open_clip's steps but the last two, which turn bytes into floats and scale them: `scale` does that."""
        mend_torchvision()
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from torchvision.transforms import Compose

        return Compose(image_transform_v2(PreprocessCfg(**self.config), is_train=False).transforms[:-2])

    def __call__(self, image: Image.Image) -> UInt8[Tensor, "3 height width"]:
        return as_pixels(self._transform(image))

    def augment(self, image: Image.Image, rng: np.random.Generator) -> UInt8[Tensor, "3 height width"]:
        """A random view; its side is the model's, so that the other steps leave it as it is."""
        size = self.config["size"]
        return self(random_view(image, size if isinstance(size, int) else max(size), rng))

    def scale(self, pixels: UInt8[Tensor, "B 3 height width"]) -> Float[Tensor, "B 3 height width"]:
        """What open_clip does last: to 0..1, then by the mean and deviation of its training images."""
        mean, std = (torch.tensor(self.config[name], device=pixels.device)[:, None, None] for name in ("mean", "std"))
        return pixels.float().div_(255).sub_(mean).div_(std)


def _load(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """The model (float32, on the CPU, in evaluation mode), its tokenizer and the settings of its architecture."""
    mend_torchvision()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    identifier = name.removeprefix("open_clip:")
    if identifier.startswith(_SCHEMAS):
        arch, weights = identifier, None
        failure = f"cannot load {name}"
        quick_gelu = False
        folder = Path(identifier.removeprefix("local-dir:"))
        local = folder.is_dir()
        for file in sorted(folder.glob("*")) if local else ():
            if file.is_file():
                refuse_lfs_pointer(file)
    else:
        arch, _, weights = identifier.partition("/")
        weights = _checked(name, arch, weights)
        local = Path(weights).is_file()
        if local:
            refuse_lfs_pointer(Path(weights))
        failure = f"{weights} is no checkpoint of {arch}" if local else f"cannot fetch the weights of {name}"
        quick_gelu = bool(get_pretrained_cfg(arch, weights).get("quick_gelu"))
    try:
        with _quietly():
            model = open_clip.create_model(arch, weights, require_pretrained=True, force_quick_gelu=quick_gelu)
            tokenizer = open_clip.get_tokenizer(arch)
            architecture = open_clip.get_model_config(arch) | ({"quick_gelu": True} if quick_gelu else {})
    except Exception as error:  # open_clip, the hub and the unpickler raise whatever they like
        raise UserError(f"{failure} ({_reason(error)})" + ("" if local else f"; {OFFLINE}")) from error
    return model.eval().requires_grad_(False), tokenizer, architecture


def _reason(error: Exception) -> str:
    """Why a model cannot be loaded, in one line; torch's own advice, to run the code in the file, is not passed on."""
    said = " ".join(str(error).split())
    if isinstance(error, UnpicklingError) or "weights_only" in said:
        strange = re.search(r"GLOBAL (\S+)", said)
        if strange is None:
            return "neither torch nor safetensors wrote it: fetch it again"
        return f"it holds {strange[1][:80]!r}, which is no tensor: save the model's state_dict() alone"
    if "PytorchStreamReader" in said:
        return "cut off or damaged: fetch it again"
    return shorten(said, 250, placeholder=" ...") or type(error).__name__


def _checked(name: str, arch: str, weights: str) -> str:
    """The tag or the path of the file that `weights` names.

    Raises:
        UserError: the architecture is unknown, or `weights` is neither a tag of it nor a file.
    """
    import open_clip
    from open_clip.pretrained import is_pretrained_cfg

    architectures = open_clip.list_models()
    if arch not in architectures:
        close = get_close_matches(arch, architectures, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise UserError(f"encoder {name!r}: open_clip knows no architecture {arch!r}{hint}", exit_code=2)
    path = Path(weights).expanduser()
    if is_pretrained_cfg(arch, weights):
        return weights
    if weights and path.is_file():
        return str(path)
    if "/" in weights or path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise UserError(f"encoder {name!r}: there is no checkpoint file {path}; {OFFLINE}", exit_code=2)
    tags = nearest(weights, open_clip.list_pretrained_tags_by_model(arch))
    raise UserError(
        f"encoder {name!r}: {weights!r} is neither a file nor a tag of {arch} ({tags}); {OFFLINE}", exit_code=2
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """open_clip logs what this module raises, and opens addresses without a time limit."""
    limit, muted = socket.getdefaulttimeout(), logging.root.manager.disable
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(muted)
        socket.setdefaulttimeout(limit)


def _fingerprint(model: Any, tokenizer: Any, architecture: dict[str, Any], preprocessing: dict[str, Any]) -> str:
    """sha256 over the architecture, every tensor, the preprocessing and the tokenizer; not over the precision."""
    digest = hashlib.sha256()
    facts = {
        "architecture": architecture,
        "preprocessing": preprocessing,
        "tokenizer": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
