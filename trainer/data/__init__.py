"""What a method may see of a task: unit embeddings on the device, labels, and what text knows about the classes.

No file is read here and no test image ever enters a `Task`: `trainer/data/features.py` turns stores into these tensors.
Shapes: B images, C classes, N prompts of a class (padded), D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from stages.errors import UserError

LENGTH_TOLERANCE = 0.01
"""How far from 1 the length of a unit embedding may lie: rounding to float16 stays below 0.001, to bfloat16 0.005."""


@dataclass(frozen=True)
class Images:
    """A split or a k-shot draw, on the device.

    Attributes:
        embeddings: unit rows, float16 or float32; methods cast to float32.
        labels: position of each image's class in the task's class list, 0..C-1.
        views: unit embeddings of V augmentations of each image; None where the store has none.
        student: unit embeddings of the same images by a second encoder; None where none was asked for.
    """

    embeddings: Float[Tensor, "B D"]
    labels: Int[Tensor, " B"]
    views: Float[Tensor, "B V D"] | None = None
    student: Float[Tensor, "B E"] | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.labels.device

    def float32(self) -> Images:
        """The same images with float32 embeddings, which every method computes in."""
        return self._each(self.labels, lambda rows: rows.float())

    def centre_crops(self) -> Images:
        """The same images without augmentations."""
        return replace(self, views=None)

    @staticmethod
    def join(first: Images, second: Images) -> Images:
        """These images, then those; with views, and with a second encoder's embeddings, where both have some."""
        views, student = (
            None if one is None or other is None else torch.cat([one, other])
            for one, other in ((first.views, second.views), (first.student, second.student))
        )
        embeddings = torch.cat([first.embeddings, second.embeddings])
        return Images(embeddings, torch.cat([first.labels, second.labels]), views, student)

    def take(self, rows: Int[Tensor, " M"]) -> Images:
        """The images at these rows, in this order."""
        return self._each(self.labels[rows], lambda of: of[rows])

    def labelled(self, labels: Int[Tensor, " B"]) -> Images:
        """The same images with other labels."""
        return replace(self, labels=labels)

    def _each(self, labels: Int[Tensor, " M"], change: Callable[[Tensor], Tensor]) -> Images:
        views, student = (None if of is None else change(of) for of in (self.views, self.student))
        return Images(change(self.embeddings), labels, views, student)

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> Images:
        """One view of each of these images, drawn by seed among the centre crop and the augmentations."""
        taken = self.take(rows)
        if taken.views is None:
            return taken
        views = torch.cat([taken.embeddings[:, None], taken.views], dim=1)
        drawn = torch.randint(views.shape[1], (len(taken),), generator=rng).to(views.device)
        return Images(views[torch.arange(len(taken), device=views.device), drawn], taken.labels)


@dataclass(frozen=True)
class Unlabelled:
    """Images of which nobody says what they show: of a class nothing is in reach.

    Attributes:
        embeddings, views, student: as those of `Images`.
    """

    embeddings: Float[Tensor, "U D"]
    views: Float[Tensor, "U V D"] | None = None
    student: Float[Tensor, "U E"] | None = None

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    @classmethod
    def of(cls, images: Images) -> Unlabelled:
        """These images without their labels."""
        return cls(images.embeddings, images.views, images.student)

    def labelled(self, rows: Int[Tensor, " M"], labels: Int[Tensor, " M"]) -> Images:
        """The images at these rows under labels that a method gave them."""
        whole = Images(
            self.embeddings, self.embeddings.new_zeros(len(self), dtype=torch.long), self.views, self.student
        )
        return whole.take(rows).float32().labelled(labels)


