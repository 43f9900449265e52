"""AAPE+ that learns from images nobody labelled: they are one more voice, as loud as makes labelled images likeliest.

    logits(x) = a_p plus(x) + a_u u(x),    u_c(x) = x A m_c - m_c A m_c / 2,    A = (S / ridge + I)^-1
    m_c = sum_i q_ic x_i / sum_i q_ic,     q_i = softmax(logits(x_i)), or one_hot(y_i) where there is a label

plus is AAPE+ as it is, S the covariance of the images without labels, m_c a class's mean over images of both kinds: a
mixture of Gaussians with one covariance by expectation and maximisation, in closed form, that starts at AAPE+. How much
the voice says, its ridge and the number of rounds are chosen as everything in AAPE+ is, by the likelihood of labelled
images that nothing was fitted to. Where they grow no likelier by it, or there are none, AAPE+ stays what it is.

Without any label there is nothing to choose by: the text alone stands in the place of plus, and one round is made with
a fixed ridge, u as loud as the text where a class has many images, half as loud where it has USUAL_IMAGES.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.aape_plus import Scores, Voices, weigh
from trainer.aape_plus.ridge import decompose
from trainer.aape_plus.scores import added, linear
from trainer.aape_plus.voices import GAIN, MOST_SCORES, UNSEEN_SHARE, USUAL_UNSEEN, likeliest
from trainer.data import ClassText, Images, Task, Unlabelled
from trainer.data.draws import shuffled
from trainer.methods.aape_plus import AAPEPlus, AAPEPlusPredictor, Settled, ShotsPredictor, TextHead
from trainer.methods.base import Needs
from trainer.methods.common import class_totals, prepare
from trainer.methods.family.waiting import SAW
from trainer.methods.linear import require_fitted
from trainer.training import Info

STRENGTHS = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
"""Ridges, in mean variances along the directions that the images without labels span: from class means alone down."""
ROUNDS = 8
"""At most; the first that makes the labelled images no likelier is the last."""
WORTH = 1.0
"""Nats by which all those labelled images together have to be likelier in the first round than under AAPE+ alone."""
FOLDS = 4
"""Parts of the shots, each of which is left out once: what they taught the voice through other images has to go too."""
TILE = 4096
"""Images without labels that are gone through at once."""
SMALLEST_VARIANCE = 1e-12
USUAL_STRENGTH, USUAL_IMAGES = 100.0, 10.0
"""Ridge where no image is labelled, and images a class by which the voice is half as loud as the text. With two images
a class a louder one, or a second round, learns those by heart: 118 dogs of ImageNet 47.2 to 33.9 on new images."""


@dataclass(frozen=True)
class Spread:
    """The covariance of images by its directions, in float64.

    Attributes:
        centre: mean image.
        values: variance along each direction.
        right: one column a direction.
        unit: mean of `values`; a ridge is a multiple of it.
    """

    centre: Float[Tensor, " D"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "D rank"]
    unit: float


def fit_spread(images: Float[Tensor, "U D"]) -> Spread:
    """Decompose the covariance S."""
    x = images.double()
    centre = x.mean(0)
    squares, _, right = decompose(x - centre)
    values = squares / len(x)
    unit = max(float(values.sum()) / max(1, len(values)), SMALLEST_VARIANCE)
    return Spread(centre, values, right, unit)


def mixture(spread: Spread, sums: Float[Tensor, "C D"], counts: Float[Tensor, " C"], strength: float) -> Scores:
    """u: the scores of Gaussians of covariance S + ridge I, times the ridge.

    Args:
        sums, counts: sum_i q_ic x_i and sum_i q_ic of each class.
    """
    means = sums / counts[:, None] - spread.centre
    ridge = strength * spread.unit
    shrunk = spread.values / (spread.values + ridge)
    weight = means - ((means @ spread.right) * shrunk) @ spread.right.T
    return linear(weight, -(weight * means).sum(1) / 2 - weight @ spread.centre).float32()


@dataclass(frozen=True)
class Part:
    """AAPE+ of some shots, and labelled images that it did not see.

    Attributes:
        kept: the shots that it has.
        shots: what they say, with their weight.
        unseen: the labelled images.
        heard: what the text says of these, with its weight.
    """

    kept: Images
    shots: Scores
    unseen: Images
    heard: Float[Tensor, "M C"]

    def plus(self) -> Float[Tensor, "M C"]:
        """AAPE+ of the unseen images."""
        return self.heard + self.shots.of(self.unseen.embeddings)


def parts(settled: Settled, text: ClassText, *, seed: int) -> list[Part]:
    """AAPE+ of all shots with the validation images, then of all but each of FOLDS parts of the shots with that part.

    Choices stand as they were made on all shots. Where AAPE+ chose by no shot the first is the only one; the only shot
    of a class is never left out.
    """
    voices, chosen, head = settled.voices, settled.chosen, settled.text_head
    assert head is not None
    train, val, classes = voices.train, voices.val, voices.classes
    said = head.logits(train.embeddings, text)
    found = [Part(train, voices.together(chosen), val, chosen.text * head.logits(val.embeddings, text))]
    each = folds(train.labels, classes, seed=seed)
    for fold in range(FOLDS if len(voices.left_out) else 0):
        out, kept = (each == fold).nonzero()[:, 0], (each != fold).nonzero()[:, 0]
        if len(out):
            some = train.take(kept)
            without = Voices(some, None, (said[kept], said[:0]), classes=classes, leave=False)
            found.append(Part(some, without.together(chosen), train.take(out), chosen.text * said[out]))
    return found


def folds(labels: Int[Tensor, " B"], classes: int, *, seed: int) -> Int[Tensor, " B"]:
    """The fold of each shot, each class spread evenly over them; -1 for the only one of a class."""
    found, turn = torch.full_like(labels, -1), 0
    for rows in shuffled(labels, classes, seed=seed):
        if len(rows) > 1:
            found[torch.from_numpy(rows)] = (torch.arange(turn, turn + len(rows)) % FOLDS).to(found.device)
            turn += len(rows)
    return found


@dataclass(frozen=True)
class Mixed:
    """a_p and u of each part, its weight included, as a round left them.

    Attributes:
        loss: mean over the labelled images that nothing was fitted to, in nats.
    """

    plus: float
    voices: Sequence[Scores]
    weight: float
    strength: float
    loss: float
    rounds: int


def mixed(each: Sequence[Part], unlabelled: Float[Tensor, "U D"], heard: Float[Tensor, "U C"]) -> Mixed | None:
    """The likeliest of the rounds; None where AAPE+ alone is as likely.

    Args:
        heard: what the text says of the unlabelled images, with its weight.
    """
    labels = torch.cat([part.unseen.labels for part in each])
    if not len(labels) or not len(unlabelled):
        return None
    spread, plus = fit_spread(unlabelled), torch.cat([part.plus() for part in each])
    some = slice(None, None, 1 + plus.numel() // MOST_SCORES)

    def said(voices: Sequence[Scores]) -> Float[Tensor, "M C"]:
        return torch.cat([voice.of(part.unseen.embeddings) for voice, part in zip(voices, each, strict=True)])

    best: Mixed | None = None
    least = weigh([plus], labels)[0]
    for rounds in range(1, ROUNDS + 1):
        before: Sequence[Scores | None] = [None] * len(each) if best is None else best.voices
        share = 1.0 if best is None else best.plus
        totals = [class_sums(part, unlabelled, heard, share, last) for part, last in zip(each, before, strict=True)]

        def voices(strength: float, totals: Sequence[tuple[Tensor, Tensor]] = totals) -> list[Scores]:
            return [mixture(spread, *total, strength) for total in totals]

        strength = likeliest([STRENGTHS], lambda s: [plus[some], said(voices(s))[some]], labels[some])
        now = voices(strength)
        loss, (of_plus, weight) = weigh([plus, said(now)], labels)
        if loss > least - (WORTH if best is None else GAIN) / len(labels):
            break
        least = loss
        best = Mixed(of_plus, [added([voice], [weight]) for voice in now], weight, strength, loss, rounds)
    return best


def class_sums(
    part: Part, unlabelled: Float[Tensor, "U D"], heard: Float[Tensor, "U C"], plus: float, voice: Scores | None
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """sum_i q_ic x_i and sum_i q_ic of each class, in float64, of shots and unlabelled images.

    Args:
        plus, voice: a_p and a_u u, of the round before.
    """
    classes = heard.shape[1]
    sums = class_totals(part.kept.embeddings.double(), part.kept.labels, classes)
    counts = torch.bincount(part.kept.labels, minlength=classes).double()
    for top in range(0, len(unlabelled), TILE):
        x = unlabelled[top : top + TILE]
        logits = plus * (heard[top : top + TILE] + part.shots.of(x))
        shares = (logits if voice is None else logits + voice.of(x)).softmax(1)
        sums += (shares.T @ x).double()
        counts += shares.sum(0, dtype=torch.float64)
    return sums, counts


@dataclass
class WaitingPlus:
    """AAPE+, until it sees images without labels: `split_logits` learns from all of them, then judges them."""

    inner: AAPEPlusPredictor
    shots: Float[Tensor, "M D"]
    labels: Int[Tensor, " M"]
    val: Float[Tensor, "kept D"]
    val_labels: Int[Tensor, " kept"]
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @property
    def attends(self) -> bool:
        """The prompts are needed one by one: it chooses again how to read them."""
        return True

    def logits(self, images: Float[Tensor, "B D"], text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of AAPE+."""
        return self.inner.logits(images, text)

    def split_logits(self, images: Unlabelled, text: ClassText) -> Float[Tensor, "B C"]:
        """Scores of all images, after learning from them without their labels."""
        require_fitted(self.inner.names, text)
        x = images.embeddings.float()
        task = Task(text, Images(self.shots, self.labels), Images(self.val, self.val_labels), Unlabelled(x))
        return AAPEPlusUnlabelled().fit(task, seed=self.seed).logits(x, text)


