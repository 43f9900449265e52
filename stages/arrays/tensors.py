"""`.safetensors`, and `.pt` read with `weights_only`: tensors as arrays, bfloat16 as float32.

Neither format has tensors of text. In `.safetensors` a text key stands in the file's metadata as a JSON list; in a
`.pt` dict it is a list of str.
"""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from stages.arrays.base import UNNAMED, Values
from stages.arrays.limits import require_memory
from stages.errors import UserError


def read_safetensors(file: Path) -> dict[str, Values]:
    """All tensors, and the lists of text in the metadata.

    Raises:
        UserError: damaged, or metadata that are no JSON lists of text.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            found: dict[str, Values] = {
                name: _array(opened.get_tensor(name), f"{file}: {name[:80]}")
                for name in opened.keys()  # noqa: SIM118
            }
            about = dict(opened.metadata() or {})
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise UserError(f"{file}: not readable ({' '.join(str(error).split())[:160]})") from error
    for name, text in about.items():
        if not text.lstrip().startswith("["):
            continue  # a remark of whoever wrote the file, such as {"format": "pt"}
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}: metadata {name[:80]!r} is no JSON list") from error
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"{file}: metadata {name[:80]!r}: expected a list of texts; numbers are tensors")
        if name in found:
            raise UserError(f"{file}: {name[:80]!r} is a tensor and stands in the metadata as well")
        found[name] = values
    return found


def read_pt(file: Path) -> dict[str, Values]:
    """The tensors and lists of a saved dict, or a lone tensor.

    Raises:
        UserError: anything else is in it, it is damaged, or its tensors are larger than memory.
    """
    import torch

    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise UserError(f"{file}: its members are packed, which torch.save never does: not read")
    try:
        with warnings.catch_warnings(action="ignore"):  # of other pickle protocols, which are refused or read
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... by what is wrong
        line = " ".join(str(error).split()).rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
        line = line[:120] or type(error).__name__
        raise UserError(
            f"{file}: not a file of tensors that can be read without running its code ({line}): save a dict of tensors "
            "and lists"
        ) from error
    if isinstance(found, torch.Tensor):
        return {UNNAMED: _array(found, str(file))}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{file}: holds a {type(found).__name__}; expected a dict of tensors by name")
    return {key: _value(value, f"{file}: {key[:80]}") for key, value in found.items()}


def _value(value: Any, where: str) -> Values:
    import torch

    if isinstance(value, torch.Tensor):
        return _array(value, where)
    if isinstance(value, list | tuple):
        if all(isinstance(each, str) for each in value):
            return list(value)
        if all(isinstance(each, int | float) for each in value):
            return np.array(value)
        if all(isinstance(each, torch.Tensor) for each in value) and len({each.shape for each in value}) == 1:
            return _array(torch.stack(list(value)), where)
    raise UserError(f"{where}: a {type(value).__name__}; expected a tensor, or a list of texts or of numbers")


def _array(tensor: Any, where: str) -> np.ndarray:
    """A tensor as an array, after its claim was compared with what is stored."""
    import torch

    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
        raise UserError(f"{where}: a tensor of {tensor.dtype}, {tensor.layout}; expected plain numbers")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > tensor.untyped_storage().nbytes():
        stored = tensor.untyped_storage().nbytes()
        raise UserError(f"{where}: of shape {tuple(tensor.shape)}, and {stored} bytes are stored: save its clone()")
    tensor = tensor.detach()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
        require_memory(where, tensor.numel() * 4)
        tensor = tensor.float()
    return np.asarray(tensor.numpy())
