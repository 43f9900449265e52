"""A start of h and g that is meta-learnt over data sets, and which of their entries are to move from it.

After "Gradient-Regulated Meta-Prompt Learning" (GRAM, Li et al., ICCV 2023): a start from which few steps go far, and a
function that regulates the gradients of those steps so that what is learnt in one domain serves another. Kept: the two
are learnt together; the steps are taken in one domain and judged in another. The original clusters unlabelled pairs of
images and captions into domains, learns prompt tokens, and differentiates through the steps. Here the domains are
labelled data sets, what is learnt is h and g, the regulation is one gate an entry, and the meta-gradient is of first
order (FOMAML, Finn et al., ICML 2017): the gradients of the inner steps count as constants.

One step of the outer loop, with sets i != j, gates m = 2 sigmoid(phi) and rate a:
    theta' = theta - a sum_k m * g_k,   g_k the gradient of set i's loss after k steps
    theta <- descend(d L_j / d theta'),   phi <- descend(-a m'(phi) * sum_k g_k * d L_j / d theta')
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.aape import AAPELearner, Start, rates
from trainer.aape.schedule import generator_share
from trainer.several.joint import Mixture, Starts
from trainer.training import Score, together

ROUNDS, INNER = 250, 3
"""Steps of the outer loop, and of the inner one in each."""
OUTER_SHARE, GATE_LR = 0.1, 0.02
"""Of Adam, whose steps know no scale: of h and g as a share of 1 / sqrt(D), about which their entries begin; of phi."""
MEASURED = 10
"""Times that the start is judged on images to choose by."""


@dataclass(frozen=True)
class MetaStart:
    """A start and its gates.

    Attributes:
        start: h and g, and the gates; None: every entry moves as it would.
        val: mean score on the sets' images to choose by, after the inner steps on each; None without any.
        round: of the outer loop, 0 before the first.
    """

    start: Start
    val: Score | None
    round: int


def gate(phi: Tensor) -> Tensor:
    """In 0..2, and 1 at phi = 0."""
    return 2 * torch.sigmoid(phi)


def gate_gradient(phi: Tensor, moved: Tensor, outer: Tensor, rate: float) -> Tensor:
    """d L_j / d phi: the loss after steps theta - rate * gate(phi) * moved, whose gradient is `outer`."""
    share = torch.sigmoid(phi)
    return -rate * 2 * share * (1 - share) * moved * outer


def learn_start(starts: Starts, *, seed: int, regulated: bool, rounds: int = ROUNDS, inner: int = INNER) -> MetaStart:
    """Meta-learn a start over the data sets; with one alone, its images are both domains.

    The round is kept from whose start the inner steps do best on each set's images to choose by, the beginning among
    them; without such images the last.

    Args:
        regulated: with gates.
    """
    rng = torch.Generator().manual_seed(seed)
    selection, settings = starts.selection, starts.settings
    learner = starts.learner(selection.train)
    own = dict(learner.classifier.named_parameters())
    phi = {name: torch.zeros_like(value) for name, value in own.items()}
    slow = {name: name.startswith("h.") for name in own}  # see `train.generator_lr`
    peak, share = rates(settings, tau=starts.tau)[0], generator_share(settings, tau=starts.tau)
    rate = {name: peak * (share if slow[name] else 1.0) for name in own}
    batch = settings.batch or 32
    width = learner.learners[0].weights.shape[1]
    sets = len(selection.train.parts)

    def steps(place: int) -> dict[str, Tensor]:
        """Take the inner steps on a set; the sum of their gradients."""
        moved = {name: torch.zeros_like(value) for name, value in own.items()}
        for _ in range(inner):
            for name, gradient in _gradient(learner.learners[place], own, selection.train, place, batch, rng).items():
                moved[name] += gradient
                with torch.no_grad():
                    own[name].sub_(rate[name] * (gate(phi[name]) * gradient if regulated else gradient))
        return moved

    def judged() -> Score | None:
        """The mean over the sets of how good the start is after the inner steps on each."""
        if selection.val is None:
            return None
        found, before = [], _copy(own)
        for place, (part, images) in enumerate(zip(learner.learners, selection.val.parts, strict=True)):
            steps(place)
            with torch.no_grad():
                found.append((part.measure(images), 1 / sets))
                for name, value in own.items():
                    value.copy_(before[name])
        return together(found)

    step = OUTER_SHARE / math.sqrt(width)
    outer = torch.optim.Adam(
        [{"params": [p], "lr": step * (settings.generator_lr if slow[name] else 1.0)} for name, p in own.items()]
    )
    gates = torch.optim.Adam(phi.values(), lr=GATE_LR)
    best = judged(), 0, _copy(own), {name: value.clone() for name, value in phi.items()}
    for number in range(1, rounds + 1):
        first, second = _two(sets, rng)
        before = _copy(own)
        moved = steps(first)
        found = _gradient(learner.learners[second], own, selection.train, second, batch, rng)
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(before[name])
                value.grad = found[name]
                phi[name].grad = gate_gradient(phi[name], moved[name], found[name], rate[name])
        outer.step()
        if regulated:
            gates.step()
        if number % max(1, rounds // MEASURED) == 0 or number == rounds:
            score = judged()
            if score is None or best[0] is None or learner.rank(score) > learner.rank(best[0]):
                best = score, number, _copy(own), {name: value.clone() for name, value in phi.items()}
    classifier = copy.deepcopy(learner.classifier)
    classifier.load_state_dict(best[2])
    gated = {name: gate(value) for name, value in best[3].items()} if regulated else None
    return MetaStart(Start(classifier.requires_grad_(False), gated), best[0], best[1])


def _two(sets: int, rng: torch.Generator) -> tuple[int, int]:
    """Two different sets, by seed; the same one twice where there is no other."""
    if sets == 1:
        return 0, 0
    first, second = torch.randperm(sets, generator=rng)[:2].tolist()
    return first, second


def _gradient(
    learner: AAPELearner, own: Mapping[str, Tensor], train: Mixture, place: int, batch: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """The gradient of one set's loss on a batch of it."""
    images = train.parts[place]
    rows = torch.randperm(len(images), generator=rng)[:batch].to(images.device)
    loss = learner.losses(rows, images.draw(rows, rng), rng)["loss"]
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(own.items(), found, strict=True)}


def _copy(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in own.items()}
