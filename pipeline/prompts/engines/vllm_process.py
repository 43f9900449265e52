"""What vLLM needs around it: its variables, the mend of torchvision, clean output.

Shared by the engine in this process (`vllm.py`) and by vLLM's own server (`serve.py`).
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.prompts.process import before_torch
from stages.errors import UserError

# Sequences that a CPU works on together: 540 tokens/s on 2 cores with SmolLM2-135M, against 240 with 20.
CPU_SEQUENCES = 64


def prepare_process(*, local: bool) -> bool:
    """Set what vLLM reads when it is imported, unless the user has set it; returns whether there is a CUDA device."""
    from pipeline.torchvision_mend import mend_torchvision

    before_torch()
    mend_torchvision()
    import torch

    has_cuda = torch.cuda.is_available()
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if local:
        settings["HF_HUB_OFFLINE"] = "1"
    if not has_cuda:
        settings |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": _core_list(),
            "VLLM_CPU_KVCACHE_SPACE": "1",
        }
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)
    return has_cuda


def _core_list() -> str:
    """The cores this process may use, as vLLM wants them: `0,1,4`."""
    return ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))


def import_vllm() -> Any:
    """The package vllm.

    Raises:
        UserError: (exit code 2) it is not installed.
    """
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise UserError(
            'vLLM is not installed: pip install "aape[cpu]" on a machine without a GPU, "aape[gpu]" on one with CUDA',
            exit_code=2,
        ) from error
    return vllm


def inspect_here(vllm: Any, config: Path) -> None:
    """Let vLLM look at the model class in this process.

    Left alone it starts a second Python for that, to keep CUDA uninitialised here: 10 s, of no use on a CPU, and that
    process would lack the mend of torchvision.
    """
    registry = vllm.ModelRegistry
    for architecture in json.loads(config.read_text(encoding="utf-8")).get("architectures") or []:
        if architecture in registry.models:
            registry.register_model(architecture, registry.models[architecture].load_model_cls())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of torch and vLLM about each other out of the results; errors still speak."""
    logger = logging.getLogger("torch._library.triton")  # "Triton not available", of no use on a CPU
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Send to stderr what native code prints on stdout while a model loads: stdout belongs to the command's result."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
