"""Which of the methods that are asked for a data set has all for: images, text of the classes, reference prompts."""

from collections.abc import Callable, Sequence
from typing import Any

from stages import ImageStore, PromptStore, TextStore, UserError
from stages.stores.artifacts import NO_LLM, partition_values
from stages.training import TrainParams
from trainer.data.features import Features
from trainer.methods import CLASSIFIERS, Method, Registry, check_names

FIRST, MOST = ("zero-shot", "cupl", "logistic", "nearest-centroid"), 3
"""Methods that are offered in the place of one that cannot be fitted, where they can, and how many at most."""


def able_methods(
    features: Features, names: Sequence[str], *, settings: TrainParams, registry: Registry = CLASSIFIERS,
    judged: Callable[[Any], bool] = lambda _: True,
) -> tuple[list[Method], list[str]]:  # fmt: skip
    """The methods of these names and groups that can be fitted, and a line on those of groups that cannot.

    Args:
        registry: where the names are looked up.
        judged: whether the protocol gives a method what it learns from, and can judge it; others are not offered.

    Raises:
        UserError: an unknown name; a method that was named itself lacks something; none is left.
    """
    check_names(names, [registry])
    chosen: list[Method] = registry.make(names, settings=settings)
    lacking: dict[str, list[str]] = {}
    for method in chosen:
        if what := _lacks(features, method):
            lacking.setdefault(what, []).append(method.name)
    unable = [name for some in lacking.values() for name in some]
    if not unable:
        return chosen, []
    able = [method for method in chosen if method.name not in unable]
    if any(name in names for name in unable) or not able:
        kept = [method.name for method in able if judged(method)]
        kept = kept or others(features, settings=settings, registry=registry, judged=judged)
        raise UserError(
            "; ".join(
                f"{features.dataset}: no {what}, and {', '.join(some)} read{'s' * (len(some) == 1)} "
                f"{'it' if what == TEXT else 'them'}: {_mend(features, what)}"
                for what, some in lacking.items()
            )
            + f", or go without: --methods {','.join(kept)}" * bool(kept)
        )
    return able, [
        f"{features.dataset}: no {what}: left out are {', '.join(some)} ({_mend(features, what)})"
        for what, some in lacking.items()
    ]


def others(
    features: Features, *, settings: TrainParams, registry: Registry, judged: Callable[[Any], bool]
) -> list[str]:
    """A few methods that can be fitted and judged, the simplest first; none where none can."""
    names = [*[name for name in FIRST if name in registry.methods], *registry.methods]
    made = registry.make(names, settings=settings)
    return [method.name for method in made if judged(method) and _lacks(features, method) is None][:MOST]


TEXT, PROMPTS, VIEWS = "embedded class text", "embedded prompts", "augmented views of the images"
STUDENT = "embeddings by a second encoder"


def _lacks(features: Features, method: Method) -> str | None:
    """What the features lack of what a method needs."""
    if method.needs == "prompts" and not features.sources:
        return PROMPTS
    if getattr(method, "reads_views", False) and features.train.images.views is None:
        return VIEWS
    if getattr(method, "reads_student", False) and features.train.images.student is None:
        return STUDENT
    named = features.has_templates or (method.uses_prompts and features.sources)
    return None if method.needs == "images" or named else TEXT


def _mend(features: Features, what: str) -> str:
    dataset = f"--dataset {features.dataset}"
    if what == STUDENT:
        there = [name for name in _there(features, "images", "encoder") if name != features.store.partitions["encoder"]]
        if there:
            return f"name one with --student-encoder (there is {', '.join(there)})"
        taken = f"take a file of them with `pipeline embed-images {dataset} --from FILE --encoder NAME`"
        made = f"embed the images with `pipeline embed-images {dataset} --encoder NAME` or "
        return f"{'' if features.embedded_elsewhere else made}{taken}, then add --student-encoder NAME"
    if what == PROMPTS and (sources := _there(features, "text", "llm", encoder=features.store.partitions["encoder"])):
        return f"name them: --sources {','.join(sources)}"
    if features.embedded_elsewhere:
        key = {TEXT: "text_template", VIEWS: "view"}.get(what, "prompts")
        return f"the embeddings of {features.dataset} were made elsewhere: give its file `{key}` and ingest it again"
    if what == VIEWS:
        return f"run `pipeline embed-images {dataset} --views 10`"
    asked = what == PROMPTS and not _there(features, "prompts", "llm")
    return f"run {f'`pipeline generate-prompts {dataset}` and ' * asked}`pipeline embed-text {dataset}`"


def _there(features: Features, store: str, key: str, **known: str) -> list[str]:
    """The encoders, or prompt sources, that the cache has a store of for this data set."""
    kind = {"images": ImageStore, "text": TextStore, "prompts": PromptStore}[store]
    found = partition_values(features.store.cache, kind, key, dataset=features.dataset, **known)
    return [name for name in found if name != NO_LLM]
