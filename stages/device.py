"""The device that a command computes on: one picker for both stages."""

from typing import TYPE_CHECKING

from stages.errors import UserError, nearest

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> "torch.device":
    """`auto` is the GPU when torch sees one, else the CPU; `cpu`, `cuda`, `cuda:1` and torch's other names as they are.

    Raises:
        UserError: torch does not know the name, or this machine has no such device (exit code 2).
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    known = ["auto", "cpu", *(["cuda", *(f"cuda:{i}" for i in range(gpus))] if gpus else [])]
    try:
        device = torch.device(name)
        if device.type == "cpu" and device.index:
            raise RuntimeError("one CPU")
    except RuntimeError as error:
        raise UserError(f"device {name!r}: no device of torch; {nearest(name, known)}", exit_code=2) from error
    if device.type == "cuda" and (device.index or 0) >= gpus:
        there = f"this machine has {gpus} GPU{'s' * (gpus != 1)}" if gpus else "torch sees no GPU here"
        raise UserError(f"device {name!r}: {there}; known: {', '.join(known)}", exit_code=2)
    try:
        torch.empty(1, device=device).cpu()
    except Exception as error:  # each kind of device has its own way to say that it is not there
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"device {name!r} cannot be used ({reason}); known: {', '.join(known)}", exit_code=2) from error
    return device