@dataclass(frozen=True)
class AAPEPlusUnlabelled:
    """`aape-plus` with images that nobody labelled.

    After Zanella, Gerin, Ben Ayed, "Boosting Vision-Language Models with Transduction" (TransCLIP, NeurIPS 2024, arXiv
    2406.01837): a mixture of Gaussians whose assignments are held near the classifier at hand, in blocks of closed
    forms. Deviations: that classifier is AAPE+; the covariance is full with a ridge, of the unlabelled images and
    fixed, so that one decomposition serves all rounds, where theirs is diagonal, within classes and updated; no term
    for neighbours; weights are chosen, theirs are 1; and a classifier for new images comes out, not the assignments.
    """

    name: str = "aape-plus-unlabelled"
    needs: Needs = "text"
    uses_prompts: bool = True
    serves_new_classes: bool = True
    reads_unlabelled: bool = True
    waits: bool = True
    without_labels: bool = True

    def fit(self, task: Task, *, seed: int) -> AAPEPlusPredictor | WaitingPlus:
        """AAPE+, then what the unlabelled images add; where they come when they are judged, do so then.

        Raises:
            UserError: see `AAPEPlus.fit`.
        """
        started = time.perf_counter()
        if not len(task.train):
            return without_labels(task, seed=seed)
        plus = AAPEPlus()
        settled = plus.settle(task, seed=seed)
        found = plus.predictor(settled, started=started)
        assert isinstance(found, AAPEPlusPredictor)
        if task.transductive:
            train, val = task.train.float32(), task.val.float32()
            images = (train.embeddings, train.labels, val.embeddings, val.labels)
            return WaitingPlus(found, *images, seed, info=found.info | {"saw": SAW})
        if task.unlabelled is None or not len(task.unlabelled):
            return found
        unlabelled = task.unlabelled.embeddings.float()
        each = parts(settled, task.text, seed=seed)
        best = mixed(each, unlabelled, found.text_weight * found.text_head.logits(unlabelled, task.text))
        info: Info = {**found.info, "unlabelled": len(unlabelled), "unlabelled_weight": 0.0}
        if best is not None:
            shots = joint(found.shots, best)
            info |= records(best, each)
            found = AAPEPlusPredictor(found.text_head, shots, best.plus * found.text_weight, unseen_of(best, each))
        found.info = info | {"fit_seconds": time.perf_counter() - started}
        return found