@dataclass(frozen=True)
class ClassText:
    """What text knows about the classes of a task.

    Attributes:
        names: C class names.
        template: unit; the embedding of the first template of the class (the paper's w_i).
        prompts: unit reference prompts, padded with zeros; None where there is no prompt source.
        mask: True where a prompt stands, False where padding does.
        templates: unit; the embeddings of all its templates, None where there is only the first.
        is_text: False where nobody embedded a word about the classes: `template` is then the mean training image of
            each, and only methods that read images alone may be fitted.
    """

    names: tuple[str, ...]
    template: Float[Tensor, "C D"]
    prompts: Float[Tensor, "C N D"] | None = None
    mask: Bool[Tensor, "C N"] | None = None
    templates: Float[Tensor, "C T D"] | None = None
    is_text: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def select(self, class_ids: Sequence[int] | Int[Tensor, " M"]) -> ClassText:
        """The text of these classes, in this order."""
        ids = torch.as_tensor(class_ids, dtype=torch.long)
        return ClassText(
            names=tuple(self.names[i] for i in ids.tolist()),
            template=self.template[ids],
            templates=None if self.templates is None else self.templates[ids],
            prompts=None if self.prompts is None else self.prompts[ids],
            mask=None if self.mask is None else self.mask[ids],
            is_text=self.is_text,
        )

    def require_text(self) -> None:
        """Refuse to name classes by their images.

        Raises:
            UserError: no text of the classes is embedded.
        """
        if not self.is_text:
            raise UserError(
                "this method reads class text and none is embedded: run `pipeline embed-text`, or choose a method that "
                "reads images alone (logistic, nearest-centroid, gda)"
            )

    def template_mean(self) -> Float[Tensor, "C D"]:
        """The normalised mean of each class's templates."""
        return self.template if self.templates is None else normalize(self.templates.float().mean(1), dim=-1)

    def named_by_template(self) -> ClassText:
        """The same classes, each with its template as its only prompt."""
        mask = torch.ones(len(self), 1, dtype=torch.bool, device=self.template.device)
        return replace(self, prompts=self.template[:, None], mask=mask)

    def require_prompts(self) -> tuple[Float[Tensor, "C N D"], Bool[Tensor, "C N"]]:
        """Prompts (float32) and mask.

        Raises:
            UserError: there is no prompt source, or a class has no prompt.
        """
        if self.prompts is None or self.mask is None:
            raise UserError(
                "this method needs reference prompts and the task has none: run `pipeline generate-prompts` "
                "and `pipeline embed-text`, or choose a method that uses the template alone"
            )
        empty = [name for name, count in zip(self.names, self.mask.sum(1).tolist(), strict=True) if count == 0]
        if empty:
            shown = ", ".join(repr(name) for name in empty[:3]) + (", ..." if len(empty) > 3 else "")
            raise UserError(
                f"{len(empty)} of {len(self.names)} classes have no reference prompt ({shown}): generate or import "
                "prompts for them, or leave these classes out"
            )
        return self.prompts.float(), self.mask

    def prompt_mean(self) -> Float[Tensor, "C D"]:
        """p̄, the normalised mean of each class's prompts.

        Raises:
            UserError: there is no prompt source, or a class has no prompt.
        """
        prompts, mask = self.require_prompts()
        return normalize((prompts * mask[..., None]).sum(1), dim=-1)


@dataclass(frozen=True)
class Task:
    """Everything a method may see when it is fitted: no test image is in it.

    Attributes:
        text: the classes that are learned.
        train: the k-shot draw; empty where nothing is labelled.
        val: images for choices (learning rate, epoch, regularisation); may be empty.
        unlabelled: further images without labels, where the protocol gives some.
        transductive: whether the images that are judged may be seen before they are, all at once and without labels,
            by `split_logits` of a predictor.
    """

    text: ClassText
    train: Images
    val: Images
    unlabelled: Unlabelled | None = None
    transductive: bool = False

    @property
    def has_labels(self) -> bool:
        """Whether any image is labelled; else there are unlabelled ones, or they come when they are judged."""
        return len(self.train) > 0 or (self.unlabelled is None and not self.transductive)


