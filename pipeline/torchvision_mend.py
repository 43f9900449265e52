"""Lets torchvision be imported where its compiled half does not fit the installed torch.

A torchvision built for CUDA beside a CPU torch cannot load its `_C` library. It swallows that failure and then dies on
`operator torchvision::nms does not exist`, although nothing here ever calls `nms`. Every process that imports
torchvision, open_clip, transformers or vLLM calls `mend_torchvision` first; it costs milliseconds once torch is there.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

# Torch forgets an operator when the Library that declared it is collected, so this one lives as long as the process.
_declared: list[Any] = []


def mend_torchvision() -> None:
    """Declare the operators that torchvision needs to be imported, if its compiled library cannot be loaded.

    Does nothing when torchvision is absent, already imported or sound; calling it again does nothing. Where the
    operators are only declared, `torchvision.transforms` works and calling `torchvision.ops.nms` raises.
    """
    if _declared or "torchvision" in sys.modules:
        return
    spec = importlib.util.find_spec("torchvision")  # looks for the package without running it
    if spec is None:
        return
    import torch

    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    libraries = [path for folder in folders for pattern in ("_C*.so", "_C*.pyd") for path in folder.glob(pattern)]
    try:
        for path in libraries:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        if libraries:
            return
    except OSError:
        pass
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
