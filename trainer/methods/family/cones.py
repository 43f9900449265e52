"""ConES: the embedding of each class's prompt is searched for directly, no text encoder in the loop (Yi et al., 2023).

    w_c = e_c / |e_c|,  logits = x . w_c / tau,  loss = cross entropy

e_c starts at what a text encoder once said of the class, or where nobody asked one, at the mean of the class's shots,
and is free from then on. Against `taskres` (t_c + 0.5 x_c, x_c = 0, decayed towards 0): the embedding itself is the
parameter, at full rate and without decay, so nothing holds it near the text, and it need not have begun there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.data import Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import class_sums, prepare
from trainer.methods.linear import LinearPredictor
from trainer.training import Candidate, Learner, Schedule, choose, epochs_within, refit

RATES = (1e-3, 1e-2)
"""Of Adam, for unit embeddings of a few hundred entries: the first keeps near the start, the second leaves it."""
BATCH = 256
STEPS = 300
"""Most steps of a run: on validation images none of the sets tried gained from more."""


class Searched(Learner):
    """Free class embeddings; other methods of this room add their own terms to the loss.

    Args:
        start: unit text embeddings; None begins at the mean of each class's images.
    """

    def __init__(self, start: Float[Tensor, "C D"] | None, classes: int, tau: float, images: Images) -> None:
        super().__init__()
        self.tau = tau
        found = normalize(class_sums(images, classes), dim=-1) if start is None else start
        self.own = nn.Parameter(found.clone())

    def unit(self) -> Float[Tensor, "C D"]:
        """w_c, unit rows."""
        return normalize(self.own, dim=-1)

    def weight(self) -> Float[Tensor, "C D"]:
        """w_c / tau."""
        return self.unit() / self.tau

    def forward(self, images: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        return images @ self.weight().T


@dataclass(frozen=True)
class ConES:
    """ConES (Yi, Qin, Zhang, Zhang, Li, "ConES: Concept Embedding Search for Parameter Efficient Tuning Large
    Vision Language Models", arXiv 2305.18993), for classification by cached features.

    Start (the templates, or the mean image) and rate by validation. Deviations:
    the paper searches several token embeddings a concept for detectors and generators that fuse them with the image
    inside the network; an image-level embedding has one vector a class. Only the fitted classes are served: a class
    without images has nothing to search by.
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
                partial(Searched, begun, len(start.names), start.tau),
                {"start": word},
            )
            for rate in RATES
            for word, begun in starts.items()
        ]
        best = refit(choose(candidates, start.selection, seed=seed), start.train, start.selection, seed=seed)
        assert isinstance(best.learner, Searched)
        weight = best.learner.weight().detach()
        info = start.info(n_parameters=weight.numel(), val=best.val, **best.info)
        return LinearPredictor(task.text.names, weight, weight.new_zeros(len(weight)), best.history, info)
