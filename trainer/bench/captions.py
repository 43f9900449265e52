"""An epoch of AAPE from captions against a plain loop, and retrieval against a product that is sorted whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from stages.training import TrainParams
from trainer.aape.captions import CaptionLearner, CaptionTargets
from trainer.aape.generator import Generator
from trainer.aape.losses import clip_reward, distillation_loss
from trainer.bench.evaluation import measure
from trainer.bench.plain import PlainAggregator
from trainer.bench.rows import Ratio, Sizes, in_turn, wait
from trainer.data.pairs import Held, Pairs, Rows
from trainer.ranks import ranks
from trainer.training import Candidate, Schedule, descend

CAPTIONS, WIDTH = 5, 768
"""Captions an image, and D, as on COCO with ViT-L/14."""
TAU, RATE = 0.05, 1e-3
QUERIES = 1000
"""Images that captions are sought for in the gallery that is too large for memory."""


def caption_rows(sizes: Sizes, device: torch.device) -> Iterator[Ratio]:
    """Seconds of an epoch of h, and of a whole run, which with ours has p^a to be made before."""
    settings = TrainParams()
    pairs, epochs = made_pairs(sizes.pairs, device), settings.captions.epochs
    schedule = Schedule("adamw", RATE, 1, settings.captions.batch, weight_decay=0.01, cosine="off")

    def aggregated() -> Float[Tensor, "B D"]:
        targets = CaptionTargets(settings, width=WIDTH, device=device, rng=torch.Generator().manual_seed(2))
        targets.fit(pairs)
        found = targets.constant(pairs)
        wait(device)
        return found

    start = time.perf_counter()
    target = aggregated()
    before = time.perf_counter() - start

    def fast() -> None:
        make = partial(CaptionLearner, targets=target, settings=settings)
        descend(Candidate(schedule, lambda _: make(_generator(settings, device), TAU)), pairs, None, seed=1)
        wait(device)

    def plain() -> None:
        plain_epoch(pairs, settings, schedule.batch)
        wait(device)

    ours, reference = in_turn(fast, plain, runs=sizes.runs)
    name = f"captions: an epoch of {sizes.pairs:,} x {CAPTIONS}, D={WIDTH}"
    yield Ratio.of(name, ours, reference, "s", less_is_better=True)
    name = f"captions: {epochs} epochs and p^a, D={WIDTH}"
    yield Ratio.of(name, before + epochs * ours, epochs * reference, "s", less_is_better=True)


def plain_epoch(pairs: Pairs, settings: TrainParams, batch: int) -> None:
    """One epoch as one would write it first: the attention in every step, the loss by torch's cross entropy."""
    dataset = TensorDataset(pairs.images.all(), pairs.captions.all().view(len(pairs), CAPTIONS, WIDTH))
    aggregator = PlainAggregator(WIDTH, settings).to(pairs.device)
    h = _generator(settings, pairs.device)
    optimizer = torch.optim.AdamW([*aggregator.parameters(), *h.parameters()], lr=RATE, weight_decay=0.01)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch, shuffle=True)
    for images, captions in loader:
        target, generated = aggregator(captions), h(images)
        logits = torch.einsum("bd,cnd->bcn", normalize(generated, dim=-1), captions) / TAU
        own = torch.arange(len(images), device=images.device)
        task = torch.stack(
            [
                (_among_others(logits, n) + cross_entropy(logits[:, :, n].T, own)) / 2  # image to text, text to image
                for n in range(CAPTIONS)
            ]
        ).mean()
        loss = task + settings.lambda_ * distillation_loss(generated, target.detach(), "squared")
        loss = loss - settings.reward_weight * clip_reward(images, target, settings.reward_scale)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _among_others(logits: Float[Tensor, "B B N"], caption: int) -> Float[Tensor, ""]:
    """Cross entropy of each image's caption among it and all captions of the other images."""
    count = len(logits)
    others = logits.flatten(1)[~torch.eye(count, dtype=torch.bool, device=logits.device).repeat_interleave(CAPTIONS, 1)]
    line = torch.cat([logits.diagonal()[caption][:, None], others.view(count, -1)], dim=1)
    return cross_entropy(line, torch.zeros(count, dtype=torch.long, device=logits.device))


