"""Retrieval (protocol 5 of the paper): captions by images and images by captions, h(x) as the query.

Karpathy's split as the field uses it: all training images, `restval` among them; a hit if any caption of the image is
among the first K; every caption a query for its image. `evaluation.folds` cross-validates sets too small for a split.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxtyping import Int
from torch import Tensor

from stages.numbers import Shots
from stages.params import EvaluationParams, is_folder
from stages.training import TrainParams
from trainer.aape.captions import CaptionAAPE
from trainer.checkpoint import load_learned
from trainer.data.captions import CaptionFeatures
from trainer.data.pairs import CaptionTask, Pairs, check_pairs, distinct
from trainer.methods import Registry
from trainer.protocols.base import Protocol, Reads, Score, Sheet, TestSplits, from_elsewhere, same_weights
from trainer.ranks import DIRECTIONS, Ranks, merged, ranks, retrieval_metrics
from trainer.retrieval import CAPTION_METHODS, GROUPS, CrossFitted, Folded, FoldedTask, elsewhere

FILE = "retrieval.csv"
"""What stood first for each query, below the run's folder."""
SMALL = 1000
"""With fewer judged images the record says how little they tell."""
KEPT_QUERIES = 1000
"""Queries of each direction that the file keeps, at most."""


@dataclass(frozen=True)
class Retrieval(Protocol):
    """R@1, R@5, R@10 and the median rank of both directions.

    Attributes:
        places: what AAPE may be learnt on beside the data set itself: features of it, or the folder of a checkpoint.
    """

    name: ClassVar[str] = "retrieval"
    headline: ClassVar[tuple[str, ...]] = ("i2t_r@1", "t2i_r@1")
    reads: ClassVar[Reads] = "captions"
    by_shots: ClassVar[bool] = False

    places: Mapping[str, CaptionFeatures | Path]

    @classmethod
    def registry(cls) -> Registry:
        """The methods that make queries of images."""
        return Registry(CAPTION_METHODS, GROUPS)

    @classmethod
    def tests_on(cls, asked: EvaluationParams, *, dataset: str, datasets: Sequence[str]) -> list[str]:
        """The data sets that AAPE is learnt on beside the one that is tested."""
        return [name for name in asked.learnt_on if not is_folder(name) and name != dataset]

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[CaptionFeatures]) -> Self:
        """With the places."""
        folders = [Path(place) for place in asked.learnt_on if is_folder(place)]
        return cls(shots, key, {each.dataset: each for each in others} | {folder.name: folder for folder in folders})

    @property
    def title(self) -> str:
        """Name, and where else AAPE was learnt."""
        places = f", also learnt on {', '.join(self.places)}" if self.places else ""
        return f"{self.name}, all training images{places}"

    def methods(self, names: Sequence[str], features: CaptionFeatures, *, settings: TrainParams) -> list[Any]:
        """The methods, and behind each what it becomes learnt elsewhere; cross-fitted where there are folds."""
        found = []
        for method in self.registry().make(names, settings=settings):
            found.append(method)
            for place, there in self.places.items():
                found += elsewhere(method, place, fitted=isinstance(there, Path))
        if not _learns(features):
            found = [method for method in found if not method.learns]
        if features.single:  # the mean of one caption is that caption
            found = [method for method in found if not getattr(method, "merges", False)]
        return found if features.folds is None else [CrossFitted(each) for each in found]

    def unfit(self, features: CaptionFeatures) -> str | None:
        """Nothing here; but data sets of different weights are refused."""
        from_elsewhere(features, self.places)
        same_weights(features, [there for there in self.places.values() if isinstance(there, CaptionFeatures)])
        return None

    def caveats(self, features: CaptionFeatures) -> list[str]:
        """Lines on the draw, and on what is left out."""
        lines = [f"{features.dataset}: one caption an image: caption-mean is left out"] if features.single else []
        if features.folds is not None:
            lines.append(
                f"{features.dataset}: cross-validated in {features.folds} parts of all images, whatever their split: "
                "each is judged among the images of its own part, by a fit without them; a checkpoint is fitted on all"
            )
        elif not _learns(features):
            lines.append(
                f"{features.dataset}: {len(features.train)} training images with captions: methods that learn on them "
                "are left out"
            )
        elif len(features.val) < 2:
            lines.append(
                f"{features.dataset}: no validation images: choices are made on training images held out by seed"
            )
        return lines

    def task(self, features: CaptionFeatures, source: str, *, seed: int) -> CaptionTask:
        """All training images and the validation images; with folds all images, to be fitted on in parts."""
        there: dict[str, Any] = {}
        for place, learned in self.places.items():
            if isinstance(learned, Path):
                loaded = load_learned(learned, CaptionAAPE, device=features.device)
                loaded.require_encoder(
                    name=features.encoder, fingerprint=features.encoder_fingerprint, width=features.width
                )
                there[place] = loaded.predictor
            else:
                there[place] = CaptionTask(learned.train, learned.val)
        if features.folds is not None:
            return FoldedTask(features.all(), None, there, folds=features.folds, seed=seed)
        task = CaptionTask(features.train, features.val, there)
        if _learns(features):
            check_pairs(task)
        return task

    def score(
        self, predictor: Any, features: CaptionFeatures, source: str, tests: TestSplits, *, new_classes: bool
    ) -> Score:
        """Both directions over the test images and all their captions."""
        pairs = tests.of(features)
        pairs = merged(pairs) if getattr(predictor, "merges", False) else pairs
        found = predictor.ranks(pairs) if isinstance(predictor, Folded) else ranks(pairs, predictor.embed)
        return Score(retrieval_metrics(found), sheets={FILE: _sheet(pairs, found)} if pairs.texts else {})

    def served(self, predictor: Any) -> Any:
        """Of a cross-validation the fit on all images."""
        return predictor.whole if isinstance(predictor, Folded) else predictor

    def remarks(self, features: CaptionFeatures, tests: TestSplits) -> list[str]:
        """How much the test images can tell, and which cannot be told apart."""
        pairs = tests.of(features)
        lines = []
        if features.folds is not None:
            whole = retrieval_metrics(ranks(pairs, lambda x: x))
            i2t, t2i = (f"{100 * whole[f'{way}_r@1']:.1f} %" for way in DIRECTIONS)
            lines.append(
                f"{features.dataset}: raw cosines among all {len(pairs)} images at once: R@1 {i2t} image to text, "
                f"{t2i} text to image"
            )
        if 0 < len(pairs) < SMALL:
            margin = 196 * (0.25 / len(pairs)) ** 0.5
            lines.append(
                f"{features.dataset}: {len(pairs)} images are judged: a share of 50 % of so few is known to "
                f"± {margin:.0f} points, which the intervals over seeds do not show"
            )
        same = len(pairs) - distinct(pairs.images)
        if same:
            lines.append(
                f"{features.dataset}: {same} judged images have the embedding of another: as ties they count against"
            )
        return lines


def _learns(features: CaptionFeatures) -> bool:
    """Whether there are images to learn from; NoCaps has none."""
    return features.folds is not None or len(features.train) > 1


def _sheet(pairs: Pairs, found: Ranks) -> Sheet:
    """The first queries of each direction; `caption` is of the image: its first one, or the query itself."""
    ids, texts, owner = pairs.image_ids, pairs.texts, pairs.owner.tolist()
    i2t = [
        ("i2t", ids[i], texts[int(pairs.first[i])], rank, texts[first])
        for i, (rank, first) in enumerate(_first(found.image_to_text, found.first_text))
    ]
    t2i = [
        ("t2i", ids[owner[p]], texts[p], rank, ids[first])
        for p, (rank, first) in enumerate(_first(found.text_to_image, found.first_image))
    ]
    return Sheet(("direction", "image_id", "caption", "rank", "found"), [*i2t, *t2i])


def _first(rank: Int[Tensor, " Q"], first: Int[Tensor, " Q"]) -> Iterator[tuple[int, int]]:
    return zip(rank[:KEPT_QUERIES].tolist(), first[:KEPT_QUERIES].tolist(), strict=True)
