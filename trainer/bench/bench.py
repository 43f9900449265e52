"""All rows of the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from trainer.bench.captions import caption_rows, retrieval_rows
from trainer.bench.evaluation import evaluation_rows
from trainer.bench.loading import loading_rows
from trainer.bench.methods import method_rows
from trainer.bench.rows import METHODS, PARTS, SPEAKING, TEST_TIME, Ratio, Sizes
from trainer.bench.test_time import test_time_rows
from trainer.bench.training import training_rows


def bench(sizes: Sizes, device: torch.device, parts: Sequence[str] = PARTS) -> Iterator[Ratio]:
    """The rows of these parts, as they get ready.

    Raises:
        UserError: the store of the loading benchmark does not fit on the disk.
    """
    if "evaluation" in parts:
        yield from evaluation_rows(sizes, device)
    for width in sizes.widths if "training" in parts else ():
        yield from training_rows(sizes, width, device)
    if SPEAKING in parts:
        from trainer.bench.speaking import speaking_rows

        yield from speaking_rows(sizes, device)
    if METHODS in parts:
        yield from method_rows(sizes)
    if TEST_TIME in parts:
        yield from test_time_rows(sizes)
    if "captions" in parts:
        yield from caption_rows(sizes, device)
    if "retrieval" in parts:
        yield from retrieval_rows(sizes, device)
    if "loading" in parts:
        yield from loading_rows(sizes, device)
