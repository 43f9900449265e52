"""What a run reads: the features of its data set, and of those that its protocols test on beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stages.names import slug
from stages.params import Params
from trainer.features import Features, load_features
from trainer.protocols import protocol_classes


@dataclass(frozen=True)
class Inputs:
    """Everything that `trainer.run.run` needs beside the settings.

    Attributes:
        features: of the data set that is trained on.
        others: protocol name -> further data sets that it tests on, such as the targets of cross-dataset.
    """

    features: Features
    others: Mapping[str, tuple[Features, ...]] = field(default_factory=dict)


def load_training(params: Params, dataset: str, *, cache: Path, device: str = "auto") -> Features:
    """The features of a data set as the settings want them: encoder, prompt sources, draws of the shots.

    The sources of `evaluation.sources` in their order; without any all there are, those of `prompts.llm` first.

    Raises:
        UserError: see `trainer.features.load_features`.
    """
    asked = params.evaluation
    features = load_features(
        cache, dataset, params.encoder, device=device, prompts=asked.prompts_per_class,
        sources=None if asked.sources is None else [slug(source) for source in asked.sources],
        indices=None if asked.indices is None else Path(asked.indices),
    )  # fmt: skip
    return features if asked.sources else features.with_main_source(slug(params.prompts.llm))


def load_inputs(params: Params, dataset: str, *, cache: Path, device: str = "auto") -> Inputs:
    """All that a run of this data set reads; data sets that several protocols test on are read once.

    Raises:
        UserError: an unknown protocol, or see `trainer.features.load_features`.
    """
    names = {
        each.name: each.tests_on(params.evaluation, dataset=dataset, datasets=params.datasets)
        for each in protocol_classes(params.evaluation.protocols)
    }
    features = load_training(params, dataset, cache=cache, device=device)
    loaded = {
        name: load_features(
            cache, name, params.encoder, device=device, prompts=params.evaluation.prompts_per_class, only_test=True
        )
        for name in dict.fromkeys(name for each in names.values() for name in each)
    }
    return Inputs(
        features, {each: tuple(loaded[name] for name in dict.fromkeys(some)) for each, some in names.items() if some}
    )
