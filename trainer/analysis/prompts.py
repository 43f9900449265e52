"""The reference prompts behind a checkpoint, and the aggregator that weighed them.

A checkpoint serves without prompts and without aggregator, so neither is in it. Its prompts are found again in the
stores by their mean, which it does keep. The aggregator is trained again on the same shots from the same seed, a matter
of seconds, and used only where it ends at the CLIP reward that the checkpoint has noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from stages import TextStore, UserError
from stages.names import dataset_name
from stages.stores.artifacts import NO_LLM, partition_values
from trainer.aape import PromptTargets, distills, start_targets
from trainer.aape.aggregator import AttentionAggregator
from trainer.checkpoint import Checkpoint
from trainer.data import ClassText
from trainer.data.draws import few_shot
from trainer.data.features import Features, load_features
from trainer.methods.aape import AAPEPredictor
from trainer.methods.aape_plus import AAPEPlusPredictor

SAME_MEAN = 1e-3
"""Largest difference between entries of two means that count as the same: float16 embeddings differ by less."""
SAME_REWARD = 1e-3
"""Relative difference of two rewards that count as the same; other machines sum in another order."""


@dataclass(frozen=True)
class Reference:
    """The prompts of one source.

    Attributes:
        source: its name.
        learned: whether the checkpoint was trained with exactly these.
        text: their embeddings.
        sentences: of each class, in the order of the embeddings; empty for a class without prompts.
    """

    source: str
    learned: bool
    text: ClassText
    sentences: tuple[tuple[str, ...], ...]


def features_of(found: Checkpoint, cache: Path) -> Features:
    """The stores that a checkpoint's data set has, for the same encoder and classes.

    Raises:
        UserError: there are none, or they are of another encoder or class list.
    """
    dataset, encoder = str(found.provenance.get("dataset", "")), str(found.provenance["encoder"])
    try:
        dataset_name(dataset)
    except UserError as error:
        raise UserError(f"{found.path}: {error}: run `trainer run` again") from error
    features = load_features(cache, dataset, encoder, device="cpu")
    found.require_encoder(
        name=f"{encoder} of the stores in {cache}", fingerprint=features.encoder_fingerprint, width=features.width
    )
    if features.class_names != found.text.names:
        raise UserError(
            f"{found.path}: knows {len(found.text.names)} classes, the stores of {dataset!r} in {cache} name "
            f"{len(features.class_names)} others: run `trainer run --dataset {dataset}` again"
        )
    return features


def has_prompts(found: Checkpoint, cache: Path) -> bool:
    """Whether the stores hold embedded prompts of a checkpoint's data set and encoder."""
    known = {"dataset": str(found.provenance.get("dataset") or "-"), "encoder": str(found.provenance["encoder"])}
    return any(source != NO_LLM for source in partition_values(cache, TextStore, "llm", **known))


def find_reference(found: Checkpoint, features: Features) -> Reference | None:
    """The prompts that the checkpoint was trained with, else the first source there is; None without any."""
    if not features.sources:
        return None
    learned = None
    if found.text.prompts is not None:
        mean = found.text.prompt_mean()
        near = {s: float((features.text[s].prompt_mean() - mean).abs().max()) for s in features.sources}
        learned = next((source for source, away in near.items() if away < SAME_MEAN), None)
    source = learned or features.sources[0]
    return Reference(source, learned is not None, features.text[source], _sentences(features, source))


def _sentences(features: Features, source: str) -> tuple[tuple[str, ...], ...]:
    store = TextStore(features.store.cache, features.dataset, features.encoder, source)
    found: dict[int, list[str]] = {class_id: [] for class_id in features.class_ids}
    rows = store.read(["kind", "class_id", "text"]).to_pylist()
    for row in rows:
        if row["kind"] == "prompt" and row["class_id"] in found:
            found[row["class_id"]].append(row["text"])
    return tuple(tuple(found[class_id]) for class_id in features.class_ids)