def retrieval_rows(sizes: Sizes, device: torch.device) -> Iterator[Ratio]:
    """Seconds of both directions, and the memory that a gallery beyond memory needs."""
    pairs = made_pairs(sizes.retrieved, device)

    def fast() -> None:
        ranks(pairs, lambda x: x)
        wait(device)

    def plain() -> None:
        plain_ranks(pairs)
        wait(device)

    ours, reference = in_turn(fast, plain, runs=sizes.runs)
    name = f"retrieval {sizes.retrieved:,} x {sizes.retrieved * CAPTIONS:,}, D={WIDTH}"
    yield Ratio.of(name, ours, reference, "s", less_is_better=True)
    queries = min(QUERIES, sizes.streamed)
    first = torch.arange(queries + 1) * (sizes.streamed // queries)
    large = Pairs(Made(queries, device), Made(int(first[-1]), device), first, tuple(map(str, range(queries))))
    small = Pairs(Made(2, device), Made(50_000, device), torch.tensor([0, 25_000, 50_000]), ("0", "1"))
    ranks(small, lambda x: x)  # asks for what a tile needs

    def search() -> None:
        ranks(large, lambda x: x)

    _, peak = measure(search, device)
    name = f"retrieval {queries:,} x {int(first[-1]):,}, D={WIDTH}, read in tiles: further memory"
    yield Ratio.of(name, peak, (queries + int(first[-1])) * WIDTH * 4 / 1e6, "MB", less_is_better=True)


def plain_ranks(pairs: Pairs) -> tuple[Int[Tensor, " B"], Int[Tensor, " P"]]:
    """The whole product, sorted both ways."""
    scores, owner = pairs.images.all() @ pairs.captions.all().T, pairs.owner.to(pairs.device)
    order = scores.argsort(dim=1, descending=True)
    i2t = (owner[order] == torch.arange(len(pairs), device=pairs.device)[:, None]).float().argmax(1) + 1
    order = scores.T.argsort(dim=1, descending=True)
    return i2t, (order == owner[:, None]).float().argmax(1) + 1


def made_pairs(count: int, device: torch.device) -> Pairs:
    """Generated images and captions near them, in float16 as they are stored."""
    rng = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(count, WIDTH, generator=rng), dim=-1)
    captions = images.repeat_interleave(CAPTIONS, 0).half()
    for tile in captions.split(65_536):  # type: ignore[no-untyped-call]
        tile.copy_(normalize(tile.float() + 2 * torch.randn(tile.shape, generator=rng) / WIDTH**0.5, dim=-1))
    first = torch.arange(count + 1) * CAPTIONS
    return Pairs(Held(images.half().to(device)), Held(captions.to(device)), first, tuple(map(str, range(count))))


def _generator(settings: TrainParams, device: torch.device) -> Generator:
    rng = torch.Generator().manual_seed(1)
    return Generator(width=WIDTH, hidden=settings.captions.hidden, rng=rng).to(device)


class Made(Rows):
    """Embeddings that are made as they are read, in place of a store that is larger than memory."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.count, self.width, self.device = count, WIDTH, device

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Int[Tensor, " M"] | slice) -> Float[Tensor, "M D"]:
        """The rows from the first one on, drawn by its number."""
        where = torch.arange(self.count)[rows]
        rng = torch.Generator().manual_seed(int(where[0]) if len(where) else 0)
        return normalize(torch.randn(len(where), WIDTH, generator=rng), dim=-1).to(self.device)

    def at(self, rows: Int[Tensor, " M"]) -> Rows:
        """Not needed here."""
        raise NotImplementedError
