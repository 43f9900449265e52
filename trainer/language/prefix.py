"""From an image vector to a few input embeddings of a frozen language model, learnt on captions (LiMBeR).

One linear map gives k embeddings of the image vector x. With AAPE one more embedding, mapped from h(x), is appended
(paper, section 4). Its control has the same number of parameters: a second map of x in place of h(x).

Unlike LiMBeR (Merullo et al. 2023), which maps every position of the encoder's last feature map before pooling to an
embedding of its own (k = 144 and more), the store has one pooled vector an image, and the k embeddings are all made of
it. And unlike there the map may start where the model already reads something (`start: ridge`): each embedding as a
word that a caption may follow, plus the ridge solution from x to the mean input embedding of the words of its captions.
With few images that saves most of the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.errors import UserError
from stages.language import LanguageParams
from trainer.aape.captions import CaptionAAPE
from trainer.data import check_width
from trainer.data.pairs import CaptionTask, Pairs, select_pairs
from trainer.language.model import LanguageModel, LanguageModelName, load_language_model
from trainer.training import WORST, Candidate, Info, Learner, Schedule, Score, choose, refit, uniform

Second = Literal["none", "aape", "image"]
"""What one more embedding is mapped from: nothing, h(x), or x once more (the control)."""
START_WORDS = " Image caption:"
"""What the embeddings begin as, with `start: ridge`: words that a caption may follow."""
RIDGE = 0.1
"""Strength of the ridge start, as a share of the mean eigenvalue of the images' covariance."""
MEASURED = 64
"""Images in a batch where the loss on images to choose by is measured."""


