"""Where an encoder runs, and the memory that it works in."""

import ctypes
import sys

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


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
SMALLEST_MAPPED, LARGEST_KEPT = 32 * 2**20, 2**30


def keep_freed_memory() -> None:
    """Ask glibc to keep what a layer frees for the next one; other C libraries are left as they are.

    By itself it hands activations back to the system after every layer, which then has to zero as much anew: up to a
    third of an encoder's time on a CPU. 32 MB is the most that malloc serves from memory it keeps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, SMALLEST_MAPPED)
        mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT)
