"""The plain form of the method, as one would write it first: the reference of the benchmark.

A DataLoader, torch's own multi-head attention over the prompts of each image's class in every step, class weights of
every image in full width, autograd and torch's SGD over all parameters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, TensorDataset

from stages.training import TrainParams
from trainer.aape.classifier import Classifier
from trainer.aape.losses import clip_reward, distillation_loss
from trainer.aape.schedule import generator_share
from trainer.data import Task


class PlainAggregator(nn.Module):
    """Attention, feed-forward part and two LayerNorms; both outputs start at zero, as in the fast form."""

    def __init__(self, width: int, settings: TrainParams) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))
        self.attention = nn.MultiheadAttention(width, settings.heads, bias=False, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, settings.feed_forward, bias=False),
            nn.ReLU(),
            nn.Linear(settings.feed_forward, width, bias=False),
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.feed_forward[2].weight)  # type: ignore[arg-type]

    def forward(self, prompts: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        """p^a of each image from the prompts of its class."""
        query = normalize(prompts.mean(1), dim=-1)[:, None] + self.shift
        attended, _ = self.attention(query, prompts, prompts)
        inside = self.norm1(query + attended)
        outside: Tensor = self.norm2(inside + self.feed_forward(inside))
        return normalize(outside[:, 0], dim=-1)


def plain_cosines(
    classifier: Classifier, images: Float[Tensor, "B D"], weights: Float[Tensor, "C D"]
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B D"]]:
    """Equations 3 and 4 with every class weight of every image, B x C x D, and h(x)."""
    generated = classifier.generate(images)
    if generated is None or classifier.b is None:
        raise ValueError("the plain form needs h(x)")
    hidden = torch.relu((weights @ classifier.a.T)[None] + (generated @ classifier.b.T)[:, None])
    conditioned = normalize(weights + hidden @ classifier.v.T, dim=-1)
    return torch.einsum("bd,bcd->bc", images, conditioned), generated


def plain_training(
    task: Task, classifier: Classifier, weights: Float[Tensor, "C D"], tau: float, settings: TrainParams
) -> Iterator[None]:
    """Training steps without end, one for each item that is taken; the rate is the settings' own."""
    prompts, _ = task.text.require_prompts()
    aggregator = PlainAggregator(weights.shape[1], settings).to(weights.device)
    rate = float(settings.lr)
    generator = [] if classifier.h is None else list(classifier.h.parameters())
    others = [each for name, each in classifier.named_parameters() if not name.startswith("h.")]
    optimizer = torch.optim.SGD(
        [
            {"params": [*others, *aggregator.parameters()], "lr": rate},
            {"params": generator, "lr": rate * generator_share(settings, tau=tau)},
        ],
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    rng = torch.Generator().manual_seed(0)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        TensorDataset(task.train.embeddings, task.train.labels),
        batch_size=settings.batch,
        shuffle=True,
        generator=rng,
    )
    while True:
        for images, labels in loader:
            target = aggregator(prompts[labels])
            cosines, generated = plain_cosines(classifier, images, weights)
            loss = (
                cross_entropy(cosines / tau, labels)
                + settings.lambda_ * distillation_loss(generated, target.detach(), settings.distill)
                - settings.reward_weight * clip_reward(images, target, settings.reward_scale)
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield
