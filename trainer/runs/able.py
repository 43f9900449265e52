"""Which of the methods that are asked for a data set has all for: images, text of the classes, reference prompts."""

from collections.abc import Sequence

from stages import UserError
from stages.training import TrainParams
from trainer.data.features import Features
from trainer.methods import CLASSIFIERS, Method, Registry, check_names


def able_methods(
    features: Features, names: Sequence[str], *, settings: TrainParams, registry: Registry = CLASSIFIERS
) -> tuple[list[Method], list[str]]:
    """The methods of these names and groups that can be fitted, and a line on those of groups that cannot.

    Args:
        registry: where the names are looked up.

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
        kept = ",".join(method.name for method in able) or "logistic,nearest-centroid"
        raise UserError(
            "; ".join(
                f"{features.dataset}: no {what}, and {', '.join(some)} read{'s' * (len(some) == 1)} "
                f"{'it' if what == TEXT else 'them'}: {_mend(features, what)}"
                for what, some in lacking.items()
            )
            + f", or go without: --methods {kept}"
        )
    return able, [
        f"{features.dataset}: no {what}: left out are {', '.join(some)} ({_mend(features, what)})"
        for what, some in lacking.items()
    ]


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
    if what == STUDENT:
        return f"run `pipeline embed-images --dataset {features.dataset}` with it, then name it with --student-encoder"
    if what == VIEWS and not features.embedded_elsewhere:
        return f"run `pipeline embed-images --dataset {features.dataset} --views 10`"
    if features.embedded_elsewhere:
        key = {TEXT: "text_template", VIEWS: "view"}.get(what, "prompts")
        return f"the embeddings of {features.dataset} were made elsewhere: give its file `{key}` and ingest it again"
    made = "`pipeline embed-text`" if what == TEXT else "`pipeline generate-prompts` and `pipeline embed-text`, each"
    return f"run {made} with --dataset {features.dataset}"
