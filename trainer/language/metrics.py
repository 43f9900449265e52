"""What a caption is worth beside an image's own captions: BLEU-4, ROUGE-L, CIDEr-D; and beside the image: CLIPScore.

All are fractions of 1 but CIDEr-D, which runs from 0 to 10 and is usually printed times 100 / 10: 1.0 here is the "100"
of published tables. The reference in tests is pycocoevalcap, which most published numbers come from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Words = Sequence[str]
"""A caption as `trainer.language.words.words` gives it."""
SIGMA = 6.0
"""Of CIDEr-D's penalty for another length, words."""
BETA = 1.2
"""Weight of recall in ROUGE-L."""
CLIPSCORE = 2.5
"""Factor of CLIPScore (Hessel et al. 2021)."""
PREFIX = "A photo depicts"
"""What CLIPScore puts before a caption."""


def bleu4(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """BLEU-4 of a corpus (Papineni et al. 2002): clipped n-gram precision, brevity by the closest reference's length.

    Args:
        references: for each caption its image's own captions, at least one.

    Returns:
        A fraction of 1; 0 without captions, and where no four words in a row are right.
    """
    right, all_ = [0] * 4, [0] * 4
    length = reference_length = 0
    for caption, own in zip(captions, references, strict=True):
        length += len(caption)
        reference_length += min((len(each) for each in own), key=lambda n: (abs(n - len(caption)), n))
        for n in range(1, 5):
            most: Counter[tuple[str, ...]] = Counter()
            for each in own:
                most |= ngrams(each, n)
            counts = ngrams(caption, n)
            right[n - 1] += (counts & most).total()
            all_[n - 1] += counts.total()
    if not all(right):
        return 0.0
    precision = math.exp(math.fsum(math.log(r / a) for r, a in zip(right, all_, strict=True)) / 4)
    return precision * (1.0 if length > reference_length else math.exp(1 - reference_length / length))


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """ROUGE-L (Lin 2004): F of the longest common subsequence, best precision and best recall over the references."""
    return _mean([_rouge_l(caption, own) for caption, own in zip(captions, references, strict=True)])


def _rouge_l(caption: Words, references: Sequence[Words]) -> float:
    common = [_common(caption, each) for each in references]
    precision = max(common) / max(len(caption), 1)
    recall = max(n / max(len(each), 1) for n, each in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(first: Words, second: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for i, other in enumerate(second):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
    return row[-1]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D (Vedantam et al. 2015): 10 times the mean tf-idf agreement of 1- to 4-grams, with clipped counts and a
    penalty for another length (METHOD: sigma = 6, idf = log N - log max(1, df)).

    The idf is that of the references given, one document an image: with one image alone every idf is 0, and the score.

    Returns:
        0 to 10, where 1.0 is the "100" of published tables.
    """
    return _mean(cider_d_scores(captions, references))


def cider_d_scores(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of every caption."""
    documents: Counter[tuple[str, ...]] = Counter()
    for own in references:
        documents.update({gram for each in own for n in range(1, 5) for gram in ngrams(each, n)})
    total = math.log(len(references)) if references else 0.0
    return [
        10 * _mean([_agreement(caption, each, documents, total) for each in own])
        for caption, own in zip(captions, references, strict=True)
    ]


def _agreement(caption: Words, reference: Words, documents: Mapping[tuple[str, ...], int], total: float) -> float:
    """Mean over n of the clipped cosine of tf-idf vectors, times the penalty for another length."""
    values = []
    for n in range(1, 5):
        ours, theirs = (_tf_idf(each, n, documents, total) for each in (caption, reference))
        dot = math.fsum(min(value, theirs[gram]) * theirs[gram] for gram, value in ours.items() if gram in theirs)
        lengths = math.sqrt(math.fsum(v * v for v in ours.values()) * math.fsum(v * v for v in theirs.values()))
        values.append(dot / lengths if lengths else dot)
    # pycocoevalcap counts the 2-grams, one fewer than the words.
    difference = max(len(caption) - 1, 0) - max(len(reference) - 1, 0)
    return _mean(values) * math.exp(-(difference**2) / (2 * SIGMA**2))


def _tf_idf(
    caption: Words, n: int, documents: Mapping[tuple[str, ...], int], total: float
) -> dict[tuple[str, ...], float]:
    return {
        gram: count * (total - math.log(max(1, documents.get(gram, 0)))) for gram, count in ngrams(caption, n).items()
    }


def ngrams(caption: Words, n: int) -> Counter[tuple[str, ...]]:
    """How often each n words in a row stand in a caption."""
    return Counter(zip(*(caption[i:] for i in range(n)), strict=False))


def clip_score(images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """CLIPScore = 2.5 max(cos(x, c), 0) (Hessel et al. 2021), one an image.

    Args:
        images, captions: unit rows of one encoder; captions were embedded behind `PREFIX`.
    """
    return CLIPSCORE * (images.double() * captions.double()).sum(1).clamp(min=0)


def ref_clip_score(
    images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"], references: Sequence[Float[Tensor, "N D"]]
) -> Float[Tensor, " B"]:
    """RefCLIPScore: harmonic mean of CLIPScore and the largest max(cos(c, reference), 0), one an image.

    Args:
        references: for each image the embeddings of its captions, embedded behind `PREFIX` too.
    """
    score = clip_score(images, captions)
    nearest = torch.stack([
        (own.double() @ caption.double()).max().clamp(min=0) for own, caption in zip(references, captions, strict=True)
    ])  # fmt: skip
    both = score + nearest
    return torch.where(both > 0, 2 * score * nearest / both.clamp(min=1e-12), both)


def _mean(values: Sequence[float]) -> float:
    """0 of none."""
    return math.fsum(values) / len(values) if values else 0.0
