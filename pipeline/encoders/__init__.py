"""Image-text encoders by name: `lite`, which comes with the package index, and every open_clip model.

Nothing heavy is imported before an encoder is asked for.
"""

from typing import TYPE_CHECKING

from stages.errors import UserError, nearest

if TYPE_CHECKING:
    from pipeline.encoders.base import Encoder

__all__ = ["known_encoders", "load_encoder"]


def known_encoders() -> list[str]:
    """The names that `load_encoder` takes; words in capitals stand for what the user fills in."""
    return [
        "lite",
        "open_clip:ARCH/PRETRAINED",
        "open_clip:ARCH/FILE",
        "open_clip:hf-hub:OWNER/MODEL",
        "open_clip:local-dir:FOLDER",
    ]


def load_encoder(name: str, *, device: str = "auto", precision: str = "auto") -> "Encoder":
    """Load a frozen encoder.

    Args:
        name: one of `known_encoders()`, e.g. `lite` or `open_clip:ViT-B-16/openai`.
        device: `auto` (the GPU when there is one), or a device of torch.
        precision: `auto` (fp16 for open_clip on a GPU, else fp32), `fp32`, `bf16` or `fp16`.

    Raises:
        UserError: the name, device or precision is unknown, or the weights cannot be had; the line says what works.
    """
    if name == "lite":
        from pipeline.encoders.lite import LiteEncoder

        return LiteEncoder(device=device, precision=precision)
    if name.startswith("open_clip:"):
        from pipeline.encoders.hub import require_hub

        require_hub(name)  # before torch is imported
        from pipeline.encoders.open_clip import OpenClipEncoder

        return OpenClipEncoder(name, device=device, precision=precision)
    raise UserError(f"unknown encoder {name!r}; {nearest(name, known_encoders())}", exit_code=2)
