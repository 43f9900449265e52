"""Captioning (protocol 6 of the paper): a linear map from the image to the input of a frozen language model.

The map is learned on all training images and their captions, chosen on the validation images, and judged by the
captions that the model writes of the test images. CIDEr-D is 1.0 where published tables say 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Self

from stages.numbers import Shots
from stages.params import EvaluationParams, is_folder
from stages.training import TrainParams
from trainer.data.captions import CaptionFeatures
from trainer.data.pairs import CaptionTask, Pairs
from trainer.language.methods import PREFIX_METHODS, registry, with_places
from trainer.language.places import Places, caption, language_task, places, spoken_by, tunable
from trainer.language.prefix import Prefix
from trainer.language.scores import SpaceScores, caption_metrics
from trainer.language.words import words
from trainer.methods import Registry
from trainer.protocols.base import Protocol, Reads, Score, Sheet, TestSplits, from_elsewhere, same_weights

FILE = "captions.csv"
"""The caption that each method writes of each test image, below the run's folder."""
SMALL = 1000
"""With fewer judged images the record says how little they tell."""
_SPACES: dict[tuple[str, str], SpaceScores] = {}


@dataclass(frozen=True)
class Captioning(Protocol):
    """CIDEr-D, BLEU-4, ROUGE-L, and CLIPScore in the encoder's space.

    Attributes:
        places: what h, or the map, may be learned on beside the data set itself.
    """

    name: ClassVar[str] = "captioning"
    headline: ClassVar[tuple[str, ...]] = ("cider_d", "bleu_4")
    reads: ClassVar[Reads] = "captions"
    by_shots: ClassVar[bool] = False
    long_fits: ClassVar[bool] = True

    places: Places

    @classmethod
    def registry(cls) -> Registry:
        """The rows of the table."""
        return registry(PREFIX_METHODS)

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """The data sets that h, or the map, is learned on beside the one that is tested."""
        return [name for name in asked.learnt_on if not is_folder(name) and name != dataset]

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[CaptionFeatures]) -> Self:
        """With the places."""
        return cls(shots, key, places=places(asked, others))

    @property
    def title(self) -> str:
        """Name, and where else something was learned."""
        elsewhere = f", also learnt on {', '.join(self.places)}" if self.places else ""
        return f"{self.name}, all training images{elsewhere}"

    def methods(self, names: Sequence[str], features: CaptionFeatures, *, settings: TrainParams) -> list[Any]:
        """The rows, and behind each what it becomes with each place."""
        made = self.registry().make(names, settings=settings)
        here = len(features.train) >= 2
        return with_places(made, list(self.places), tunable=tunable(self.places), learns_here=here)

    def unfit(self, features: CaptionFeatures) -> str | None:
        """Too few images to learn from, and nothing that was learned elsewhere.

        Raises:
            UserError: a data set to learn on was embedded with other weights.
        """
        from_elsewhere(features, self.places)
        same_weights(features, [there for there in self.places.values() if isinstance(there, CaptionFeatures)])
        if len(features.train) < 2 and not self.places:
            return (
                f"{len(features.train)} training images have captions, and 2 are needed at least; or name in "
                "evaluation.learnt_on a data set that has more"
            )
        return None

    def caveats(self, features: CaptionFeatures) -> list[str]:
        """Lines on what is learned and how."""
        lines = [
            "captioning: the prefix is mapped from one pooled vector an image; LiMBeR's published numbers use the "
            "encoder's features before pooling"
        ]
        if len(features.train) < 2:
            lines.append(f"{features.dataset}: no training captions: everything was learned elsewhere")
        if features.folds is not None:
            lines.append(f"{features.dataset}: captioning is judged on the split `test`, not cross-validated")
        lines += odd_captions(features)
        return lines

    def task(self, features: CaptionFeatures, source: str, *, seed: int) -> CaptionTask:
        """All training images and the validation images."""
        return language_task(features, self.places)

    def score(
        self, predictor: Prefix, features: CaptionFeatures, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """The metrics over the test images and all their captions."""
        pairs = tests.of(replace(features, folds=None))  # the maps have seen the images of the other splits
        if not len(pairs):
            return Score(caption_metrics([], []))
        x = pairs.images.all()
        said = caption(predictor, x, what=f"captions of {features.dataset}")
        own = captions_by_image(pairs)
        metrics = caption_metrics(said, own) | space_of(features)(x, said, own)
        rows = [(image_id, text, refs[0]) for image_id, text, refs in zip(pairs.image_ids, said, own, strict=True)]
        notes = (*spoken_by(predictor), *space_of(features).notes)
        return Score(metrics, sheets={FILE: Sheet(("image_id", "caption", "reference"), rows)}, notes=notes)

    def remarks(self, features: CaptionFeatures, tests: TestSplits) -> list[str]:
        """How much the test images can tell."""
        pairs = tests.of(replace(features, folds=None))
        lines = []
        if 0 < len(pairs) < SMALL:
            lines.append(
                f"{features.dataset}: {len(pairs)} images are judged: far too few for a comparison with published "
                "numbers, and the intervals over seeds do not show what other images would change"
            )
        if len(pairs) == 1:
            lines.append(f"{features.dataset}: CIDEr-D weighs words over images and has no value for a single one")
        alone = int((pairs.counts == 1).sum())
        if alone:
            lines.append(
                f"{features.dataset}: {alone} of {len(pairs)} judged images have one caption only: scores against one "
                "reference are lower and rougher than against five"
            )
        return lines


def captions_by_image(pairs: Pairs) -> list[list[str]]:
    """The captions of each image."""
    bounds = pairs.first.tolist()
    return [list(pairs.texts[a:b]) for a, b in pairwise(bounds)]


def space_of(features: CaptionFeatures) -> SpaceScores:
    """The scores in the space of the stores; the encoder is loaded once a process."""
    key = features.encoder, features.encoder_fingerprint
    if key not in _SPACES:
        _SPACES[key] = SpaceScores(*key)
    return _SPACES[key]


def odd_captions(features: CaptionFeatures) -> list[str]:
    """Lines on captions that a language model learns little from."""
    texts = [*features.train.texts, *features.val.texts]
    empty = sum(not words(text) for text in texts)
    return [f"{features.dataset}: {empty} captions hold no word; they are learned as empty ones"] if empty else []