class PrefixMap(nn.Module):
    """x (and h(x)) to input embeddings: each embedding is linear in the vector, less the mean of the training images.

    Args:
        width: D.
        entries: of an input embedding.
        tokens: k.
        second: whether one more embedding is made of a second vector.
        spread: of the language model's input embeddings, in which the start values are drawn.
        rng: source of the start values.
    """

    def __init__(
        self, *, width: int, entries: int, tokens: int, second: bool, spread: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.entries = entries
        self.centre = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.weight = nn.Parameter(spread * uniform(tokens * entries, width, rng=rng).data)
        self.bias = nn.Parameter(spread * torch.randn(tokens * entries, generator=rng))
        self.second_centre = nn.Parameter(torch.zeros(width), requires_grad=False) if second else None
        self.second_weight = nn.Parameter(spread * uniform(entries, width, rng=rng).data) if second else None
        self.second_bias = nn.Parameter(spread * torch.randn(entries, generator=rng)) if second else None

    def forward(
        self, x: Float[Tensor, "B D"], second: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B prefix entries"]:
        """The prefix of each image; the embedding of the second vector stands last."""
        made = nn.functional.linear(x - self.centre, self.weight, self.bias)
        if self.second_centre is not None and self.second_weight is not None and second is not None:
            more = nn.functional.linear(second - self.second_centre, self.second_weight, self.second_bias)
            made = torch.cat([made, more], dim=1)
        return made.view(len(x), -1, self.entries)


@dataclass
class Prefix:
    """A fitted map, ready to serve with its language model.

    Attributes:
        map: of x and, where there is one, of the second vector.
        second: what the second vector is.
        aape: h, where the second vector is h(x).
        width: D.
        tokens: k.
        language, language_fingerprint: the model that it was fitted for.
        settings: lengths and beams that it is served with.
        seed: of the fit; what a protocol draws for it is drawn by the same.
        history: one record an epoch.
        info: what was chosen.
    """

    map: PrefixMap
    second: Second
    aape: CaptionAAPE | None
    width: int
    tokens: int
    language: str
    language_fingerprint: str
    settings: LanguageParams
    seed: int
    history: list[dict[str, float]] = field(default_factory=list)
    info: Info = field(default_factory=dict)

    @torch.no_grad()
    def prefix(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B prefix entries"]:
        """The input embeddings that stand for unit images.

        Raises:
            UserError: the images have another width.
        """
        check_width(x.shape[1], self.width, "the images are", "the prefix was fitted on")
        made: Tensor = self.map(x.float(), second_vector(x.float(), self.second, self.aape))
        return made


def require_language(predictor: Any, found: LanguageModelName, *, where: object) -> None:
    """Refuse a language model other than the one that a predictor was fitted for.

    Raises:
        UserError: the fingerprints differ.
    """
    expected = predictor.language_fingerprint
    if found.fingerprint != expected:
        raise UserError(
            f"{where}: fitted for the language model {predictor.language} ({expected[:12]}), and {found.name} is "
            f"{found.fingerprint[:12]}: take the same one (--llm), or train again"
        )


def second_vector(x: Float[Tensor, "B D"], second: Second, aape: CaptionAAPE | None) -> Float[Tensor, "B D"] | None:
    """What the last embedding is made of."""
    if second == "none":
        return None
    return x if aape is None else aape.embed(x)


@dataclass(frozen=True)
class PrefixBatch:
    """Some images, each with one of its captions as tokens."""

    x: Float[Tensor, "B D"]
    captions: list[list[int]]


@dataclass(frozen=True)
class TokenPairs:
    """Images with their captions as tokens; what the common training loop takes (`trainer.training.Examples`).

    Attributes:
        tokens: of every caption of `pairs`; an end stands behind those that are whole.
    """

    pairs: Pairs
    tokens: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.pairs.device

    def draw(self, rows: Int[Tensor, " M"], rng: torch.Generator) -> PrefixBatch:
        """One caption of each of these images, drawn by seed."""
        rows = rows.cpu()
        counts = self.pairs.counts[rows]
        drawn = (torch.rand(len(rows), generator=rng) * counts).long().clamp(max=counts - 1)
        return self._batch(rows, drawn)

    def first(self, rows: Int[Tensor, " M"]) -> PrefixBatch:
        """The first caption of each of these images."""
        return self._batch(rows, torch.zeros_like(rows))

    def _batch(self, rows: Int[Tensor, " M"], chosen: Int[Tensor, " M"]) -> PrefixBatch:
        places = (self.pairs.first[rows] + chosen).tolist()
        return PrefixBatch(self.pairs.images.read(rows), [list(self.tokens[place]) for place in places])


class PrefixLearner(Learner):
    """The map in training; the language model is frozen and no part of it.

    Args:
        reach: mean sum of the absolute entries of a centred image: how far a step of all weights moves an embedding.
    """

    measured: ClassVar[tuple[str, str]] = ("val_likelihood", "val_loss")

    def __init__(
        self, map_: PrefixMap, language: LanguageModel, second: Second, aape: CaptionAAPE | None, *, reach: float
    ) -> None:
        super().__init__()
        self.map, self.second, self.reach = map_, second, reach
        self._frozen = (language, aape)  # in a tuple: no parts of this module

    def groups(self) -> list[dict[str, Any]]:
        """Rates in which weights and biases move an embedding equally fast, on the scale of the model's own ones."""
        named = dict(self.map.named_parameters())
        weights = [each for name, each in named.items() if name.endswith("weight")]
        biases = [each for name, each in named.items() if name.endswith("bias")]
        spread = self._frozen[0].spread
        return [
            {"params": biases, "share": spread, "weight_decay": 0.0},
            {"params": weights, "share": spread / self.reach},
        ]

    def losses(self, rows: Int[Tensor, " B"], batch: PrefixBatch, rng: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """The mean negative log-likelihood of a caption's tokens and its end, nats a token."""
        return {"loss": self.token_losses(batch).mean()}

    def token_losses(self, batch: PrefixBatch) -> Float[Tensor, " wanted"]:
        """Of every token of these captions and their ends."""
        language, aape = self._frozen
        prefix = self.map(batch.x, second_vector(batch.x, self.second, aape))
        found, _ = language.losses(*behind(language, prefix, batch.captions))
        return found

    def measure(self, val: TokenPairs) -> Score:
        """The geometric mean of the probability of a token, then minus the mean loss."""
        total, tokens = 0.0, 0
        for rows in torch.arange(len(val)).split(MEASURED):  # type: ignore[no-untyped-call]
            found = self.token_losses(val.first(rows))
            total, tokens = total + float(found.sum()), tokens + len(found)
        loss = total / max(tokens, 1)
        return (math.exp(-loss), -loss) if math.isfinite(loss) else WORST


def behind(
    language: LanguageModel, prefix: Float[Tensor, "B prefix entries"], captions: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "B tokens entries"], Bool[Tensor, "B tokens"], Int[Tensor, "B tokens"]]:
    """Inputs, mask and targets: start, prefix, then each caption but its last token, padded on the right."""
    start = len(language.start) + prefix.shape[1]
    longest = max(map(len, captions)) - 1
    ids = torch.zeros(len(captions), longest, dtype=torch.long)
    mask = torch.ones(len(captions), start + longest, dtype=torch.bool)
    targets = torch.full((len(captions), start + longest), -1)
    for row, caption in enumerate(captions):
        ids[row, : len(caption) - 1] = torch.tensor(caption[:-1], dtype=torch.long)
        mask[row, start + len(caption) - 1 :] = False
        targets[row, start - 1 : start + len(caption) - 1] = torch.tensor(caption)
    before = language.embed(torch.tensor(language.start, dtype=torch.long)).float().expand(len(captions), -1, -1)
    inputs = torch.cat([before, prefix, language.embed(ids).float()], dim=1)
    return inputs, mask.to(inputs.device), targets.to(inputs.device)


def cut_captions(tokens: TokenPairs, language: LanguageModel) -> int:
    """Captions that are longer than what is learned of them: their end is no part of it."""
    return sum(each[-1] != language.end for each in tokens.tokens)


def caption_tokens(language: LanguageModel, pairs: Pairs, settings: LanguageParams) -> TokenPairs:
    """The captions as tokens, each with its end; longer ones are cut at `caption_tokens`, and then have none.

    Raises:
        UserError: a prefix and a caption of that length do not fit into the model's context.
    """
    language.require_context(
        len(language.start) + settings.prefix_tokens + 1 + settings.caption_tokens + 1,
        what=f"a prefix of {settings.prefix_tokens} and a caption of language.caption_tokens={settings.caption_tokens}",
    )
    whole = ((*language.tokens(text.strip()), language.end) for text in pairs.texts)
    return TokenPairs(pairs, tuple(tokens[: settings.caption_tokens + 1] for tokens in whole))


def fit_prefix(
    train: Pairs, val: Pairs | None, settings: LanguageParams, found: LanguageModelName, *, second: Second,
    aape: CaptionAAPE | None, seed: int,
) -> Prefix:  # fmt: skip
    """Learn the map on images with captions; the same seed gives the same map.

    Args:
        val: images to choose the epoch by; see `trainer.data.pairs.select_pairs`.
        second, aape: see `Prefix`.

    Raises:
        UserError: the language model cannot be loaded, or training diverges.
    """
    began = time.perf_counter()
    language = load_language_model(found, train.device)
    selection = select_pairs(CaptionTask(train, val), seed=seed)
    chosen = _Chosen(
        caption_tokens(language, selection.train, settings),
        None if selection.val is None else caption_tokens(language, selection.val, settings),
        selection.held_out,
    )

    def learner(examples: TokenPairs) -> PrefixLearner:
        made = PrefixMap(
            width=train.images.width, entries=language.width, tokens=settings.prefix_tokens, second=second != "none",
            spread=language.spread, rng=torch.Generator().manual_seed(seed),
        ).to(train.device)  # fmt: skip
        start(made, language, examples, second, aape, ridge=settings.start == "ridge")
        x = examples.pairs.images.all()
        reach = float((x - x.mean(0)).abs().sum(1).mean().clamp(min=1e-6))
        return PrefixLearner(made, language, second, aape, reach=reach)

    schedule = Schedule(
        "adamw", settings.lr, settings.epochs, min(settings.batch, len(train)), weight_decay=settings.weight_decay,
        cosine="step", warmup_epochs=0,
    )  # fmt: skip
    whole = caption_tokens(language, train, settings)
    best = refit(choose([Candidate(schedule, learner)], chosen, seed=seed), whole, chosen, seed=seed)
    fitted = best.learner
    assert isinstance(fitted, PrefixLearner)
    info: Info = {
        **best.info, **({} if best.val is None else {"val_loss": -best.val[1]}), "selection": selection.note,
        "captions_cut": cut_captions(whole, language), "captions": len(whole.tokens),
        "n_parameters": sum(each.numel() for each in fitted.map.parameters() if each.requires_grad),
        "fit_seconds": time.perf_counter() - began,
    }  # fmt: skip
    return Prefix(
        fitted.map.requires_grad_(False).eval(), second, aape, train.images.width, settings.prefix_tokens, found.name,
        found.fingerprint, settings, seed, best.history, info,
    )  # fmt: skip


@dataclass(frozen=True)
class _Chosen:
    """`trainer.training.Chosen` of captions as tokens."""

    train: TokenPairs
    val: TokenPairs | None
    held_out: bool


@torch.no_grad()
def start(
    map_: PrefixMap, language: LanguageModel, examples: TokenPairs, second: Second, aape: CaptionAAPE | None, *,
    ridge: bool,
) -> None:  # fmt: skip
    """Set the centres; with `ridge` also let every embedding begin as a word of START_WORDS plus a ridge map."""
    x = examples.pairs.images.all()
    vector = second_vector(x, second, aape)
    map_.centre.copy_(x.mean(0))
    if map_.second_centre is not None and vector is not None:
        map_.second_centre.copy_(vector.mean(0))
    if not ridge:
        return
    means = torch.stack([
        torch.cat([language.embed(torch.tensor(examples.tokens[i], dtype=torch.long)).float() for i in range(*span)])
        .mean(0)
        for span in pairwise(examples.pairs.first.tolist())
    ])  # fmt: skip
    words = language.embed(torch.tensor(language.tokens(START_WORDS), dtype=torch.long)).float()
    k = len(map_.bias) // map_.entries
    map_.weight.add_(_ridge(x, means, language.spread).repeat(k, 1))
    last = [max(0, i - k + len(words)) for i in range(k)]  # a longer prefix repeats the first word
    map_.bias.copy_(words[last].flatten())
    if map_.second_weight is not None and map_.second_bias is not None and vector is not None:
        map_.second_weight.add_(_ridge(vector, means, language.spread))
        map_.second_bias.copy_(words[-1])


def _ridge(x: Float[Tensor, "B D"], y: Float[Tensor, "B entries"], spread: float) -> Float[Tensor, "entries D"]:
    """The ridge map from centred x to centred y, scaled so that what it gives spreads like input embeddings."""
    centred = (x - x.mean(0)).double()
    covariance = centred.T @ centred / len(x)
    strength = RIDGE * covariance.trace() / len(covariance) + 1e-12
    eye = torch.eye(len(covariance), dtype=centred.dtype, device=x.device)
    target = (y - y.mean(0)).double()
    weight = torch.linalg.solve(covariance + strength * eye, centred.T @ target / len(x)).T
    scale = spread / (centred @ weight.T).std().clamp(min=1e-12)
    found: Tensor = (scale * weight).nan_to_num().float()
    return found
