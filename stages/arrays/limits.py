"""What a file may ask of this machine before it is believed."""

import os
from pathlib import Path

from stages.errors import UserError

MOST_GROWTH, SMALL = 200, 2**30
"""A packed array that unpacks to more than so many times its size, and to more than a gigabyte, is a bomb."""
MOST_MEMBERS = 10_000


def free_memory() -> int:
    """Bytes that this process may still take: what the system has available, or what is left of its control group."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = min(found, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most.isdigit():
            found = min(found, int(most) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, StopIteration, ValueError):  # not Linux, or no such group
        pass
    return max(found, 0)


def require_memory(where: str, wanted: int) -> None:
    """Refuse what does not fit.

    Raises:
        UserError: names the file, what it needs and what there is.
    """
    free = free_memory()
    if wanted > free:
        raise UserError(
            f"{where}: says that it needs {wanted / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free: "
            "save the arrays as .npy files in a folder, which are read in place, or take a machine with more memory"
        )