def aggregator_again(found: Checkpoint, features: Features, reference: Reference) -> tuple[PromptTargets | None, str]:
    """The aggregator that taught the checkpoint's h, or None and the reason why it cannot be had again.

    Only training images of the checkpoint's own draw are used.
    """
    if not isinstance(found.predictor, AAPEPredictor) or not distills(found.predictor.settings):
        return None, "no aggregator had a part in this classifier"
    settings, info = found.predictor.settings, found.predictor.info
    if not reference.learned:
        return None, f"the prompts of {reference.source!r} are not those that this classifier was trained with"
    if not settings.detach:
        return None, "the aggregator was trained together with h (detach: false) and is in no checkpoint"
    seed, shots = found.provenance.get("seed"), found.provenance.get("shots")
    if not isinstance(seed, int) or not (isinstance(shots, int) or shots == "all"):
        return None, "the checkpoint does not say which shots it was trained on"
    train, _ = few_shot(features, shots, seed=seed, up_to=bool(found.provenance.get("up_to")))
    targets = start_targets(reference.text, settings, seed)
    rewards = targets.fit(train.float32())
    noted = info.get("reward_end")
    if rewards and not (isinstance(noted, float) and math.isclose(rewards[-1], noted, rel_tol=SAME_REWARD)):
        return None, f"the aggregator trained again ends at reward {rewards[-1]:.4f}, the checkpoint's at {noted}"
    targets.aggregator.eval()
    return targets, ""


@torch.no_grad()
def attention(targets: PromptTargets, image: Float[Tensor, " D"], label: int) -> list[float] | None:
    """Attention over a class's prompts, mean over the heads (figure 7); None for aggregators that have no attention.

    With query `mean` it is the same for every image of a class.
    """
    aggregator = targets.aggregator
    if not isinstance(aggregator, AttentionAggregator):
        return None
    own = slice(label, label + 1)
    mean = targets.mean[own]
    query = {"mean": mean, "image": image[None], "mean+image": normalize(mean + image, dim=-1)}[targets.settings.query]
    scores = aggregator.scores(query, targets.prompts[own], targets.mask[own])
    shares: list[float] = scores.mean(1)[0].tolist()
    return shares


READS = {
    "template": "the template",
    "prompts": "the prompts' mean",
    "both": "the template and the prompts' mean",
}
"""Without attention."""


def attention_of_image(
    found: Checkpoint, reference: Reference
) -> tuple[Callable[[Tensor, int], list[float]] | None, str]:
    """AAPE+'s own attention, an image's shares of a class's prompts; None and the reason where it listens to none."""
    assert isinstance(found.predictor, AAPEPlusPredictor)
    beta = found.predictor.text_head.beta
    if not found.predictor.attends:
        return None, f"this classifier reads {READS[found.predictor.text_head.source]}"
    prompts, mask = found.text.require_prompts()
    if not reference.learned or prompts.shape != reference.text.require_prompts()[0].shape:
        return None, f"the prompts of {reference.source!r} are not those that this classifier was trained with"

    def shares(image: Tensor, label: int) -> list[float]:
        own: list[float] = (beta * prompts[label][mask[label]] @ image).softmax(0).tolist()
        return own

    return shares, ""


def nearest_prompts(
    reference: Reference, image: Float[Tensor, " D"], label: int, *, count: int, shares: Sequence[float] | None
) -> list[dict[str, float | str | None]]:
    """The prompts of a class with the largest cosine to the image: `{prompt, cosine, attention}`."""
    sentences = reference.sentences[label]
    if not sentences or reference.text.prompts is None:
        return []
    cosines = (reference.text.prompts[label, : len(sentences)].float() @ image).tolist()
    order = sorted(range(len(sentences)), key=lambda i: -cosines[i])[:count]
    return [
        {
            "prompt": sentences[i],
            "cosine": round(cosines[i], 4),
            "attention": None if shares is None else round(shares[i], 4),
        }
        for i in order
    ]
