"""The data set that worker processes run: files in, preprocessed pixels or an error out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.encoders.base import Preprocess
from pipeline.images import ImageError, open_rgb


class Pictures(Dataset["Tensor | str"]):
    """Files as a map-style data set; an item is its pixels (3, H, W), or the line that says why there are none."""

    def __init__(self, files: Sequence[Path], preprocess: Preprocess) -> None:
        self.files, self.preprocess = files, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.preprocess(open_rgb(self.files[index]))
        except ImageError as error:
            return str(error)


def collate(items: list[Tensor | str]) -> tuple[Tensor | None, list[str | None]]:
    """Stack the readable items of a batch; the list says for each item None, or its error."""
    pixels = [item for item in items if isinstance(item, Tensor)]
    return (torch.stack(pixels) if pixels else None), [item if isinstance(item, str) else None for item in items]
