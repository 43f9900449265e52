"""What a run reads: the features of its data set, and of those that its protocols test on beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stages import ManifestStore, UserError
from stages.command import say
from stages.names import slug
from stages.params import Params
from stages.text import counted
from trainer.data.captions import CaptionFeatures, has_any, load_captions
from trainer.data.features import Features, StoredFeatures, load_features
from trainer.multilabel.features import LabelFeatures, load_label_features
from trainer.protocols import Protocol, Reads, protocol_classes
from trainer.protocols.base import embedded_beside


@dataclass(frozen=True)
class Inputs:
    """Everything that `trainer.runs.run.run` needs beside the settings.

    Attributes:
        features: of the data set that is trained on, where it has classes and a protocol reads them.
        others: protocol name -> further data sets that it tests on, such as the targets of cross-dataset.
        captions: the images with captions of the same data set, where it has some and a protocol reads them; none of
            them has a caption where it has questions alone.
        labels: of the data set that is trained on, where its images may have several classes.
        questions: whether its images have questions.
        captioned: whether any of its images has a caption.
    """

    features: Features | None
    others: Mapping[str, tuple[Features | CaptionFeatures, ...]] = field(default_factory=dict)
    captions: CaptionFeatures | None = None
    labels: LabelFeatures | None = None
    questions: bool = False
    captioned: bool = True

    def of(self, reads: Reads) -> Features | LabelFeatures | CaptionFeatures | None:
        """What a protocol reads; None where the data set has nothing of that kind."""
        if reads == "classes":
            return self.features
        if reads == "labels":
            return self.labels
        return self.captions if (self.captioned if reads == "captions" else self.questions) else None

    @property
    def known(self) -> StoredFeatures:
        """What is the same whatever is read."""
        found = self.features or self.labels or self.captions
        assert found is not None
        return found


def load_training(params: Params, dataset: str, *, cache: Path, device: str = "auto") -> Features:
    """The features of a data set as the settings want them: encoder, prompt sources, draws of the shots.

    The sources of `evaluation.sources` in their order; without any all there are, those of `prompts.llm` first.

    Raises:
        UserError: see `trainer.data.features.load_features`.
    """
    asked = params.evaluation
    features = load_features(
        cache, dataset, params.encoder, device=device, prompts=asked.prompts_per_class,
        sources=None if asked.sources is None else [slug(source) for source in asked.sources],
        indices=None if asked.indices is None else Path(asked.indices), student=asked.student_encoder,
    )  # fmt: skip
    return features if asked.sources else features.with_main_source(slug(params.prompts.llm))


def load_inputs(params: Params, dataset: str, *, cache: Path, device: str = "auto") -> Inputs:
    """All that a run of this data set reads; data sets that several protocols test on are read once.

    Raises:
        UserError: an unknown protocol, a data set that has nothing of what the protocols read, or see
            `trainer.data.features.load_features` and `trainer.data.captions.load_captions`.
    """
    protocols = protocol_classes(params.evaluation.protocols)
    has = {each.reads: _has(each.reads, cache, dataset) for each in protocols}
    if not any(has.values()):
        if mend := _other_kind(protocols, cache, dataset):
            raise UserError(f"{dataset}: {mend}", exit_code=2)
        raise UserError(f"{dataset}: {_lacking(protocols, cache, dataset)}")
    features = load_training(params, dataset, cache=cache, device=device) if has.get("classes") else None
    spoken = has.get("captions") or has.get("questions")
    bare = bool(has.get("questions"))
    captions = _captions(params, dataset, cache=cache, device=device, bare=bare) if spoken else None
    _require_one_class(params, protocols, cache)
    others: dict[str, tuple[Any, ...]] = {}
    loaded: dict[tuple[Reads, str, bool], Any] = {}
    listed = params.datasets if "datasets" in params.model_fields_set else []  # the built-in list is nobody's choice
    for each in protocols:
        fitting = _listed(each, params, listed, features) if features and each.reads == "classes" else listed
        names = each.tests_on(params.evaluation, dataset=dataset, datasets=fitting) if has[each.reads] else []
        for name in dict.fromkeys(names):
            found = loaded.get((each.reads, name, each.learns_from_others))
            if found is None and each.reads != "classes":
                found = replace(_captions(params, name, cache=cache, device=device), folds=None)
            elif found is None and (
                name in [*params.evaluation.targets, *params.evaluation.together] or _has("classes", cache, name)
            ):
                found = load_features(
                    cache, name, params.encoder, device=device, prompts=params.evaluation.prompts_per_class,
                    only_test=not each.learns_from_others,
                )  # fmt: skip
            if found is not None:  # a data set that is listed for its captions is no target of a classifier
                loaded[each.reads, name, each.learns_from_others] = found
                others[each.name] = (*others.get(each.name, ()), found)
    labels = load_labels(params, dataset, cache=cache, device=device) if has.get("labels") else None
    return Inputs(features, others, captions, labels, bare, bool(has.get("captions")))


def _listed(protocol: type[Protocol], params: Params, listed: Sequence[str], features: Features) -> Sequence[str]:
    """The data sets that the settings list and this protocol can take; a line says which are passed over, and why."""
    option = next((name for name in ("together", "targets") if name in protocol.own_settings), None)
    if option is None or getattr(params.evaluation, option):
        return listed
    cache, encoder = features.store.cache, features.store.partitions["encoder"]
    others = [name for name in dict.fromkeys(listed) if name != features.dataset]
    there = embedded_beside(cache, features.dataset, encoder)
    taken = [name for name in others if name in there]
    if passed := [f"{name} ({_why_not(cache, name, encoder)})" for name in others if name not in there]:
        say(
            f"{protocol.name}: of {counted(len(others), 'other data set')} that the settings list "
            f"{len(taken)} taken{': ' * bool(taken)}{', '.join(taken)}; {len(passed)} passed over: {', '.join(passed)} "
            f"(--{option} names others)"
        )
    return taken


def _why_not(cache: Path, dataset: str, encoder: str) -> str:
    if not ManifestStore(cache, dataset).exists():
        return f"not in {cache}"
    if _has("classes", cache, dataset):
        return f"not embedded by {encoder}, images and text"
    return "its images may have several classes" if _has("labels", cache, dataset) else "captions, and no classes"


def _require_one_class(params: Params, protocols: Sequence[type[Protocol]], cache: Path) -> None:
    """Refuse other data sets that are named and whose images may have several classes.

    Raises:
        UserError: one is named.
    """
    asked = params.evaluation
    for option, names in (("together", asked.together), ("targets", asked.targets)):
        taking = [each.name for each in protocols if option in each.own_settings]
        for name in names if taking else []:
            if _has("labels", cache, name):
                raise UserError(
                    f"{name}: its images may have several classes, and {' and '.join(taking)} need"
                    f"{'s' * (len(taking) == 1)} one an image: name others with --{option}",
                    exit_code=2,
                )


def load_labels(params: Params, dataset: str, *, cache: Path, device: str = "auto") -> LabelFeatures:
    """The features of a data set whose images may have several classes, as the settings want them.

    Raises:
        UserError: see `trainer.multilabel.features.load_label_features`.
    """
    asked = params.evaluation
    sources = None if asked.sources is None else [slug(source) for source in asked.sources]
    found = load_label_features(
        cache, dataset, params.encoder, sources=sources, device=device, prompts=asked.prompts_per_class,
        also_called=params.of(dataset).also_called,
    )  # fmt: skip
    main = slug(params.prompts.llm)
    return found if asked.sources else replace(found, sources=tuple(sorted(found.sources, key=lambda s: s != main)))


def _other_kind(protocols: Sequence[type[Protocol]], cache: Path, dataset: str) -> str | None:
    """What to do where the protocols want one class an image and the set has several, or the reverse."""
    one = [each.name for each in protocols if each.reads == "classes"]
    several = [each.name for each in protocols if each.reads == "labels"]
    if one and _has("labels", cache, dataset):
        need = f"{' and '.join(one)} need{'s' * (len(one) == 1)}"
        return f"its images may have several classes, and {need} one an image: --protocol multi-label"
    if several and _has("classes", cache, dataset):
        are = f"{' and '.join(several)} {'is' if len(several) == 1 else 'are'}"
        return f"its images have one class each, and {are} for several: --protocol few-shot"
    return None


def _lacking(protocols: Sequence[type[Protocol]], cache: Path, dataset: str) -> str:
    """What the protocols read and the set has not, and protocols that read what it has."""
    has = dict.fromkeys(each.reads for each in protocols)
    kinds: dict[Reads, str] = {"classes": "few-shot", "labels": "multi-label", "captions": "retrieval"}
    able = [name for reads, name in kinds.items() if reads not in has and _has(reads, cache, dataset)]
    mend = f"; choose --protocol {' or '.join(able)}" * bool(able)
    return f"no {' and no '.join(has)}, which {', '.join(each.name for each in protocols)} would need{mend}"


def _has(reads: Reads, cache: Path, dataset: str) -> bool:
    """Whether a data set has what a protocol reads."""
    if reads == "classes" or reads == "labels":
        manifest = ManifestStore(cache, dataset)
        return bool(manifest.provenance().class_names) and manifest.is_multi_label == (reads == "labels")
    return has_any(cache, dataset, reads)


def _captions(params: Params, dataset: str, *, cache: Path, device: str, bare: bool = False) -> CaptionFeatures:
    asked = params.evaluation
    return load_captions(
        cache, dataset, params.encoder, device=device, most=asked.captions_per_image, memory=asked.memory,
        folds=asked.folds.get(dataset), bare=bare,
    )  # fmt: skip
