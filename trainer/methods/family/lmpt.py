"""LMPT's losses for long tails, with one class an image (Xia, Xu, Ju, Hu, Chen, Ge, "LMPT: Prompt Tuning with
Class-Specific Embedding Loss for Long-tailed Multi-Label Visual Recognition", arXiv 2305.04536).

    loss = (distribution-balanced loss of images + class-specific embedding loss of sentences) / 2

Both stand in `trainer/multilabel/losses.py`. The publication is about several classes an image: that form is `lmpt` of
the protocols `multi-label` and `multi-label-long-tailed`; this one is the same with rows of 0 and a single 1, so that a
long tail of any data set can be learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.data import ClassText, Images, Task
from trainer.methods.base import Needs
from trainer.methods.common import one_hot, prepare
from trainer.methods.family.embeddings import BATCH, STEPS, Embeddings, chosen, served
from trainer.methods.linear import LinearPredictor
from trainer.multilabel.losses import class_specific_embedding_loss, distribution_balanced_loss
from trainer.training import Candidate, Schedule, epochs_within

RATES = (1e-3, 1e-2)
"""Of Adam, as `cones`."""


class BalancedEmbeddings(Embeddings):
    """Class embeddings under both losses.

    Args:
        weights: class text.
        text: its prompts, or its template, stand for images in the embedding loss.
    """

    def __init__(self, weights: Float[Tensor, "C D"], text: ClassText, tau: float, images: Images) -> None:
        super().__init__(weights, len(weights), tau, images)
        named = text if text.prompts is not None else text.named_by_template()
        prompts, mask = named.require_prompts()
        self.sentences = prompts[mask]
        self.owner = torch.arange(len(weights), device=mask.device)[:, None].expand(mask.shape)[mask]
        self.counts, self.total = images.labels.bincount(minlength=len(weights)), len(images)

    def losses(self, rows: Int[Tensor, " B"], batch: Images, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The mean of both, each summed over the classes."""
        classes = len(self.counts)
        logits = self(batch.embeddings)
        logits = logits - logits.mean(1, keepdim=True)  # of 0 for a class like any other, as a sigmoid wants it
        labels = one_hot(batch.labels, classes).bool()
        task = classes * distribution_balanced_loss(logits, labels, self.counts, images=self.total)
        drawn = torch.randint(len(self.owner), (len(rows),), generator=rng).to(self.owner.device)
        cosines = self.sentences[drawn] @ self.unit().T
        said = one_hot(self.owner[drawn], classes).bool()
        apart = classes * class_specific_embedding_loss(cosines, said, self.counts)
        return {"loss": (task + apart) / 2, "loss_task": task}


@dataclass(frozen=True)
class LMPTSingle:
    """LMPT for one class an image.

    Kept: the class-aware soft margin, the re-weighting and the distribution-balanced loss. Not kept: the learned
    context in front of the names (the class embeddings themselves are learned), captions of the images (the reference
    prompts stand for them), several classes an image. Logits are centred over the classes before the sigmoid: cosines
    have no zero of their own.
    """

    name: str = "lmpt"
    needs: Needs = "text"
    uses_prompts: bool = True
    serves_new_classes: bool = False

    def fit(self, task: Task, *, seed: int) -> LinearPredictor:
        """Learn the class embeddings."""
        start = prepare(task, seed=seed)
        epochs = epochs_within(start.train, batch=BATCH, most_steps=STEPS)
        learner = partial(BalancedEmbeddings, start.weights, task.text, start.tau)
        candidates = [Candidate(Schedule("adam", rate, epochs, BATCH, warmup_epochs=1), learner) for rate in RATES]
        return served(chosen(candidates, start, seed=seed), start)
