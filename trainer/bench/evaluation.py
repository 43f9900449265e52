"""Scoring many images and classes: images a second and peak memory against the head in full width."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.functional import normalize

from trainer.aape.classifier import Classifier
from trainer.bench.plain import plain_cosines
from trainer.bench.rows import Ratio, Sizes, wait
from trainer.training import CHUNK

PLAIN_BATCH, PLAIN_IMAGES = 32, 256
"""Images the reference takes at once (at 1,000 classes of width 512 these are 66 MB of class weights), and in all."""


def evaluation_rows(sizes: Sizes, device: torch.device) -> Iterator[Ratio]:
    """Images a second, and megabytes above what was there before."""
    rng = torch.Generator().manual_seed(0)
    width = sizes.widths[0]
    classifier = Classifier(width=width, hidden=32, head="residual", image=True, rng=rng)
    with torch.no_grad():
        classifier.v.normal_(std=0.05, generator=rng)
    classifier = classifier.to(device).eval()
    weights = normalize(torch.randn(sizes.evaluated, width, generator=rng), dim=-1).to(device)
    images = normalize(torch.randn(sizes.images, width, generator=rng), dim=-1).half().to(device)

    @torch.no_grad()
    def fast() -> None:
        for band in images.split(CHUNK):  # type: ignore[no-untyped-call]
            classifier(band, weights).argmax(1)
        wait(device)

    @torch.no_grad()
    def plain() -> None:
        for band in images[:PLAIN_IMAGES].split(PLAIN_BATCH):  # type: ignore[no-untyped-call]
            plain_cosines(classifier, band.float(), weights)[0].argmax(1)
        wait(device)

    with torch.no_grad():
        classifier(images[:PLAIN_BATCH], weights)  # loads what the first product needs
    ours, our_peak = measure(fast, device)
    reference, plain_peak = measure(plain, device)
    what = f"evaluation {sizes.images:,} x {sizes.evaluated:,}, D={width}"
    yield Ratio.of(what, len(images) / ours, min(PLAIN_IMAGES, len(images)) / reference, "images/s")
    yield Ratio.of(f"{what}: peak memory", our_peak, plain_peak, "MB", less_is_better=True)


def measure(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds, and the peak of memory above the start, in MB."""
    before = _memory(device, reset=True)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start, max(0.1, _memory(device, reset=False) - before)


def _memory(device: torch.device, *, reset: bool) -> float:
    """MB of memory: what is in use now, with the record of its peak cleared, or the peak since then."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
            return torch.cuda.memory_allocated(device) / 1e6
        return torch.cuda.max_memory_allocated(device) / 1e6
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    name = "VmRSS:" if reset else "VmHWM:"
    line = next(row for row in Path("/proc/self/status").read_text("ascii").splitlines() if row.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6
