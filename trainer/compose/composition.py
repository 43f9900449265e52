"""Parts put together: one linear head over the classes of all of them, as if it had been fitted to all their images.

A class of the same name in two parts is one class, whose images and words add up: that is what two folders of the same
thing are. Names that differ in case and separators alone are refused, since nothing says whether they are one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from stages.errors import UserError
from stages.names import display_name
from stages.text import counted
from trainer.compose.forms import DEFAULT_RIDGE, RIDGES, Form, Linear, gaussian, ridge
from trainer.compose.parts import Part
from trainer.compose.sums import ImageSums, TextSums, joined_images, joined_text
from trainer.data import ClassText, Images
from trainer.likelihood import least_loss
from trainer.methods.blend import best_blend
from trainer.methods.gda import ALPHAS, DEFAULT_ALPHA
from trainer.methods.linear import LinearPredictor
from trainer.text import TextSource, calibrate_tau
from trainer.training import Score

DEFAULT_TAU = 0.05
"""Of the cosines with class text where there is no image to calibrate it on."""
ENOUGH = 30
"""Images that the temperature is fitted on, at least; fewer that are all right would ask for certainty."""
SHOWN = 5
KEPT_OF_A_PART = {"made_from", "dataset", "contents", "chosen_on", "shots", "seed"}


@dataclass(frozen=True)
class Composition:
    """A head of several parts.

    Attributes:
        predictor: serves `text`'s classes.
        validation: accuracy and minus the loss on the parts' own images that choices are made on; None without any.
        notes: lines to say.
    """

    predictor: LinearPredictor
    text: ClassText
    validation: Score | None
    notes: tuple[str, ...]


def compose(parts: Sequence[Part], *, form: Form = "gaussian") -> Composition:
    """The head of these parts, whatever others there are.

    logits = cos(x, t_c) / tau + alpha (x W^T + b), W and b in closed form of the summed images. tau, alpha, a ridge and
    what names the classes are chosen on the parts' own images for that; where those were held out, the sums that are
    used in the end have them again.

    Raises:
        UserError: parts of different encoders, class names that differ in case alone, nothing to learn from, or fewer
            than two classes.
    """
    parts = sorted(parts, key=lambda part: part.name)
    _require_together(parts)
    names = tuple(dict.fromkeys(name for part in parts for name in part.about.names))
    _require_names(parts, names)
    place = {name: i for i, name in enumerate(names)}
    where = [[place[name] for name in part.about.names] for part in parts]
    width = parts[0].about.width
    images = joined_images([(at, p.images) for at, p in zip(where, parts, strict=True) if p.images], len(names))
    choosing = joined_images([(at, p.choosing) for at, p in zip(where, parts, strict=True) if p.choosing], len(names))
    spoken = [(at, p.text) for at, p in zip(where, parts, strict=True) if p.text]
    text = joined_text(spoken, len(names), width=width) if spoken else None
    judges = _judges(parts, where)
    weights, tau, source = _words(text, judges, names)
    if images is None and weights is None:
        raise UserError("the parts have neither images nor words: name a source that has some")
    settings, val = _chosen(choosing, weights, tau, judges, form)
    weight, bias = _blended(images, weights, tau, form, settings)
    scale = settings.temperature
    info: dict[str, float | str | int] = {
        "form": form, "alpha": settings.alpha, "tau": tau, "class_text": source or "none", "parts": len(parts),
        "images": 0 if images is None else images.images, "temperature": scale,
        **({"strength": settings.strength} if form == "ridge" else {}),
        **({} if val is None else {"val_accuracy": val[0], "val_loss": -val[1]}),
    }  # fmt: skip
    predictor = LinearPredictor(names, (weight / scale).float(), (bias / scale).float(), info=info)
    return Composition(predictor, _class_text(names, text, images), val, tuple(_notes(parts, names, images)))


@dataclass(frozen=True)
class _Settings:
    alpha: float = DEFAULT_ALPHA
    strength: float = DEFAULT_RIDGE
    temperature: float = 1.0


def _added(images: ImageSums, form: Form, strength: float) -> Linear:
    return gaussian(images) if form == "gaussian" else ridge(images, strength)


def _chosen(
    choosing: ImageSums | None, weights: Tensor | None, tau: float, judges: Images, form: Form
) -> tuple[_Settings, Score | None]:
    """alpha, the ridge and how loud the scores are, by the judges; the defaults without any."""
    if not len(judges):
        return _Settings(), None
    x = judges.embeddings.double()
    zero_shot = x.new_zeros(len(x), 1) if weights is None else x @ weights.T / tau
    if choosing is None:
        loss, near = least_loss(zero_shot, judges.labels)
        accuracy = float((zero_shot.argmax(1) == judges.labels).double().mean())
        return _Settings(temperature=near if len(judges) >= ENOUGH else 1.0), (accuracy, -loss)
    zero_shot = zero_shot.expand(-1, len(choosing.counts))
    heads = {r: _added(choosing, form, r) for r in (RIDGES if form == "ridge" else (DEFAULT_RIDGE,))}

    def scores(strength: float) -> Float[Tensor, "B C"]:
        weight, bias = heads[strength]
        return x @ weight.T + bias

    strength, alpha, val = best_blend(zero_shot, scores, list(heads), ALPHAS, judges.labels)
    logits = zero_shot + alpha * scores(strength)
    spread = float(logits.std()) or 1.0
    loss, near = least_loss(logits / spread, judges.labels)
    if len(judges) < ENOUGH:
        return _Settings(alpha, strength), val
    return _Settings(alpha, strength, near * spread), (val[0], -loss)


def _blended(images: ImageSums | None, weights: Tensor | None, tau: float, form: Form, settings: _Settings) -> Linear:
    if images is None:
        assert weights is not None
        return weights / tau, weights.new_zeros(len(weights))
    weight, bias = _added(images, form, settings.strength)
    weight, bias = settings.alpha * weight, settings.alpha * bias
    return (weight if weights is None else weights / tau + weight), bias


def _words(
    text: TextSums | None, judges: Images, names: Sequence[str]
) -> tuple[Float[Tensor, "C D"] | None, float, TextSource | None]:
    """Unit class text, tau, and where it comes from: templates or prompts, whichever the judges are likelier under.

    Raises:
        UserError: some classes have words and others have none.
    """
    if text is None:
        return None, DEFAULT_TAU, None
    silent = [name for name, n, m in zip(names, text.templates, text.said, strict=True) if not n + m]
    if silent:
        raise UserError(
            f"{counted(len(silent), 'class has', 'classes have')} no words and others have some "
            f"({', '.join(silent[:SHOWN])}): embed text of all, or compose parts without text"
        )
    found: list[tuple[float, TextSource, float, Tensor]] = []
    for source, sums, count, other in (
        ("prompts", text.prompts, text.said, text.template),
        ("ensemble", text.template, text.templates, text.prompts),
    ):
        if not bool((count > 0).any()):
            continue
        weights = normalize(torch.where((count > 0)[:, None], sums, other), dim=-1)
        if not len(judges):
            found.append((0.0, source, DEFAULT_TAU, weights))  # type: ignore[arg-type]
            continue
        cosines = judges.embeddings.double() @ weights.T
        tau = calibrate_tau(cosines, judges.labels)
        loss = float(torch.nn.functional.cross_entropy(cosines / tau, judges.labels))
        found.append((loss, source, tau, weights))  # type: ignore[arg-type]
    _, source, tau, weights = min(found, key=lambda each: each[0])
    return weights, tau, source


def _judges(parts: Sequence[Part], where: Sequence[Sequence[int]]) -> Images:
    """The images of all parts that choices are made on, labelled among all classes."""
    rows = [part.judges.embeddings.float() for part in parts]
    labels = [torch.tensor(list(at))[part.judges.labels] for at, part in zip(where, parts, strict=True)]
    return Images(torch.cat(rows), torch.cat(labels))


def _class_text(names: tuple[str, ...], text: TextSums | None, images: ImageSums | None) -> ClassText:
    """What a checkpoint says of the classes."""
    if text is None:
        assert images is not None
        return ClassText(names, normalize(images.sums, dim=-1).float(), is_text=False)
    template = torch.where((text.templates > 0)[:, None], text.template, text.prompts)
    template = normalize(template, dim=-1).float()
    if not bool((text.said > 0).any()):
        return ClassText(names, template)
    prompts = normalize(torch.where((text.said > 0)[:, None], text.prompts, text.template), dim=-1).float()
    return ClassText(names, template, prompts[:, None], torch.ones(len(names), 1, dtype=torch.bool))


def _require_together(parts: Sequence[Part]) -> None:
    if not parts:
        raise UserError("there is no part to compose: name a source, NAME=SOURCE")
    first = parts[0]
    for other in parts[1:]:
        one, two = first.about, other.about
        if one.width != two.width or one.encoder_fingerprint != two.encoder_fingerprint:
            raise UserError(
                f"part {first.name!r} is of {one.encoder} ({one.width} wide, {one.encoder_fingerprint[:12]}) and part "
                f"{other.name!r} of {two.encoder} ({two.width} wide, {two.encoder_fingerprint[:12]}): heads of "
                "different encoders cannot be added up; embed both with the same one"
            )


def _require_names(parts: Sequence[Part], names: Sequence[str]) -> None:
    if len(names) < 2:
        raise UserError(f"a classifier needs at least 2 classes, the parts have {len(names)}: {', '.join(names)}")
    seen: dict[str, str] = {}
    for name in names:
        key = "".join(display_name(name).casefold().replace("-", " ").split())
        other = seen.setdefault(key, name)
        if other != name:
            whose = {n: next(p.name for p in parts if n in p.about.names) for n in (other, name)}
            raise UserError(
                f"{other!r} of part {whose[other]!r} and {name!r} of part {whose[name]!r} differ in case or separators "
                "alone: write both alike where they are one class, and make the part again"
            )


def _notes(parts: Sequence[Part], names: Sequence[str], images: ImageSums | None) -> list[str]:
    """Lines on classes of several parts, on images that two share, and on classes without images."""
    lines = []
    of = {name: [part.name for part in parts if name in part.about.names and part.images] for name in names}
    several = [name for name, own in of.items() if len(own) > 1]
    if several:
        some = ", ".join(several[:SHOWN]) + (f" and {len(several) - SHOWN} more" if len(several) > SHOWN else "")
        lines.append(
            f"{counted(len(several), 'class is', 'classes are')} in several parts, whose images add up: {some}"
        )
    for i, part in enumerate(parts):
        for other in parts[:i]:
            if twice := len(set(part.prints.tolist()) & set(other.prints.tolist())):
                shared = counted(twice, "image is", "images are")
                lines.append(f"{shared} in both {other.name} and {part.name}, and counted twice")
    if images is not None and (bare := [name for name, n in zip(names, images.counts, strict=True) if not n]):
        lines.append(f"{counted(len(bare), 'class', 'classes')} without an image, known by text alone")
    return lines


def provenance_of(parts: Sequence[Part], found: Composition, *, left_out: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says of the parts."""
    first = parts[0].about
    val, counts = found.validation, Counter[str]()
    for part in parts:
        own = [0.0] * len(part.about.names) if part.images is None else part.images.counts.tolist()
        counts.update({name: int(n) for name, n in zip(part.about.names, own, strict=True)})
    least, most = min(counts.values()), max(counts.values())
    return {
        "dataset": "+".join(dict.fromkeys(part.about.dataset for part in parts)),
        "encoder": first.encoder, "encoder_fingerprint": first.encoder_fingerprint, "width": first.width,
        "name": "composed", "method": "composed", "source": "none", "protocol": "compose",
        "shots": least if least == most else f"{least} to {most}",
        "parts": {
            part.name: part.about.model_dump(mode="json", include=KEPT_OF_A_PART)
            for part in parts
        },
        "left_out": list(left_out),
        "validation": None if val is None else {
            "accuracy": round(val[0], 8), "loss": None if not math.isfinite(val[1]) else round(-val[1], 6),
            "images": "images of the parts that alpha was chosen on",
        },
        "templates": list(dict.fromkeys(t for part in parts for t in part.about.templates)),
        "notes": list(dict.fromkeys(note for part in parts for note in part.about.notes)),
    }  # fmt: skip
