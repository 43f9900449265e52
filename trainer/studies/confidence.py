"""`trainer confidence`: how far the probabilities, the sets and the distance of a data set can be trusted, by method.

Every method is fitted few-shot with every seed; its temperature and its scores come from each kind of labelled images
that there are in turn (`trainer/confidence/held_out.py`), so that one sees what the few images of the choices cost
beside images that no choice was made on. Then, and only then, the test split is read and judged. Images of other data
sets, and those of half of the classes where the other half was learned, show what the distance tells apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from stages.command import progress, table
from stages.files import write_text
from stages.numbers import Shots
from trainer.confidence import Calibration, Distance, measures, observe
from trainer.confidence.conformal import prediction_sets, threshold
from trainer.confidence.distance import KEPT
from trainer.confidence.held_out import CHOSEN_ON, HELD_OUT, LEFT_OVER, every_kind
from trainer.data import Images
from trainer.data.features import Features
from trainer.methods import Method, Predictor
from trainer.protocols import halves
from trainer.protocols.base import only_classes, scores
from trainer.protocols.few_shot import FewShot
from trainer.runs.fits import timed_fit
from trainer.runs.record import csv_text

OTHER_HALF = "other half of its classes"
SHORT = {LEFT_OVER: "left over", CHOSEN_ON: "of the choices", HELD_OUT: "held out of the shots"}
"""Kinds of images in tables."""


@dataclass(frozen=True)
class Trusted:
    """One method with the temperature of one kind of images, mean over the seeds; measured on the test split.

    Attributes:
        on: what the temperature and the scores come from, a word of SHORT.
        images: how many.
        ece, nll, brier: with the temperature, and `before` without it.
        coverage: share of test images whose set holds the right class, at `rate`.
        lowest: the same, of the worst seed.
        size: classes a set.
    """

    dataset: str
    shots: Shots
    method: str
    on: str
    images: int
    seeds: int
    accuracy: float
    temperature: float
    ece_before: float
    ece: float
    nll_before: float
    nll: float
    brier_before: float
    brier: float
    rate: float
    coverage: float
    lowest: float
    size: float


@dataclass(frozen=True)
class Apart:
    """Images from elsewhere, and images of the classes, by their distance; mean over the seeds.

    Attributes:
        auroc: of telling test images of the classes from those from elsewhere.
        kept: share of the test images of the classes that get a label, where the limit was set to keep KEPT.
        found: share of the images from elsewhere that get none.
    """

    dataset: str
    shots: Shots
    elsewhere: str
    images: int
    seeds: int
    auroc: float
    kept: float
    found: float


@dataclass(frozen=True)
class _Fit:
    method: str
    source: str
    seed: int
    predictor: Predictor
    calibration: Calibration


def trusted(
    features: Features, methods: Sequence[Method], *, shots: Shots, seeds: Sequence[int], rates: Sequence[float]
) -> list[Trusted]:
    """Fit all, then judge all on the test split.

    Args:
        rates: error rates of the sets.
    """
    protocol = FewShot(shots, "few-shot", up_to=True)
    plan = [(method, seed) for seed in seeds for method in methods]
    fits = [
        fit
        for method, seed in progress(plan, what=f"training {features.dataset}", unit="fit")
        for fit in _fits(features, protocol, method, seed)
    ]
    test = features.test().images
    found: dict[tuple[str, str, float], list[tuple[int, dict[str, float]]]] = {}
    for fit in fits:
        for rate, values in _judged(fit, features, test, rates):
            key = fit.method, fit.calibration.source, rate
            found.setdefault(key, []).append((fit.calibration.images, values))
    rows = []
    for (method, on, rate), runs in found.items():
        means = {name: float(np.mean([values[name] for _, values in runs])) for name in runs[0][1]}
        lowest = min(values["coverage"] for _, values in runs)
        rows.append(
            Trusted(
                dataset=features.dataset, shots=shots, method=method, on=SHORT[on], images=runs[0][0], seeds=len(runs),
                rate=rate, lowest=lowest, **means,
            )
        )  # fmt: skip
    return rows


def _fits(features: Features, protocol: FewShot, method: Method, seed: int) -> Iterator[_Fit]:
    source = features.sources[0] if method.uses_prompts and features.sources else "none"
    task = protocol.task(features, source, seed=seed)
    predictor, _ = timed_fit(method, task, seed)
    for images in every_kind(task, protocol.left_over(features, seed=seed), seed=seed):
        scorer = predictor if images.refit is None else timed_fit(method, images.refit, seed)[0]
        calibration, _ = images.measured(scorer, task.text)
        yield _Fit(method.name, source, seed, predictor, calibration)


def _judged(
    fit: _Fit, features: Features, test: Images, rates: Sequence[float]
) -> Iterator[tuple[float, dict[str, float]]]:
    """For each rate the fields of `Trusted` that are measured."""
    text, temperature = features.text[fit.source], fit.calibration.temperature
    tiles = list(scores(fit.predictor, test, text))
    before, after = (measures(observe(tiles, test.labels, temperature=t)) for t in (1.0, temperature))
    logits = torch.cat([tile for _, tile in tiles]).double()
    shares = (logits / temperature).softmax(1)
    values = {name: after[name] for name in ("ece", "nll", "brier")}
    values |= {f"{name}_before": before[name] for name in values}
    values["accuracy"] = float((shares.argmax(1) == test.labels).double().mean())
    assert fit.calibration.scores is not None
    for rate in rates:
        inside = prediction_sets(shares, threshold(fit.calibration.scores, rate))
        coverage = float(inside.gather(1, test.labels[:, None]).double().mean())
        size = float(inside.sum(1).double().mean())
        yield rate, {**values, "temperature": temperature, "coverage": coverage, "size": size}


def apart(features: Features, others: Sequence[Features], *, shots: Shots, seeds: Sequence[int]) -> list[Apart]:
    """What the distance tells apart: test images from those of other data sets, and half of the classes from the rest.

    Args:
        others: data sets embedded with the same weights; their test images are looked at.
    """
    protocol = FewShot(shots, "few-shot", up_to=True)
    classes = len(features.class_names)
    base, new = halves(classes)
    known: list[tuple[str, range, Distance]] = []
    for seed in seeds:
        task = protocol.task(features, "none", seed=seed)
        left = protocol.left_over(features, seed=seed)
        for name, labels in (("", range(classes)), (OTHER_HALF, base)):
            part = [only_classes(images, labels) for images in (task.train, task.val, left)]
            own = type(task)(task.text.select(list(labels)), part[0], part[1])
            images = next(every_kind(own, part[2], seed=seed), None)
            if images is not None:
                known.append((name, labels, images.distance(own.train)))
    test = features.test().images
    elsewhere = {other.dataset: other.test().images for other in others}
    rows = []
    for name, strangers in [*elsewhere.items(), (OTHER_HALF, only_classes(test, new))]:
        found = [
            _told(distance, only_classes(test, labels), strangers)
            for about, labels, distance in known
            if (about == OTHER_HALF) == (name == OTHER_HALF)
        ]
        if found and len(strangers):
            means = np.mean(found, axis=0).tolist()
            rows.append(Apart(features.dataset, shots, name, len(strangers), len(found), *means))
    return rows


def _told(distance: Distance, own: Images, strangers: Images) -> tuple[float, float, float]:
    near, far = distance.of(own.embeddings), distance.of(strangers.embeddings)
    limit = distance.limit(KEPT)
    auroc = roc_auc_score([0] * len(near) + [1] * len(far), torch.cat([near, far]).numpy())
    return float(auroc), float((near <= limit).double().mean()), float((far > limit).double().mean())


def as_text(rows: Sequence[Trusted], distances: Sequence[Apart]) -> str:
    """Both tables for people: shares in percent."""
    blocks = []
    if rows:
        heads = ("dataset", "shots", "method", "fitted on", "images", "accuracy", "T", "ECE", "before", "NLL", "before",
                 "rate", "coverage", "lowest", "classes")  # fmt: skip
        cells = [
            [
                r.dataset, r.shots, r.method, r.on, r.images, _percent(r.accuracy), f"{r.temperature:.2f}",
                _percent(r.ece), _percent(r.ece_before), f"{r.nll:.3f}", f"{r.nll_before:.3f}", f"{r.rate:g}",
                _percent(r.coverage), _percent(r.lowest), f"{r.size:.2f}",
            ]
            for r in rows
        ]  # fmt: skip
        blocks.append(table(heads, cells))
    if distances:
        heads_ = ("dataset", "shots", "images from elsewhere", "images", "AUROC", "own kept", "elsewhere found")
        told = [
            [d.dataset, d.shots, d.elsewhere, d.images, f"{d.auroc:.3f}", _percent(d.kept), _percent(d.found)]
            for d in distances
        ]
        blocks.append(table(heads_, told))
    return "\n\n".join(blocks)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def write(rows: Sequence[Trusted], distances: Sequence[Apart], folder: Path) -> None:
    """Write `probabilities.csv` and `distance.csv`, each atomically."""
    for name, kind, lines in (("probabilities", Trusted, rows), ("distance", Apart, distances)):
        header = [field.name for field in fields(kind)]
        write_text(folder / f"{name}.csv", csv_text(header, [astuple(line) for line in lines]))