def without_labels(task: Task, *, seed: int) -> AAPEPlusPredictor | WaitingPlus:
    """The mean of the prompts (of the templates where there are none), and one round over the unlabelled images.

    Raises:
        UserError: the task is not one that can be learned (see `trainer.data.check_task`), or has no text.
    """
    task.text.require_text()
    start = prepare(task, seed=seed, source="ensemble" if task.text.prompts is None else "prompts")
    none = linear(torch.zeros_like(start.weights), start.weights.new_zeros(len(start.weights)))
    seen = start.train.embeddings if task.unlabelled is None else task.unlabelled.embeddings.float()
    voice, said = none, seen @ start.weights.T / start.tau
    if len(seen):
        shares = said.softmax(1)
        counts = shares.sum(0, dtype=torch.float64).clamp_min(SMALLEST_VARIANCE)
        voice = added([mixture(fit_spread(seen), (shares.T @ seen).double(), counts, USUAL_STRENGTH)], [1.0])
        loudness = float(said.std(1).mean() / voice.of(seen).std(1).mean().clamp_min(SMALLEST_VARIANCE))
        each = len(seen) / len(start.weights)
        voice = added([voice], [each / (each + USUAL_IMAGES) * loudness])
    head = TextHead(float(start.source != "prompts"), 0.0, start.tau)
    shots = ShotsPredictor(start.names, voice.weight, voice.bias, voice.keys, voice.values, 0.0)
    info = start.info(n_parameters=voice.weight.numel(), val=None, class_text=head.source, unlabelled=len(seen))
    found = AAPEPlusPredictor(head, shots, 1.0, USUAL_UNSEEN, info=info)
    if not task.transductive:
        return found
    train = start.train
    images = (train.embeddings, train.labels, train.embeddings, train.labels)
    return WaitingPlus(found, *images, seed, info=info | {"saw": SAW})


