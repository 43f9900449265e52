"""ConES: the embedding of each class's prompt is searched for directly, no text encoder in the loop (Yi et al., 2023).

    logits = cos(x, e_c) / tau,  loss = cross entropy

e_c starts at what a text encoder once said of the class, or where nobody asked one, at the mean of the class's shots,
and is free from then on. Against `taskres` (t_c + 0.5 x_c, x_c = 0 at first and decayed towards it): the embedding
itself is the parameter, at full rate and without decay, so nothing holds it near the text, and it need not have begun
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from trainer.data import Task
from trainer.methods.base import Needs
from trainer.methods.common import prepare
from trainer.methods.family.embeddings import BATCH, STEPS, Embeddings, chosen, served
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Schedule, epochs_within

RATES = (1e-3, 1e-2)
"""Of Adam, for unit embeddings of a few hundred entries: the first stays near the start, the second leaves it."""


@dataclass(frozen=True)
class ConES:
    """ConES (Yi et al., "ConES: Concept Embedding Search for Parameter Efficient Tuning Large Vision Language Models",
    arXiv 2305.18993), for classification by cached features.

    Start (the templates, or the mean image) and rate by validation. Deviations: the paper searches several token
    embeddings a concept, for detectors and generators that fuse them with the image inside the network; a cached
    embedding is one vector a class. Optimiser, rates and lengths are this project's. Only the fitted classes are
    served: a class without images has nothing to search by.
    """

    name: str = "cones"
    needs: Needs = "images"
    uses_prompts: bool = False
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Search the class embeddings."""
        start = prepare(task, seed=seed, needs=self.needs)
        starts: dict[str, Tensor | None] = {"text": start.weights} if task.text.is_text else {}
        starts["images"] = None
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        candidates = [
            Candidate(
                Schedule("adam", rate, epochs, BATCH, warmup_epochs=1),
                partial(Embeddings, begun, len(start.names), start.tau),
                {"start": word},
            )
            for rate in RATES
            for word, begun in starts.items()
        ]
        return served(chosen(candidates, start, seed=seed), start)
