"""What closed forms need of labelled images and of class text: sums, in float64, which add up over sources.

Of images: their number n_c, their sum and, over all classes, the scatter matrix sum x x^T. Of text: the sum of the
templates and of the prompts of each class, and their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.data import ClassText, Images


@dataclass(frozen=True)
class ImageSums:
    """Sufficient statistics of labelled images.

    Attributes:
        counts: images of each class.
        sums: the sum of each class's embeddings.
        scatter: the sum of x x^T over all images.
    """

    counts: Float[Tensor, " C"]
    sums: Float[Tensor, "C D"]
    scatter: Float[Tensor, "D D"]

    @property
    def images(self) -> int:
        """How many there are."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class TextSums:
    """Sums over what names each class.

    Attributes:
        template: the sum of its unit templates; `templates` how many.
        prompts: the sum of its unit prompts; `said` how many.
    """

    template: Float[Tensor, "C D"]
    templates: Float[Tensor, " C"]
    prompts: Float[Tensor, "C D"]
    said: Float[Tensor, " C"]


def image_sums(images: Images, classes: int, *, width: int) -> ImageSums:
    """The sums over a draw; none of its images has views."""
    x, labels = images.embeddings.double().cpu(), images.labels.long().cpu()
    sums = torch.zeros(classes, width, dtype=torch.float64).index_add_(0, labels, x)
    return ImageSums(torch.bincount(labels, minlength=classes).double(), sums, x.T @ x)


def text_sums(text: ClassText, *, templates: bool, prompts: bool) -> TextSums:
    """The sums over the templates, the prompts, or both; zeros for what is not asked for."""
    classes, width = text.template.shape
    nothing, none = torch.zeros(classes, width, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    named, many, spoken, said = nothing, none, nothing, none
    if templates:
        each = text.template[:, None] if text.templates is None else text.templates
        named, many = each.double().cpu().sum(1), none + each.shape[1]
    if prompts:
        rows, mask = text.require_prompts()
        spoken, said = (rows * mask[..., None]).double().cpu().sum(1), mask.sum(1).double().cpu()
    return TextSums(named, many, spoken, said)


def joined_images(found: Sequence[tuple[Sequence[int], ImageSums]], classes: int) -> ImageSums | None:
    """The sums of several sources, each with where its classes stand among all; None without images."""
    if not found:
        return None
    width = found[0][1].sums.shape[1]
    counts = torch.zeros(classes, dtype=torch.float64)
    sums = torch.zeros(classes, width, dtype=torch.float64)
    scatter = torch.zeros(width, width, dtype=torch.float64)
    for places, each in found:
        where = torch.tensor(list(places))
        counts[where] += each.counts
        sums[where] += each.sums
        scatter += each.scatter
    return ImageSums(counts, sums, scatter)


def joined_text(found: Sequence[tuple[Sequence[int], TextSums]], classes: int, *, width: int) -> TextSums:
    """Likewise of text."""
    template, prompts = torch.zeros(2, classes, width, dtype=torch.float64)
    templates, said = torch.zeros(2, classes, dtype=torch.float64)
    for places, each in found:
        where = torch.tensor(list(places))
        template[where] += each.template
        templates[where] += each.templates
        prompts[where] += each.prompts
        said[where] += each.said
    return TextSums(template, templates, prompts, said)
