"""Several classes an image: k images a class at least, all classes, the whole test split; by mAP and F1.

`multi-label` draws k images a class (0: none, for methods that learn from sentences); `multi-label-long-tailed` draws a
long tail. Metrics: `map`, `cf1` and `of1` (`trainer/multilabel/metrics.py`), and with a long tail the mAP of its head,
middle and tail. Two files of the run hold each class and each test image of the first seed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch

from stages import UserError
from stages.numbers import Shots, amount
from stages.params import EvaluationParams
from stages.stores.artifacts import NO_LLM
from stages.text import counted
from stages.training import TrainParams
from trainer.data import ClassText
from trainer.data.long_tail import head_medium_tail, long_tail, tail_of
from trainer.methods import Registry
from trainer.multilabel.data import Labelled, LabelTask, check_labels
from trainer.multilabel.draws import few_shot_labels
from trainer.multilabel.features import LabelFeatures
from trainer.multilabel.metrics import average_precisions, f1_by_class, f1_of_all, mean_of
from trainer.multilabel.registry import LABEL_GROUPS, LABEL_METHODS
from trainer.protocols.base import Protocol, Reads, Score, Sheet, TestSplits
from trainer.runs.scoring import TILE

CLASSES_FILE, IMAGES_FILE = "label-classes.csv", "label-predictions.csv"
KEPT_IMAGES = 20_000
"""Test images that the file keeps, at most."""


@dataclass(frozen=True)
class MultiLabel(Protocol):
    """mAP over the classes, mean F1 of the classes and F1 of all decisions."""

    name: ClassVar[str] = "multi-label"
    headline: ClassVar[tuple[str, ...]] = ("of1", "map")
    reads: ClassVar[Reads] = "labels"
    without_shots: ClassVar[bool] = True

    @classmethod
    def registry(cls) -> Registry:
        """The methods that tell several classes an image."""
        return Registry(LABEL_METHODS, LABEL_GROUPS)

    @property
    def title(self) -> str:
        """Name and shots."""
        least = "" if self.shots in ("all", 0) or self.up_to else "at least "
        return f"{self.name}, {least}{amount(self.shots, up_to=self.up_to)}"

    def methods(self, names: Sequence[str], features: LabelFeatures, *, settings: TrainParams) -> list[Any]:
        """Those that have all that they need.

        Raises:
            UserError: one that was named itself lacks something.
        """
        found = []
        for method in self.registry().make(names, settings=settings):
            lack = self._lacks(method, features)
            if lack is None:
                found.append(method)
            elif method.name in names:
                able = [m.name for m in self.registry().make(list(LABEL_METHODS), settings=settings)
                        if self._lacks(m, features) is None]  # fmt: skip
                others = f", or choose others: --methods {','.join(able[:3])}" * bool(able)
                raise UserError(f"{features.dataset}: {method.name} needs {lack}{others}")
        return found

    def lacking(self, names: Sequence[str], features: LabelFeatures, *, settings: TrainParams) -> list[str]:
        """What they lack, one line each."""
        found: dict[str, list[str]] = {}
        for method in self.registry().make(names, settings=settings):
            if lack := self._lacks(method, features):
                found.setdefault(lack, []).append(method.name)
        return [
            f"{features.dataset}: {self.key}: left out are {', '.join(m)}, which need {lack}"
            for lack, m in found.items()
        ]

    def _lacks(self, method: Any, features: LabelFeatures) -> str | None:
        """What would have to be there; None where nothing lacks."""
        if method.needs in ("images", "shots") and self.shots == 0:
            return "images to learn from: --shots 1 or more"
        if method.needs in ("text", "shots") and not _has_text(features):
            return f"class text: run `pipeline embed-text --dataset {features.dataset}`"
        if method.needs == "prompts" and not features.sources:
            own = f"--dataset {features.dataset}"
            return f"reference prompts: run `pipeline generate-prompts {own}` and `pipeline embed-text {own}`"
        return None

    def caveats(self, features: LabelFeatures) -> list[str]:
        """Lines on what is left out, and on the draws."""
        dataset, lines = features.dataset, []
        if self.shots == 0:
            lines.append(
                f"{dataset}: {self.key}: no image is learned from; probabilities and threshold are fitted to sentences "
                "on standardised scores"
            )
        elif not len(features.val):
            lines.append(
                f"{dataset} has no validation split: choices are made on training images that were not drawn, or on a "
                "part of those drawn"
            )
        if self.shots != 0:
            lines += self._drawn(features)
        if features.captions is not None:
            lines.append(
                f"{dataset}: tai and lmpt read the captions of all training images, drawn or not; their classes are "
                "those that the words name"
            )
        return lines

    def _drawn(self, features: LabelFeatures) -> list[str]:
        """How many images of each class a draw brings: one of several classes counts for each."""
        try:
            train = self.task(features, NO_LLM, seed=1).train
        except UserError:  # said when the task itself is drawn
            return []
        least, most_ = int(train.counts.min()), int(train.counts.max())
        return [f"{features.dataset}: {self.key}: seed 1 draws {len(train)} images, {least} to {most_} of each class"]

    def remarks(self, features: LabelFeatures, tests: TestSplits) -> list[str]:
        """Classes and images of the test split that tell little."""
        labels = tests.of(features).images.labels
        empty, none = int((~labels.any(0)).sum()), int((~labels.any(1)).sum())
        lines = [f"{features.dataset} has no test image of {empty} of its {labels.shape[1]} classes: no part of mAP"]
        lines = lines * bool(empty)
        return [
            *lines,
            *[f"{features.dataset}: {none} of {counted(len(labels), 'test image')} have none of the classes"]
            * bool(none),
        ]

    def wanted(self, features: LabelFeatures, seed: int) -> list[int] | None:
        """Images of each class; None: `shots` of all."""
        return None

    def task(self, features: LabelFeatures, source: str, *, seed: int) -> LabelTask:
        """The task of one seed: no test image is in it.

        Raises:
            UserError: a class has fewer images than shots.
        """
        nobody = torch.zeros(0, dtype=torch.long, device=features.device)
        if self.shots == 0:
            train = val = features.train.images.take(nobody)
        else:
            rows, split, choose = few_shot_labels(
                features.train.images, features.val.images, self.shots, seed=seed, names=features.class_names,
                up_to=self.up_to, wanted=self.wanted(features, seed),
            )  # fmt: skip
            train = features.train.take(rows)
            val = (features.val if split == "val" else features.train).take(choose)
        text = self.text(features, source)
        task = LabelTask(text, train, val.float32(), sentences_of(text, features))
        check_labels(task)
        return task

    def text(self, features: Any, source: str) -> ClassText:
        """The classes of its task."""
        found: ClassText = features.text[source]
        return found

    def score(self, predictor: Any, features: Any, source: str, tests: TestSplits, *, new_classes: bool) -> Score:
        """Judge on every test image."""
        test = tests.of(features)
        text = self.text(features, source)
        x, parts = test.images.embeddings, []
        for start in range(0, len(test), TILE):
            parts.append(torch.sigmoid(predictor.logits(x[start : start + TILE].float(), text)).cpu())
        shares = torch.cat(parts).numpy() if parts else np.zeros((0, len(text)))
        labels = test.images.labels.cpu().numpy()
        decided = shares > predictor.threshold
        precision, f1 = average_precisions(shares, labels), f1_by_class(decided, labels)
        metrics = {"map": mean_of(precision), "cf1": mean_of(f1), "of1": f1_of_all(decided, labels)}
        metrics |= self.parts_of(precision, features)
        names = features.class_names
        by_class = [
            (name, int(labels[:, c].sum()), int(decided[:, c].sum()), _rounded(precision[c]), _rounded(f1[c]))
            for c, name in enumerate(names)
        ]
        of_image = [
            (image_id, _listed(names, labels[row]), _listed(names, decided[row]), names[int(shares[row].argmax())],
             round(float(shares[row].max()), 4))
            for row, image_id in enumerate(test.image_ids[:KEPT_IMAGES])
        ]  # fmt: skip
        sheets = {
            CLASSES_FILE: Sheet(("class", "images", "found", "average_precision", "f1"), by_class),
            IMAGES_FILE: Sheet(("image_id", "classes", "predicted", "likeliest", "probability"), of_image),
        }
        return Score(metrics, sheets=sheets if len(labels) else {})

    def parts_of(self, precision: "np.ndarray", features: LabelFeatures) -> dict[str, float]:
        """Further metrics, of some of the classes."""
        return {}


@dataclass(frozen=True)
class LongTailedLabels(MultiLabel):
    """`multi-label` with a long tail: k IF^(-rank / (C - 1)) images of each class at least, ranks by seed.

    Attributes:
        imbalance: IF.
        seed: whose order of the classes head, medium and tail are of.
    """

    name: ClassVar[str] = "multi-label-long-tailed"
    headline: ClassVar[tuple[str, ...]] = ("map", "map_tail")
    own_settings: ClassVar[tuple[str, ...]] = ("imbalance",)
    without_shots: ClassVar[bool] = False

    imbalance: float = 16.0
    seed: int = 0

    @classmethod
    def settle(cls, shots: Shots, key: str, asked: EvaluationParams, others: Sequence[Any]) -> Self:
        """With the imbalance.

        Raises:
            UserError: all images are asked for.
        """
        return cls(_number(shots, cls.name), key, up_to=True, imbalance=asked.imbalance)

    @property
    def title(self) -> str:
        """Name, shots and imbalance."""
        return f"{self.name}, {tail_of(self.shots, self.imbalance)}"

    def seeded(self, seed: int) -> Self:
        """With the order of the classes of this seed."""
        return replace(self, seed=seed)

    def wanted(self, features: LabelFeatures, seed: int) -> list[int] | None:
        """The long tail of this seed."""
        return long_tail(_number(self.shots, self.name), self.imbalance, len(features.class_names), seed=seed)[0]

    def parts_of(self, precision: "np.ndarray", features: LabelFeatures) -> dict[str, float]:
        """mAP of head, middle and tail."""
        _, order = long_tail(_number(self.shots, self.name), self.imbalance, len(precision), seed=self.seed)
        return {f"map_{part}": mean_of(precision, own) for part, own in head_medium_tail(order).items() if own}


def _number(shots: Shots, name: str) -> int:
    if shots == "all":
        raise UserError(
            f"--shots all: {name} draws a long tail from a number of images, such as --shots 16", exit_code=2
        )
    return shots


def sentences_of(text: ClassText, features: LabelFeatures) -> Labelled:
    """The prompts of the classes (their templates where there are none), each of its class; and captions of training
    images, with the classes that they name.
    """
    classes, device = len(text), features.device
    if not _has_text(features):
        empty = features.train.images.take(torch.zeros(0, dtype=torch.long, device=device))
        return empty.float32()
    if text.prompts is not None:
        rows, mask = text.require_prompts()
    else:
        rows = (text.template[:, None] if text.templates is None else text.templates).float()
        mask = torch.ones(rows.shape[:2], dtype=torch.bool, device=device)
    owner = torch.arange(classes, device=device)[:, None].expand(mask.shape)[mask]
    found = Labelled(rows[mask], torch.eye(classes, dtype=torch.bool, device=device)[owner])
    return found if features.captions is None else Labelled.join(found, features.captions.sentences)


def _has_text(features: LabelFeatures) -> bool:
    return any(text.is_text for text in features.text.values()) and (
        features.text[NO_LLM].is_text or bool(features.sources)
    )


def _listed(names: Sequence[str], has: "np.ndarray") -> str:
    return json.dumps([names[c] for c in np.flatnonzero(has)], ensure_ascii=False)


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
