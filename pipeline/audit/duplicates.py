"""The same picture twice: by its bytes, by its pixels, and nearly.

Only pictures in two splits, or with two classes, are findings: one leaks, the other contradicts itself. Copies within
one class and split are counted.

Near duplicates are told by distances that are small for where the image lies. For a pair, log distance minus the mean
log distance of the ten nearest images (the smaller mean of the two) is taken in the space of the embeddings (one minus
cosine) and in that of thumbnails (one minus correlation, mirrored too). Each is put in robust standard deviations of
what the images of this store have with their nearest image, so that the threshold is the store's own.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from pipeline.audit.finding import Finding
from pipeline.audit.measures import THUMBNAIL
from pipeline.audit.neighbours import Neighbours, nearest
from stages.text import counted

LIMIT = -6.0
"""Sum of the two deviations over the root of two, below which a pair is a near duplicate (docs/data-loop.md)."""
AGAINST = 4.0
"""No pair is a near duplicate that one of the two spaces has this many deviations farther apart than is usual."""
NEAREST = 10
TILE = 8192
"""Pairs compared at once."""
SMALLEST = 1e-4
"""Distances below this are rounding."""
FEWEST = 20
"""Images that a store needs for its distances to say what is usual."""

Pairs = Int[np.ndarray, "pairs 2"]


@dataclass(frozen=True)
class Facts:
    """What a finding says about an image."""

    image_id: str
    split: str
    class_name: str | None


def exact(facts: Sequence[Facts], keys: Sequence[str | None], kind: str, doubt: Mapping[str, float]) -> list[Finding]:
    """Images that share a key (hash of bytes or pixels) and stand in two splits or two classes.

    Args:
        doubt: image id -> how improbable its label is, to tell which of two classes is the wrong one.
    """
    groups: dict[str, list[Facts]] = defaultdict(list)
    for fact, key in zip(facts, keys, strict=True):
        if key:
            groups[key].append(fact)
    found = []
    for group in groups.values():
        if len(group) > 1:
            kept, *others = sorted(group, key=lambda fact: _order(fact, doubt))
            found += [_finding(kind, 1.0, other, kept, kind) for other in others if _matters(other, kept)]
    return found


def within(facts: Sequence[Facts], keys: Sequence[str | None]) -> int:
    """Copies within one class and split."""
    there = [(key, fact.split, fact.class_name) for fact, key in zip(facts, keys, strict=True) if key]
    return len(there) - len(set(there))


def near(
    facts: Sequence[Facts],
    vectors: Float32[np.ndarray, "images D"],
    thumbnails: Float32[np.ndarray, "images pixels"] | None,
    copies: Sequence[str | None],
    doubt: Mapping[str, float],
    *,
    embedded: Neighbours,
) -> tuple[list[Finding], dict[str, float]]:
    """Near duplicates, and the thresholds that were used.

    Args:
        vectors: unit rows.
        thumbnails: see `thumbnail_vectors`; None without pixels.
        copies: hashes of the pixels, of files without pixels None: the same ones are no near duplicates.
        embedded: the nearest images in the space of the embeddings.
    """
    if len(facts) < FEWEST:
        return [], {}
    mirrored = None if thumbnails is None else _mirrored(thumbnails)
    lists = [embedded]
    if thumbnails is not None and mirrored is not None:
        lists.append(nearest(thumbnails, NEAREST, also=mirrored))
    pairs = _pairs(lists)
    by_embedding, usual = _deviations(1 - _products(vectors, vectors, pairs), embedded, pairs)
    total, limits = by_embedding, {"near_duplicate_cosine": round(1 - usual, 4)}
    if thumbnails is not None and mirrored is not None:
        likest = np.maximum(_products(thumbnails, thumbnails, pairs), _products(thumbnails, mirrored, pairs))
        by_pixels, _ = _deviations(1 - likest, lists[1], pairs)
        total = (by_embedding + by_pixels) / np.sqrt(2)
        total[np.maximum(by_embedding, by_pixels) > AGAINST] = 0
    found: dict[str, Finding] = {}
    for place in np.argsort(total, kind="stable"):
        if total[place] > LIMIT:
            break
        one, other = (int(each) for each in pairs[place])
        if copies[one] is not None and copies[one] == copies[other]:
            continue
        kept, out = sorted((facts[one], facts[other]), key=lambda fact: _order(fact, doubt))
        if _matters(kept, out) and out.image_id not in found:
            score = min(0.999, 1 - np.exp((total[place] - LIMIT / 2) / 4))
            cosine = float(vectors[one] @ vectors[other])
            found[out.image_id] = _finding("near-duplicate", float(score), out, kept, f"cosine {cosine:.3f}")
    return list(found.values()), limits


def thumbnail_vectors(thumbnails: Sequence[bytes]) -> Float32[np.ndarray, "images pixels"]:
    """Thumbnails without their mean colour, as unit rows; zero for pictures of one colour and unreadable ones."""
    size = THUMBNAIL * THUMBNAIL * 3
    rows = np.zeros((len(thumbnails), size), np.float32)
    for row, data in zip(rows, thumbnails, strict=True):
        if data:
            colours = np.frombuffer(data, np.uint8).astype(np.float32).reshape(-1, 3)
            row[:] = (colours - colours.mean(0)).reshape(-1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norms > THUMBNAIL, rows / np.maximum(norms, 1e-6), 0).astype(np.float32)


def _mirrored(thumbnails: Float32[np.ndarray, "images pixels"]) -> Float32[np.ndarray, "images pixels"]:
    shaped = thumbnails.reshape(len(thumbnails), THUMBNAIL, THUMBNAIL, 3)
    return np.ascontiguousarray(shaped[:, :, ::-1]).reshape(len(thumbnails), -1)


def _products(
    one: Float32[np.ndarray, "images D"], other: Float32[np.ndarray, "images D"], pairs: Pairs
) -> Float32[np.ndarray, " pairs"]:
    """The product of the two rows of each pair, some pairs at once."""
    found = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), TILE):
        a, b = pairs[start : start + TILE].T
        found[start : start + TILE] = np.einsum("pd,pd->p", one[a], other[b])
    return found


def _pairs(lists: Sequence[Neighbours]) -> Pairs:
    """Each pair of an image with one of its neighbours once, the smaller place first."""
    found = []
    for each in lists:
        own = np.repeat(np.arange(len(each.index)), each.index.shape[1])
        found.append(np.sort(np.stack([own, each.index.reshape(-1)], 1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _deviations(
    distances: Float[np.ndarray, " pairs"], neighbours: Neighbours, pairs: Pairs
) -> tuple[Float[np.ndarray, " pairs"], float]:
    """How much closer pairs are than is usual where they lie, and the distance at which a pair becomes unusual."""
    logs = np.log(np.maximum(distances, SMALLEST))
    usual = np.log(np.maximum(1 - neighbours.cosine, SMALLEST)).mean(1)
    local = logs - np.minimum(usual[pairs[:, 0]], usual[pairs[:, 1]])
    closest = np.full(len(usual), np.inf)
    for side in (0, 1):
        np.minimum.at(closest, pairs[:, side], local)
    closest = closest[np.isfinite(closest)]
    middle = np.median(closest)
    spread = 1.4826 * np.median(np.abs(closest - middle))
    if spread <= 0:
        return np.zeros(len(pairs)), 0.0
    return np.asarray((local - middle) / spread), float(np.exp(np.median(usual) + middle + LIMIT * spread))


def _order(fact: Facts, doubt: Mapping[str, float]) -> tuple[int, float, str]:
    """Which image of several stays: test before val before train, then the one whose label is likelier."""
    return ("test", "val", "train").index(fact.split), doubt.get(fact.image_id, 0.0), fact.image_id


def _matters(one: Facts, other: Facts) -> bool:
    return one.split != other.split or one.class_name != other.class_name


def _finding(kind: str, score: float, out: Facts, kept: Facts, why: str) -> Finding:
    parts = [f"in {out.split} and {kept.split}"] if out.split != kept.split else []
    if out.class_name != kept.class_name:
        parts.append(f"as {out.class_name} and {kept.class_name}")
    what = {"same-file": "the same file", "same-pixels": "the same picture"}.get(kind, f"nearly the same ({why})")
    return Finding(kind, round(score, 4), out.image_id, f"{what} {' and '.join(parts)}", other=kept.image_id)


def copies_line(count: int) -> str:
    """A line about copies that are no findings."""
    return f"{counted(count, 'image is', 'images are')} a copy of another one in the same class and split"
