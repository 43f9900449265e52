"""Retrieval metrics: the rank of what was looked for, exact, in flat memory whatever the size of the gallery.

Nothing is sorted: a rank is one more than the number of entries that score at least as well, counted tile by tile, for
both directions from the same products. Image to text: the first caption of the image counts, the others of the same
image are not in the way (as the field does on Karpathy's split). Text to image: every caption is a query.

Ties count against the query: an entry that scores the same, up to rounding, stands before the one that was looked
for. A space that has collapsed to one point thus finds nothing, and a doubled image or caption is not a lucky hit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from trainer.data.pairs import Held, Pairs

AT = (1, 5, 10)
"""K of R@K."""
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
METRICS = tuple(f"{way}_{what}" for way in DIRECTIONS for what in (*(f"r@{k}" for k in AT), "median_rank"))
"""R@K is a fraction of the queries; the median rank counts from 1."""
TIE = 1e-6
"""Cosines that are closer are the same: float32 products of the same numbers differ by this in another tile."""
TILE = {"cpu": (512, 4096), "cuda": (4096, 32_768)}
"""Images and captions of a tile: 8 MB of products on a CPU, 512 MB on a GPU."""

Query = Callable[[Float[Tensor, "B D"]], Float[Tensor, "B D"]]
"""Unit images -> unit queries in the space of the captions."""


@dataclass(frozen=True)
class Ranks:
    """Where what was looked for stands, 1 is the first place; and what stands first.

    Attributes:
        image_to_text: rank of the image's best caption among all captions, its other captions not counted.
        text_to_image: rank of the caption's image among all images.
        first_text: the caption that scores best for each image.
        first_image: the image that scores best for each caption.
    """

    image_to_text: Int[Tensor, " B"]
    text_to_image: Int[Tensor, " P"]
    first_text: Int[Tensor, " B"]
    first_image: Int[Tensor, " P"]


@torch.no_grad()
def ranks(pairs: Pairs, query: Query, *, tile: tuple[int, int] | None = None) -> Ranks:
    """Both directions of retrieval over all images and all captions.

    Args:
        query: maps unit images to unit queries; captions are matched as they are.
        tile: images and captions at once; None takes what suits the device.
    """
    rows, columns = tile or TILE.get(pairs.device.type, TILE["cpu"])
    device, owner = pairs.device, pairs.owner.to(pairs.device)
    own = torch.empty(len(owner), device=device)
    for left, captions in pairs.captions.tiles(columns):
        strip = slice(left, left + len(captions))
        start = int(owner[left])  # captions lie image by image
        queries = query(pairs.images.read(slice(start, int(owner[strip.stop - 1]) + 1)))
        own[strip] = (queries[owner[strip] - start] * captions).sum(-1)
    best = torch.full((len(pairs),), -math.inf, device=device).scatter_reduce(0, owner, own, "amax")
    before = [torch.zeros(n, dtype=torch.long, device=device) for n in (len(pairs), len(owner))]
    highest = [torch.full((n,), -math.inf, device=device) for n in (len(pairs), len(owner))]
    first = [torch.zeros(n, dtype=torch.long, device=device) for n in (len(pairs), len(owner))]
    for top, images in pairs.images.tiles(rows):
        band, queries = slice(top, top + len(images)), query(images)
        mine = int(pairs.first[top]), int(pairs.first[top + len(images)])
        for left, captions in pairs.captions.tiles(columns):
            strip = slice(left, left + len(captions))
            scores = queries @ captions.T
            for way, (lines, offset) in enumerate(((band, left), (strip, top))):
                found, place = scores.max(1 - way)
                better = found > highest[way][lines]
                first[way][lines] = torch.where(better, place + offset, first[way][lines])
                highest[way][lines] = torch.where(better, found, highest[way][lines])
            since, until = max(left, mine[0]), min(strip.stop, mine[1])
            if since < until:  # captions of these very images
                held = torch.arange(since, until, device=device)
                scores[owner[held] - top, held - left] = -math.inf
            # Those that score worse are counted: NaN is worse than nothing, and finds nothing.
            before[0][band] += scores.shape[1] - (scores < best[band, None] - TIE).sum(1)
            before[1][strip] += scores.shape[0] - (scores < own[None, strip] - TIE).sum(0)
    return Ranks(before[0] + 1, before[1] + 1, *first)


def retrieval_metrics(found: Ranks) -> dict[str, float]:
    """`METRICS` of some ranks; NaN without any."""
    metrics = {}
    for way, each in zip(DIRECTIONS, (found.image_to_text, found.text_to_image), strict=True):
        for k in AT:
            metrics[f"{way}_r@{k}"] = float((each <= k).double().mean())
        metrics[f"{way}_median_rank"] = float(each.double().quantile(0.5)) if len(each) else math.nan
    return metrics


def merged(pairs: Pairs) -> Pairs:
    """The same images, each with the normalised mean of its captions as its only one."""
    means = torch.cat([batch.mean() for batch in pairs.batches(1024)])
    return Pairs(pairs.images, Held(normalize(means, dim=-1)), torch.arange(len(pairs) + 1), pairs.image_ids)
