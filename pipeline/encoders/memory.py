"""The memory that an encoder works in."""

import ctypes
import sys

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
