"""The prompt aggregator (section 3.2, eq. 1): many prompt embeddings of a class become one, p^a.

[p^a, P^a] = AttentionLayer([p̄, P]): one standard attention layer (multi-head cross-attention, feed-forward, LayerNorm)
whose query starts at p̄; the set P has no order. Only the m = 1 output row p^a is computed.

What is notable: the key projection is folded into the query and the value projection comes after pooling. A prompt is
then only ever dotted with a vector of its own width; the result is the plain layer's. With query `mean` the layer runs
once for every class, never for an image.

Choices where the paper is silent: both output projections start at zero, so that p^a starts at its query; the query is
p̄ plus one learned vector that all classes share (starts at 0), so that it is no free parameter of a class; p^a is
normalised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize

from stages.training import TrainParams
from trainer.aape.losses import clip_reward
from trainer.data import Images
from trainer.training import uniform

IMAGE_CHUNK = 256
"""Images whose own p^a is computed at once, where the query depends on the image: 256 x 50 x 512 float32 are 26 MB."""


class AttentionAggregator(nn.Module):
    """One attention layer over the prompts of a class.

    Args:
        width: D.
        heads, head_width: H heads of E entries.
        feed_forward: hidden entries of the feed-forward part.
        dropout: share of the attention's weights left out while it is trained; the rest grow to keep the sum.
        rng: source of the start values and of what is left out.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        head_width: int,
        feed_forward: int,
        dropout: float = 0.0,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.dropout, self.rng = heads, dropout, rng
        self.shift = nn.Parameter(torch.zeros(width))
        self.to_query = uniform(inner, width, rng=rng)
        self.to_key = uniform(inner, width, rng=rng)
        self.to_value = uniform(inner, width, rng=rng)
        self.to_output = nn.Parameter(torch.zeros(width, inner))
        self.up = uniform(feed_forward, width, rng=rng)
        self.down = nn.Parameter(torch.zeros(width, feed_forward))
        self.norm1 = nn.Parameter(torch.stack([torch.ones(width), torch.zeros(width)]))
        self.norm2 = nn.Parameter(torch.stack([torch.ones(width), torch.zeros(width)]))

    def scores(
        self, query: Float[Tensor, "Q D"], prompts: Float[Tensor, "Q N D"], mask: Bool[Tensor, "Q N"]
    ) -> Float[Tensor, "Q H N"]:
        """Attention of each query over its own prompts; padding gets 0, each head sums to 1."""
        inner, width = self.to_key.shape
        projected = ((query + self.shift) @ self.to_query.T).view(-1, self.heads, inner // self.heads)
        keys = self.to_key.view(self.heads, inner // self.heads, width)
        folded = torch.bmm(projected.transpose(0, 1), keys).transpose(0, 1)  # Q H D
        products = torch.bmm(folded, prompts.transpose(1, 2)) * (inner // self.heads) ** -0.5
        attention: Tensor = products.masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        return attention

    def forward(
        self, query: Float[Tensor, "Q D"], prompts: Float[Tensor, "Q N D"], mask: Bool[Tensor, "Q N"]
    ) -> Float[Tensor, "Q D"]:
        """p^a, unit rows, of Q queries each with its own prompts."""
        inner, width = self.to_value.shape
        scores = self.scores(query, prompts, mask)
        if self.training and self.dropout:
            kept = torch.rand(scores.shape, generator=self.rng) >= self.dropout
            scores = scores * kept.to(scores.device) / (1 - self.dropout)
        pooled = torch.bmm(scores, prompts)  # Q H D
        values = self.to_value.view(self.heads, inner // self.heads, width)
        attended = torch.bmm(pooled.transpose(0, 1), values.transpose(1, 2)).transpose(0, 1).flatten(1)
        inside = layer_norm(query + self.shift + attended @ self.to_output.T, (width,), self.norm1[0], self.norm1[1])
        outside = inside + torch.relu(inside @ self.up.T) @ self.down.T
        return normalize(layer_norm(outside, (width,), self.norm2[0], self.norm2[1]), dim=-1)


class MLPAggregator(nn.Module):
    """Table 4's MLP: p^a = a f(p̄) + (1 - a) p̄, f a two-layer bottleneck, a learned (starts at 0)."""

    def __init__(self, *, width: int, feed_forward: int, rng: torch.Generator) -> None:
        super().__init__()
        self.up = uniform(feed_forward, width, rng=rng)
        self.down = uniform(width, feed_forward, rng=rng)
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(
        self, query: Float[Tensor, "Q D"], prompts: Float[Tensor, "Q N D"], mask: Bool[Tensor, "Q N"]
    ) -> Float[Tensor, "Q D"]:
        """p^a, unit rows; the prompts enter through the query alone."""
        changed = torch.relu(query @ self.up.T) @ self.down.T
        return normalize(torch.lerp(query, changed, self.mix), dim=-1)


class ChosenAggregator(nn.Module):
    """Nothing to learn: p^a is the query itself (`mean`)."""

    def forward(
        self, query: Float[Tensor, "Q D"], prompts: Float[Tensor, "Q N D"], mask: Bool[Tensor, "Q N"]
    ) -> Float[Tensor, "Q D"]:
        """p^a, unit rows."""
        return normalize(query, dim=-1)


class RandomAggregator(nn.Module):
    """Nothing to learn: p^a is one prompt of the class, drawn anew for every query (`random`)."""

    def __init__(self, *, rng: torch.Generator) -> None:
        super().__init__()
        self.rng = rng

    def forward(
        self, query: Float[Tensor, "Q D"], prompts: Float[Tensor, "Q N D"], mask: Bool[Tensor, "Q N"]
    ) -> Float[Tensor, "Q D"]:
        """p^a, unit rows."""
        drawn = torch.multinomial(mask.float().cpu(), 1, generator=self.rng)[:, 0].to(prompts.device)
        return prompts[torch.arange(len(drawn), device=prompts.device), drawn]


def build_aggregator(settings: TrainParams, *, width: int, rng: torch.Generator) -> nn.Module:
    """The aggregator that the settings ask for, at its start values."""
    if settings.aggregator == "attention":
        return AttentionAggregator(
            width=width,
            heads=settings.heads,
            head_width=settings.head_width,
            feed_forward=settings.feed_forward,
            dropout=settings.dropout,
            rng=rng,
        )
    if settings.aggregator == "mlp":
        return MLPAggregator(width=width, feed_forward=settings.feed_forward, rng=rng)
    return RandomAggregator(rng=rng) if settings.aggregator == "random" else ChosenAggregator()


def query_of(settings: TrainParams, mean: Float[Tensor, "B D"], images: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """The query of each image: p̄ of its prompts, the image, or both. Only the attention may see the image."""
    if settings.query == "mean" or settings.aggregator != "attention":
        return mean
    return images if settings.query == "image" else normalize(mean + images, dim=-1)


def climb(
    aggregator: nn.Module, settings: TrainParams, reward: Callable[[], Float[Tensor, ""]], *, steps: int
) -> list[float]:
    """Train an aggregator on the CLIP reward of some steps; returns the reward of each."""
    parameters = list(aggregator.parameters())
    if not parameters or settings.reward_weight == 0:
        return []
    optimizer = torch.optim.AdamW(parameters, lr=settings.aggregator_lr, weight_decay=settings.weight_decay, fused=True)
    rewards = []
    for _ in range(steps):
        found = reward()
        optimizer.zero_grad()
        (-settings.reward_weight * found).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rewards.append(float(found.detach()))
    return rewards


class PromptTargets:
    """p^a of every training image: the aggregator, the prompts of its class and the query that the settings ask for.

    Args:
        settings: aggregator kind, query and how it is trained.
        prompts, mask: reference prompts of the classes.
        rng: source of the start values.
    """

    def __init__(
        self,
        settings: TrainParams,
        *,
        prompts: Float[Tensor, "C N D"],
        mask: Bool[Tensor, "C N"],
        rng: torch.Generator,
    ) -> None:
        self.settings = settings
        self.rng = rng
        self.prompts, self.mask = prompts, mask
        self.mean = normalize((prompts * mask[..., None]).sum(1), dim=-1)
        self.aggregator = build_aggregator(settings, width=prompts.shape[-1], rng=rng).to(prompts.device)

    @property
    def per_class(self) -> bool:
        """Whether p^a depends on the class alone."""
        sees_image = self.settings.aggregator == "attention" and self.settings.query != "mean"
        return not sees_image and self.settings.aggregator != "random"

    def of_classes(self) -> Float[Tensor, "C D"]:
        """p^a of every class, where it depends on the class alone."""
        of_class: Tensor = self.aggregator(self.mean, self.prompts, self.mask)
        return of_class

    def __call__(self, images: Float[Tensor, "B D"], labels: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """p^a of these images; where it depends on the class alone each class is computed once."""
        if self.per_class:
            return self.of_classes()[labels]
        query = query_of(self.settings, self.mean[labels], images)
        of_image: Tensor = self.aggregator(query, self.prompts[labels], self.mask[labels])
        return of_image

    def fit(self, images: Images) -> list[float]:
        """Train the aggregator on the CLIP reward; returns the reward of each step.

        Deviation from the paper: AdamW before h is learned, not SGD beside it, over all images at once (IMAGE_CHUNK of
        them where p^a differs between images). Without gradients from L_distill the two do not touch, and p^a is then
        constant for all epochs of h.
        """
        grouped = _by_class(images, len(self.prompts)) if self.per_class else None

        def reward() -> Tensor:
            if grouped is not None:  # the same mean over images, without a row of p^a for each of them
                cosines = torch.bmm(grouped, self.of_classes()[..., None])
                return self.settings.reward_scale * cosines.clamp_min(0).sum() / len(images)
            rows = torch.randperm(len(images), generator=self.rng)[:IMAGE_CHUNK].to(images.labels.device)
            batch = images.take(rows)
            return clip_reward(batch.embeddings, self(batch.embeddings, batch.labels), self.settings.reward_scale)

        return climb(self.aggregator, self.settings, reward, steps=self.settings.aggregator_steps)

    @torch.no_grad()
    def constant(self, images: Images) -> Float[Tensor, "B D"]:
        """p^a of every image as a constant, in chunks, with nothing left out of the attention."""
        self.aggregator.eval()
        if self.per_class:
            return self(images.embeddings, images.labels)
        starts = range(0, len(images), IMAGE_CHUNK)
        x, y = images.embeddings, images.labels
        return torch.cat([self(x[i : i + IMAGE_CHUNK], y[i : i + IMAGE_CHUNK]) for i in starts])


def _by_class(images: Images, classes: int) -> Float[Tensor, "C shots D"]:
    """The images of each class, padded with zeros to the largest class."""
    order = images.labels.argsort(stable=True)
    labels, counts = images.labels[order], images.labels.bincount(minlength=classes)
    place = torch.arange(len(order), device=labels.device) - (counts.cumsum(0) - counts)[labels]
    grouped = images.embeddings.new_zeros(classes, int(counts.max()), images.embeddings.shape[1])
    grouped[labels, place] = images.embeddings[order]
    return grouped