def joint(shots: ShotsPredictor, best: Mixed) -> ShotsPredictor:
    """a_p times what the shots say and the voice of all images, of mean 0 over the classes."""
    plus = Scores(shots.weight, shots.bias, shots.keys, shots.values, shots.sharpness)
    found = added([plus, best.voices[0]], [best.plus, 1.0])
    return ShotsPredictor(shots.names, found.weight, found.bias, found.keys, found.values, found.sharpness)


def unseen_of(best: Mixed, each: Sequence[Part]) -> float:
    """As that of AAPE+, with the voice."""
    right = []
    for part, voice in zip(each, best.voices, strict=True):
        x = part.unseen.embeddings
        seen = best.plus * part.shots.of(x) + voice.of(x)
        right.append((seen - seen.mean(1, keepdim=True)).gather(1, part.unseen.labels[:, None]))
    return UNSEEN_SHARE * float(torch.cat(right).mean())


def records(best: Mixed, each: Sequence[Part]) -> dict[str, Any]:
    """What was chosen, and how the labelled images are judged that nothing was fitted to."""
    labels = torch.cat([part.unseen.labels for part in each])
    logits = torch.cat(
        [
            best.plus * part.plus() + voice.of(part.unseen.embeddings)
            for part, voice in zip(each, best.voices, strict=True)
        ]
    )
    return {
        "plus_weight": best.plus,
        "unlabelled_weight": best.weight,
        "unlabelled_ridge": best.strength,
        "rounds": best.rounds,
        "selection": f"{len(each[0].unseen)} validation images" + f" and the shots in {FOLDS} parts" * (len(each) > 1),
        "val_accuracy": float((logits.argmax(1) == labels).double().mean()),
        "val_loss": float(cross_entropy(logits, labels)),
    }
