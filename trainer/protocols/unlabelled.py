"""Images without labels: semi-supervised, unsupervised and transductive learning (Menghini et al., "Enhancing CLIP with
CLIP", NeurIPS 2023).

    semi-supervised   k labelled images a class, and the other training images without labels
    unsupervised      the training images without labels, and nothing else
    transductive      k labelled images a class, or none, and the images that are judged, without labels

What a method gets is `trainer.data.Unlabelled`, which has no labels. In the first two it is there when a method is
fitted. Test images are read when everything is fitted and chosen, here as everywhere: a transductive method learns from
them then, while they are judged (`split_logits`), and nothing is chosen by them.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from stages.text import counted
from trainer.data import Images, Task, Unlabelled
from trainer.data.draws import drawn, fewer, not_drawn
from trainer.data.features import Features
from trainer.protocols.few_shot import FewShot

NO_SHOTS = 0


@dataclass(frozen=True)
class SemiSupervised(FewShot):
    """Few-shot, with the other training images in reach of the methods, without labels."""

    name: ClassVar[str] = "semi-supervised"
    gives_unlabelled: ClassVar[Literal["beforehand", "judging"] | None] = "beforehand"

    @property
    def title(self) -> str:
        """Name, shots and what else is seen."""
        return f"{super().title}, the other training images without labels"

    def unfit(self, features: Features) -> str | None:
        """Too few training images that something is left."""
        counts = features.train.images.labels.bincount(minlength=len(features.class_names)).tolist()
        if features.indices is None and not self.up_to and self.shots != "all" and self.shots > min(counts):
            lower = f"lower --shots to {min(counts)}" if 0 < min(counts) < max(counts) else "lower --shots"
            return f"--shots {self.shots}: {fewer(counts, self.shots, features.class_names)}: {lower}, or add images"
        if len(self._others(features, seed=1)):
            return None
        taken = f"--shots {self.shots} takes every training image"
        return f"{taken}, and none is left without a label: lower --shots, or add images"

    def caveats(self, features: Features) -> list[str]:
        """How many images there are without labels."""
        return [f"{self.key}: {counted(len(self._others(features, seed=1)), 'training image')} without a label"]

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The few-shot task and the unlabelled images."""
        task: Task = super().task(features, source, seed=seed)
        return replace(task, unlabelled=Unlabelled.of(self._others(features, seed=seed)))

    def left_over(self, features: Features, *, seed: int) -> Images:
        """Of the validation split alone: the training images are learned from, be it without labels."""
        used = drawn(features, self.shots, seed=seed, up_to=self.up_to)
        return not_drawn(features.val, "val", used).centre_crops()

    def _others(self, features: Features, *, seed: int) -> Images:
        used = drawn(features, self.shots, seed=seed, up_to=self.up_to)
        return not_drawn(features.train, "train", used)


@dataclass(frozen=True)
class Unsupervised(FewShot):
    """No label at all: what is learned, is learned from the training images and the names of the classes."""

    name: ClassVar[str] = "unsupervised"
    by_shots: ClassVar[bool] = False
    gives_unlabelled: ClassVar[Literal["beforehand", "judging"] | None] = "beforehand"

    @property
    def gives_labels(self) -> bool:
        """None."""
        return False

    @property
    def title(self) -> str:
        """Name and what is seen."""
        return f"{self.name}, all training images without labels"

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The classes, and images of which nobody says what they show."""
        none = features.train.images.take(features.train.images.labels.new_zeros(0))
        unlabelled = Unlabelled.of(features.train.images)
        return Task(self.text(features, source), none, none, unlabelled)

    def left_over(self, features: Features, *, seed: int) -> Images:
        """None: nothing has a label."""
        return features.train.images.take(features.train.images.labels.new_zeros(0))


@dataclass(frozen=True)
class Transductive(FewShot):
    """Few-shot, or without shots, by methods that look at all test images before they judge the first.

    Their probabilities are not calibrated: on images that they were not adapted to they are another classifier.
    """

    name: ClassVar[str] = "transductive"
    judges_all: ClassVar[bool] = False
    without_shots: ClassVar[bool] = True
    gives_unlabelled: ClassVar[Literal["beforehand", "judging"] | None] = "judging"

    @property
    def gives_labels(self) -> bool:
        """Whether there are shots."""
        return self.shots != NO_SHOTS

    @property
    def title(self) -> str:
        """Name, shots and what else is seen."""
        return f"{super().title}, and images of the test split, no labels"

    def task(self, features: Features, source: str, *, seed: int) -> Task:
        """The few-shot task; the unlabelled images come when they are judged."""
        task: Task = super().task(features, source, seed=seed)
        return replace(task, transductive=True)
