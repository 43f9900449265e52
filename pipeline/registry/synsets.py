"""ImageNet's 1,000 classes: WordNet id -> class name, in the order of their ids, from packages that open_clip needs.

The ids come from timm's list, the names from open_clip's (those of CLIP, which CoOp uses). Two of CLIP's names stand
for two classes each; the second class takes its word in WordNet instead, since class names must differ.
"""

import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from stages.errors import UserError

# CLIP calls the missile of n03773504 and this one "missile", n04356056 and this one "sunglasses".
WORDNET = {"n04008634": "projectile", "n04355933": "sunglass"}
PARTS = {"imagenet_a": "imagenet_a_synsets.txt", "imagenet_r": "imagenet_r_synsets.txt"}
"""Variants with 200 of the classes -> timm's list of them."""


@cache
def imagenet_names() -> dict[str, str]:
    """WordNet id -> class name of the 1,000 classes; the position is the class number.

    Raises:
        UserError: timm or open_clip is missing, or has its lists no longer.
    """
    # Read where they lie: importing the packages would load torch.
    ids = _ids("imagenet_synsets.txt")
    names = runpy.run_path(str(_package_file("open_clip", "zero_shot_metadata.py")))["IMAGENET_CLASSNAMES"]
    return {wnid: WORDNET.get(wnid, name) for wnid, name in zip(ids, names, strict=True)}


@cache
def class_ids(dataset: str) -> frozenset[str]:
    """The WordNet ids of ImageNet's classes that a data set has: all but for `PARTS`."""
    return frozenset(_ids(PARTS[dataset]) if dataset in PARTS else imagenet_names())


def _ids(file: str) -> list[str]:
    return _package_file("timm", f"data/_info/{file}").read_text(encoding="utf-8").split()


def _package_file(package: str, path: str) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / path).is_file():
            return Path(folder) / path
    raise UserError(f"ImageNet's class names: {package}/{path} is missing; install {package} as `make setup` does")