def check_task(task: Task) -> None:
    """Refuse a task that no method can learn from.

    Raises:
        UserError: one class only, no training image of a class, labels out of range, widths that differ,
            values that are no numbers, embeddings that are not of length 1.
    """
    classes, width = task.text.template.shape
    if classes != len(task.text.names):
        raise UserError(
            f"the task names {len(task.text.names)} classes and has {classes} template embeddings: embed again"
        )
    if classes < 2:
        raise UserError(f"a classifier needs at least 2 classes, found {classes}: {', '.join(task.text.names)}")
    for name, images in (("train", task.train), ("val", task.val)):
        check_images(images, classes=classes, width=width, name=name)
    check_unit(task.text.template, name="template embeddings")
    if task.text.templates is not None:
        check_unit(task.text.templates, name="template embeddings")
    if task.text.prompts is not None:
        check_width(width, task.text.prompts.shape[-1], "the template embeddings are", "the prompt embeddings")
        check_unit(task.text.prompts, name="prompt embeddings", where=task.text.mask)
    if task.unlabelled is not None:
        check_width(task.unlabelled.embeddings.shape[1], width, "the unlabelled images are", "the text embeddings")
        check_unit(task.unlabelled.embeddings, name="unlabelled image embeddings")
    counts = torch.bincount(task.train.labels, minlength=classes).tolist()
    if not task.has_labels:
        return
    missing = [name for name, count in zip(task.text.names, counts, strict=True) if count == 0]
    if missing:
        raise UserError(f"no training image of class {missing[0]!r} ({len(missing)} of {classes} classes have none)")


def check_images(images: Images, *, classes: int, width: int, name: str) -> None:
    """Refuse images that do not belong to a task of `classes` classes and `width`-wide text.

    Raises:
        UserError: labels out of range, widths that differ, a count of labels that differs, values that are no numbers,
            embeddings that are not of length 1.
    """
    rows = images.embeddings.shape[0]
    if rows != len(images):
        raise UserError(f"the {name} images have {rows} embeddings and {len(images)} labels: build the features again")
    if rows == 0:
        return
    check_width(images.embeddings.shape[1], width, f"the {name} images are", "the text embeddings")
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise UserError(f"label {wrong} of the {name} images is out of range: labels run from 0 to {classes - 1}")
    check_unit(images.embeddings, name=f"{name} image embeddings")
    if images.views is not None:
        check_unit(images.views, name=f"views of the {name} images")


def check_width(found: int, expected: int, what: str, other: str) -> None:
    """Refuse embeddings of two encoders.

    Args:
        found, expected: entries of a row.
        what, other: the two, for people, such as `the images are` and `the class text`.

    Raises:
        UserError: they differ.
    """
    if found != expected:
        raise UserError(f"{what} {found} wide and {other} {expected}: embed both with the same encoder")


def check_numbers(values: Tensor, *, name: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        UserError: says how many rows are bad and which is the first.
    """
    bad = ~torch.isfinite(values).flatten(1).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise UserError(
            f"{int(bad.sum())} of {bad.shape[0]} rows of the {name} hold NaN or infinity (first: row {first}): "
            "embed them again"
        )


def check_unit(values: Float[Tensor, "*rows D"], *, name: str, where: Bool[Tensor, "*rows"] | None = None) -> None:
    """Refuse NaN, infinity and embeddings that are not of length 1, which cosines and temperatures stand on.

    Args:
        where: False at padding, which may be of any length.

    Raises:
        UserError: says how many rows are bad, which is the first, and its length.
    """
    check_numbers(values, name=name)
    lengths = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    off = (lengths - 1).abs() > LENGTH_TOLERANCE
    off = (off if where is None else off & where).flatten()
    if bool(off.any()):
        first = int(off.nonzero()[0, 0])
        raise UserError(
            f"{int(off.sum())} of {len(off)} rows of the {name} are not of length 1 (first: row {first}, length "
            f"{float(lengths.flatten()[first]):.4g}): divide each by its length, or embed again"
        )
