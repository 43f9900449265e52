"""Where an encoder runs."""

import torch

from stages.errors import UserError


def pick_device(device: str) -> torch.device:
    """`auto` is the GPU when torch sees one, else the CPU; any other name of torch (`cpu`, `cuda:1`) is taken as it is.

    Raises:
        UserError: torch does not know the name, or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used ({reason}); known: auto, cpu, cuda", exit_code=2) from error
    return picked
