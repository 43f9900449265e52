"""CLIP meets DINO: descriptions teach a second encoder, which teaches the first one, and nobody labels an image.

    1. teacher   the mean of each class's descriptions in the first encoder's space; its surest images of each class
    2. student   logistic regression on the second encoder's embeddings of those images: `nola-student`
    3. back      the student labels all unlabelled images; class embeddings of the first encoder learn from it: `nola`

Two encoders that were trained apart are wrong about different images. What the student makes of a few sure answers
corrects the teacher where its own space is the better one; `nola` needs no second encoder when it serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from stages.errors import UserError
from trainer.data import ClassText, Images, Task, Unlabelled
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.family.embeddings import Embeddings
from trainer.methods.family.pseudo_labels import EACH, surest, taught, taught_on_all
from trainer.methods.linear import DEFAULT_STRENGTH, LinearPredictor, fit_logistic, require_fitted, search_strength
from trainer.training import Info, Score

SURE = 0.5
"""Share of the unlabelled images that the student's labels are taken of, the surest ones of each class."""


def through(images: Images) -> Images:
    """The same images as the second encoder sees them."""
    if images.student is None:
        raise UserError("the images have no embeddings by a second encoder: name one with --student-encoder")
    return Images(images.student.float(), images.labels)


@dataclass
class StudentPredictor:
    """x W^T + b of the second encoder's embeddings, for a fixed list of classes."""

    names: tuple[str, ...]
    weight: Float[Tensor, "C E"]
    bias: Float[Tensor, " C"]
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Nothing is known of an image that the first encoder alone has seen.

        Raises:
            UserError: always.
        """
        require_fitted(self.names, text)
        raise UserError(
            "nola-student judges by its second encoder, and of these images there are embeddings by the first alone: "
            "serve nola, which learned from it"
        )

    @torch.no_grad()
    def student_logits(self, images: Float[Tensor, "B E"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of images as the second encoder sees them."""
        require_fitted(self.names, text)
        return images @ self.weight.T + self.bias


@dataclass(frozen=True)
class NoLA:
    """NoLA, no labels attached (Imam et al., "CLIP meets DINO for Tuning Zero-Shot Classifier using Unlabeled Image
    Collections", 2024, arXiv 2411.19346).

    16 images a class teach the student, the surest half of its labels teach back. Shots join both lessons, validation
    images choose C of the student and the epoch of `nola`. Deviations: the paper aligns DINO's features by a trained
    module and tunes prompts inside CLIP's image tower on strong augmentations; here the student is a linear classifier,
    and the class embeddings are learned, on the views of the store where it has some.

    Args:
        judges_by_student: the student judges itself.
    """

    name: str
    judges_by_student: bool
    needs: Needs = "prompts"
    uses_prompts: bool = True
    serves_new_classes: bool = False
    reads_unlabelled: bool = True
    without_labels: bool = True
    reads_student: bool = True

    def fit(self, task: Task, *, seed: int) -> StudentPredictor | LinearPredictor:
        """Teach the student, and let it teach back."""
        if task.transductive or task.unlabelled is None:
            raise UserError(f"{self.name} learns from images without labels beforehand: --protocols unsupervised")
        start, seen = prepare(task, seed=seed, source="prompts"), task.unlabelled
        shares = (seen.embeddings.float() @ start.weights.T / start.tau).softmax(1)
        guessed = seen.labelled(*surest(shares, EACH))
        selection, classes = start.selection, len(start.names)
        lesson = both(selection.train, guessed)
        strength, score = DEFAULT_STRENGTH, None
        if selection.val is not None:
            strength, score, _ = search_strength(through(lesson), through(selection.val), classes)
        weight, bias = fit_logistic(through(both(start.train, guessed)), classes, strength=strength)
        if self.judges_by_student:
            info = start.info(n_parameters=weight.numel() + bias.numel(), val=score, C=strength)
            return StudentPredictor(task.text.names, weight, bias, info=info)
        assert seen.student is not None
        return self._back(task, seen, (seen.student.float() @ weight.T + bias).softmax(1), seed=seed)

    def _back(self, task: Task, seen: Unlabelled, shares: Float[Tensor, "U C"], *, seed: int) -> LinearPredictor:
        start = prepare(task, seed=seed, source="prompts")
        selection = start.selection
        each = max(1, round(SURE * len(seen) / len(start.names)))
        guessed = replace(seen.labelled(*surest(shares, each)), student=None)
        shots = replace(selection.train, student=None)
        trained = taught(start.weights, start.tau, shots, guessed, val=selection.val, seed=seed)
        score: Score | None = None if selection.val is None else trained.score
        if selection.held_out:
            trained = taught_on_all(start, guessed, trained, seed=seed)
        assert isinstance(trained.learner, Embeddings)
        weight = trained.learner.unit().detach() / start.tau
        info = start.info(n_parameters=weight.numel(), val=score, pseudo_labels=len(guessed), **trained.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), trained.history, info)


def both(shots: Images, guessed: Images) -> Images:
    """Labelled and pseudo-labelled images."""
    return Images.join(shots, guessed) if len(shots) else guessed


NOLA, NOLA_STUDENT = NoLA("nola", judges_by_student=False), NoLA("nola-student", judges_by_student=True)
