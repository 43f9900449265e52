"""Test-time methods: images a second beside plain prediction, on generated images with their views.

Processor time of one thread. What it takes to embed the views is not in it: N views cost N times the encoder's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn.functional import normalize

from trainer.bench.rows import Ratio, Sizes

NAMES = ("confident-views", "tpt", "difftpt", "dynaprompt", "awt")
VIEWS, IMAGES = 16, 128
"""Views of an image, and images that are scored."""


def test_time_rows(sizes: Sizes) -> Iterator[Ratio]:
    """Images a second of each method, against zero-shot by the centre crop."""
    from stages.training import TrainParams
    from trainer.bench.generated import made_task
    from trainer.methods import methods
    from trainer.runs.scoring import scores

    threads, width = torch.get_num_threads(), sizes.widths[0]
    torch.set_num_threads(1)
    try:
        task, unseen = made_task(
            classes=sizes.classes, shots=sizes.shots, prompts=sizes.prompts, width=width, device=torch.device("cpu")
        )
        images = unseen.take(torch.arange(IMAGES) % len(unseen)).float32()
        noise = torch.randn(IMAGES, VIEWS, width, generator=torch.Generator().manual_seed(1)) / width**0.5
        images = replace(images, views=normalize(images.embeddings[:, None] + 0.5 * noise, dim=-1))
        reference = 0.0
        for name in ("zero-shot", *NAMES):
            (method,) = methods([name], settings=TrainParams())
            predictor = method.fit(task, seed=1)
            list(scores(predictor, images.take(torch.arange(4)), task.text))  # loads what the first product needs
            start = time.process_time()
            list(scores(predictor, images, task.text))
            found = IMAGES / max(time.process_time() - start, 1e-6)
            reference = reference or found
            what = f"{name}, {VIEWS} views, {sizes.classes:,} classes, D={width}"
            yield Ratio.of(what, found, reference, "images/s")
    finally:
        torch.set_num_threads(threads)
