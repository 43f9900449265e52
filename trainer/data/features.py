"""Stores -> tensors on the device, once. The test split stays on disk until the end."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from stages import ImageStore, ManifestStore, PromptStore, TextStore, UserError, nearest
from stages.device import pick_device
from stages.stores.artifacts import NO_LLM, encoder_of, partition_values, read_together
from stages.stores.provenance import refuse_mixture
from stages.text import counted
from trainer.data import LENGTH_TOLERANCE, ClassText, Images
from trainer.data.indices import Indices, read_indices

LISTED = 5
"""Classes that a line names, at most."""


@dataclass(frozen=True)
class Split:
    """Images of one split with their ids.

    Attributes:
        images: embeddings and labels on the device; labels are positions in `Features.class_names`.
        image_ids: the manifest's ids, in the same order.
    """

    images: Images
    image_ids: tuple[str, ...]

    def take(self, index: Int[np.ndarray, " M"]) -> Images:
        """The images at these positions."""
        where = torch.as_tensor(index, dtype=torch.long, device=self.images.labels.device)
        return self.images.take(where)


def notes_on(
    notes: Sequence[str], source_notes: Mapping[str, Sequence[str]], sources: Collection[str]
) -> tuple[str, ...]:
    """Notes without those that concern other prompt sources alone."""
    kept = {note for source in sources for note in source_notes.get(source, ())}
    others = {note for found in source_notes.values() for note in found}
    return tuple(note for note in notes if note in kept or note not in others)


@dataclass(frozen=True)
class StoredFeatures:
    """What is known of any data set whose stores were read; what it has of each split is its own.

    Attributes:
        class_names: in the order of the labels; () without classes.
        sources: prompt sources, the settings' own LLM first.
        notes: honest lines that every output repeats.
        contents: store -> hash of its rows: what these features are.
        source, licence: of the images, as the manifest has them.
    """

    dataset: str
    encoder: str
    encoder_fingerprint: str
    width: int
    class_names: tuple[str, ...]
    sources: tuple[str, ...]
    notes: tuple[str, ...]
    device: torch.device
    contents: dict[str, str]
    source: str | None
    licence: str | None

    def notes_on(self, sources: Collection[str]) -> tuple[str, ...]:
        """The notes without those that concern prompt sources that are not among these."""
        return self.notes


@dataclass(frozen=True)
class Features(StoredFeatures):
    """Everything stage two knows about a data set with classes before the final evaluation.

    Attributes:
        class_ids: the manifest's class ids, ascending; position in this list is the label.
        text: prompt source -> what text knows; the key `none` has templates alone.
        indices: published draws of the shots; None where they are drawn by seed.
        embedded_elsewhere: nothing can be embedded here beside what there is.
        prompts: prompt source -> the language model or file, and what pins it.
        templates: the sentences whose embeddings name the classes, one `{}` each.
        source_notes: prompt source -> those of the notes that concern it alone.
        student: the image store of a second encoder; None where none was asked for.
    """

    class_ids: tuple[int, ...]
    train: Split
    val: Split
    text: dict[str, ClassText]
    store: ImageStore
    indices: Indices | None = None
    embedded_elsewhere: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    templates: tuple[str, ...] = ()
    source_notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    student: ImageStore | None = None

    def notes_on(self, sources: Collection[str]) -> tuple[str, ...]:
        """The notes without those that concern prompt sources that are not among these."""
        return notes_on(self.notes, self.source_notes, sources)

    @property
    def has_templates(self) -> bool:
        """Whether a template of each class is embedded; else `text["none"]` holds the mean images of the classes."""
        return self.text[NO_LLM].is_text

    def test(self, *, views: bool = False) -> Split:
        """Read the test split. Called once, by the final evaluation, after everything is trained and chosen.

        Args:
            views: with the augmented views, where there are some; else without.
        """
        return read_split(self.store, "test", self.class_ids, self.device, views=views, student=self.student)

    def with_main_source(self, source: str) -> "Features":
        """The same features with this prompt source first, where it is there."""
        return replace(self, sources=tuple(sorted(self.sources, key=lambda s: s != source)))


def load_features(
    cache: Path, dataset: str, encoder: str, *, sources: list[str] | None = None, device: str = "auto",
    indices: Path | None = None, prompts: int | None = None, only_test: bool = False, several: bool = False,
    student: str | None = None,
) -> Features:  # fmt: skip
    """Read the stores of a data set and check that they belong together.

    Args:
        sources: prompt sources to load, the main one first; None takes all there are.
        indices: CSV file of published draws (`trainer.data.indices.read_indices`).
        only_test: the data set is tested on and not trained on, so that it needs no training image.
        student: a second encoder, whose embeddings of the same images stand beside the first's.
        prompts: reference prompts a class, at most, each question's first answers before its second; None takes all.
        several: its images may have several classes; the labels are then all 0, and `trainer.multilabel.features` has
            them.

    Raises:
        UserError: a store is missing or of another origin, an embedding is not finite or not of length 1, or a class
            has no image.
    """
    target, encoder = pick_device(device), encoder_of(cache, dataset, encoder)
    images = ImageStore(cache, dataset, encoder)
    templates = TextStore(cache, dataset, encoder, NO_LLM)
    manifest = ManifestStore(cache, dataset)
    manifest.require()
    require_encoder(images, cache, dataset, encoder)
    there = [s for s in partition_values(cache, TextStore, "llm", dataset=dataset, encoder=encoder) if s != NO_LLM]
    wanted = there if sources is None else sources
    for source in wanted:
        if source not in there:
            written = source in partition_values(cache, PromptStore, "llm", dataset=dataset)
            asked = f"`pipeline generate-prompts --dataset {dataset} --llm {source}` and " * (not written)
            elsewhere = manifest.provenance().encoder is not None
            mend = "name one of these" if elsewhere else f"run {asked}`pipeline embed-text --dataset {dataset}`"
            known = nearest(source, there)
            raise UserError(f"data set {dataset!r} has no embedded prompts of {source!r} ({known}): {mend}")
    stores = [TextStore(cache, dataset, encoder, source) for source in wanted]
    own = [manifest, images, *([templates] if templates.exists() else [])]
    origins = read_together(*own, *stores)
    about = manifest.provenance()
    names = about.class_names
    if not names:
        raise UserError(f"{manifest.file}: the data set has no classes to tell apart; retrieval reads its captions")
    if not several:
        refuse_several(manifest)
    class_ids = tuple(sorted(names))
    second = None if student is None else _second_store(cache, dataset, student, manifest)
    train = read_split(images, "train", None if several else class_ids, target, student=second)
    val = read_split(images, "val", None if several else class_ids, target, student=second)
    if not only_test and not several:
        _require_images(train, [names[i] for i in class_ids], images)
    called = tuple(names[i] for i in class_ids)
    if templates.exists():
        each = _templates(templates, class_ids, target)
        text = {NO_LLM: ClassText(called, each[:, 0].clone(), templates=each)}
    else:
        text = {NO_LLM: _without_text(called, train, several=several)}
    spoken = {source: store.provenance().llm_note for source, store in zip(wanted, stores, strict=True)}
    about_source = {source: [note] for source, note in spoken.items() if note}
    notes = dict.fromkeys(note for note in [*(origin.note for origin in origins), *spoken.values()] if note)
    whole: dict[str, bool] = {}
    for source, store in zip(wanted, stores, strict=True):
        found, mask, without = _prompts(store, class_ids, text[NO_LLM], most=prompts)
        listed = ", ".join(names[class_ids[i]] for i in without[:LISTED])
        whole[source] = not without
        if without and not text[NO_LLM].is_text:
            line = f"{source}: left out: no prompt of {len(without)} classes ({listed}), and no template to stand in"
            notes[line] = None
            continue
        text[source] = replace(text[NO_LLM], prompts=found, mask=mask)
        if not text[NO_LLM].is_text:  # the mean of the prompts names the classes
            text[source] = replace(text[source], template=text[source].prompt_mean(), is_text=True)
        if without:
            listed += ", ..." * (len(without) > LISTED)
            classes = counted(len(without), "class", "classes")
            line = f"{source} has no sentence for {classes} ({listed}): the template stands in"
            notes[line] = None
            about_source.setdefault(source, []).append(line)
    return Features(
        templates=tuple(templates.provenance().templates) if templates.exists() else (),
        dataset=dataset,
        encoder=origins[1].encoder or encoder,
        encoder_fingerprint=origins[1].encoder_fingerprint or "",
        width=origins[1].width or 0,
        class_ids=class_ids,
        class_names=text[NO_LLM].names,
        train=train,
        val=val,
        text=text,
        sources=tuple(source for source in _in_order(wanted, whole, named=sources is not None) if source in text),
        notes=tuple(notes),
        store=images,
        device=target,
        contents={
            f"{store.name}/{'/'.join(store.partitions.values())}": origin.content
            for store, origin in zip((*own, *stores), origins, strict=True)
        }
        | ({} if second is None else {f"images/{dataset}/{second.partitions['encoder']}": second.provenance().content}),
        indices=None if indices is None else read_indices(indices),
        embedded_elsewhere=about.encoder is not None,
        source=about.source,
        licence=about.licence,
        prompts={
            source: f"{store.provenance().llm or source} ({(store.provenance().llm_fingerprint or 'not pinned')[:64]})"
            for source, store in zip(wanted, stores, strict=True)
            if source in text
        },
        source_notes={source: tuple(lines) for source, lines in about_source.items()},
        student=second,
    )


def refuse_several(manifest: ManifestStore) -> None:
    """Refuse a data set whose images may have several classes, where one an image is needed.

    Raises:
        UserError: it is one.
    """
    if manifest.is_multi_label:
        raise UserError(
            f"an image of {manifest.dataset!r} may have several classes, or none, and this needs one an image: "
            f"`trainer run --dataset {manifest.dataset} --protocol multi-label` and `trainer predict` take such a set; "
            "or ingest it with one class an image",
            exit_code=2,
        )


def _in_order(wanted: list[str], whole: dict[str, bool], *, named: bool) -> list[str]:
    """Prompt sources as they were named; where none were, those of all classes come before those of some."""
    return wanted if named else sorted(wanted, key=lambda source: not whole[source])


def require_encoder(
    store: ImageStore | TextStore, cache: Path, dataset: str, encoder: str, *, option: str = "--encoder"
) -> None:
    """Refuse a store that is missing, and say of which encoders there is one.

    Args:
        option: of `trainer run`, that names the encoder.

    Raises:
        UserError: it is missing.
    """
    if store.exists():
        return
    there = partition_values(cache, type(store), "encoder", dataset=dataset)
    if there:
        command = store.made_by.format(dataset=dataset)
        from_file = f" (embeddings made elsewhere: `{command} --from FILE --encoder {encoder}`)"
        raise UserError(
            f"data set {dataset!r} has no {store.name} store of encoder {encoder!r}, only of {', '.join(there)}: "
            f"run `{command} --encoder {encoder}`{from_file * (option != '--encoder')}, or choose one with {option}"
        )
    store.require()


def _second_store(cache: Path, dataset: str, encoder: str, manifest: ManifestStore) -> ImageStore:
    """The image store of a second encoder.

    Raises:
        UserError: it is missing, or of another manifest.
    """
    store = ImageStore(cache, dataset, encoder)
    require_encoder(store, cache, dataset, encoder, option="--student-encoder")
    refuse_mixture(manifest.provenance(), store.provenance())
    return store


def _of_student(store: ImageStore, image_ids: Sequence[str], device: torch.device) -> Float[Tensor, "B E"]:
    """A second encoder's embeddings of these images.

    Raises:
        UserError: it has not all of them.
    """
    rows = store.read(["image_id", "view"])
    first = np.flatnonzero(rows["view"].to_numpy() == 0)
    at = pc.fill_null(pc.index_in(pa.array(image_ids, pa.string()), rows["image_id"].take(first)), -1).to_numpy()
    if (at < 0).any():
        lacking = image_ids[int(np.flatnonzero(at < 0)[0])]
        raise UserError(
            f"{store.file}: no embedding of {int((at < 0).sum())} images that the first encoder has (first: "
            f"{lacking!r}): run `{store.made_by.format(**store.partitions)}` again"
        )
    found = torch.from_numpy(store.embeddings(rows["view"].to_numpy() == 0, check=True))
    _check_unit(found, store)
    return found[torch.from_numpy(at.astype(np.int64))].to(device)


def read_split(
    store: ImageStore, split: str, class_ids: tuple[int, ...] | None, device: torch.device, *, views: bool = False,
    student: ImageStore | None = None,
) -> Split:  # fmt: skip
    """The images of a split, in the store's order.

    Args:
        class_ids: the classes, in the order of the labels; None: one an image is not what they have, all labels are 0.
        views: with the augmentations, as of train and val.
        student: the store of a second encoder, whose embeddings stand beside.

    Raises:
        UserError: an embedding is not of length 1, or an image of a strange class.
    """
    rows = store.read(["image_id", "class_id", "split", "view"])
    own = pc.equal(rows["split"], split).to_numpy()
    view = rows["view"].to_numpy()
    table = rows.filter(pa.array(own & (view == 0)))
    embeddings = torch.from_numpy(store.embeddings(own & (view == 0), check=True))
    _check_unit(embeddings, store)
    augmented = None
    drawn = int(view.max(initial=0))
    if (views or split != "test") and drawn:  # rows lie image by image, view by view
        augmented = torch.from_numpy(store.embeddings(own & (view > 0), check=True))
        augmented = augmented.reshape(len(table), drawn, embeddings.shape[1])
        _check_unit(augmented, store)
        augmented = augmented.to(device)
    ids = tuple(table["image_id"].to_pylist())
    if class_ids is None:
        return Split(
            Images(embeddings.to(device), torch.zeros(len(ids), dtype=torch.long, device=device), augmented), ids
        )
    position = {class_id: i for i, class_id in enumerate(class_ids)}
    found = table["class_id"].to_pylist()
    strange = sorted(set(found) - set(position))
    if strange:
        raise UserError(f"{store.file}: class id {strange[0]} is not in the manifest; write the store again")
    labels = torch.tensor([position[c] for c in found], dtype=torch.long)
    second = None if student is None else _of_student(student, ids, device)
    return Split(Images(embeddings.to(device), labels.to(device), augmented, second), ids)


def _check_unit(embeddings: Float[Tensor, "*rows D"], store: ImageStore | TextStore) -> None:
    lengths = torch.linalg.vector_norm(embeddings, dim=-1, dtype=torch.float32).flatten()
    if bool(((lengths - 1).abs() <= LENGTH_TOLERANCE).all()):
        return
    bad = int((~torch.isfinite(lengths)).sum())
    if bad:
        hold = counted(bad, "embedding holds", "embeddings hold")
        raise UserError(
            f"{store.file}: {hold} NaN or infinity: run `pipeline verify --dataset {store.dataset}`, embed again"
        )
    off = (lengths - 1).abs() > LENGTH_TOLERANCE
    raise UserError(
        f"{store.file}: {int(off.sum())} of {len(off)} embeddings are not of length 1 (first: length "
        f"{float(lengths[off][0]):.4g}): divide each by its length, or run "
        f"`{store.made_by.format(**store.partitions)}`"
    )


def _require_images(train: Split, names: list[str], store: ImageStore) -> None:
    counts = torch.bincount(train.images.labels, minlength=len(names))
    empty = [names[i] for i in (counts == 0).nonzero().flatten().tolist()]
    if empty:
        raise UserError(f"{store.file}: no training image of {len(empty)} classes: {', '.join(empty)[:200]}")


def _text_rows(
    store: TextStore, class_ids: tuple[int, ...], kind: str, *, most: int | None = None
) -> tuple[Float[Tensor, "N D"], list[list[int]]]:
    table = store.read(["prompt_id", "class_id", "kind"])
    own = pc.equal(table["kind"], kind).to_numpy()
    table = table.filter(pa.array(own))
    rows = torch.from_numpy(store.embeddings(own, check=True).astype(np.float32))
    _check_unit(rows, store)
    where: dict[int, list[int]] = {class_id: [] for class_id in class_ids}
    for row, class_id in enumerate(table["class_id"].to_pylist()):
        if class_id in where:
            where[class_id].append(row)
    if most is not None:
        ids = table["prompt_id"].to_pylist()  # CLASS-QUESTION-SAMPLE
        for own in where.values():
            own.sort(key=lambda row: (ids[row].rsplit("-", 1)[-1], ids[row]))
            own[most:] = []
            own.sort()
    return rows, [where[class_id] for class_id in class_ids]


def _templates(store: TextStore, class_ids: tuple[int, ...], device: torch.device) -> Float[Tensor, "C T D"]:
    rows, where = _text_rows(store, class_ids, "template")
    if not all(where) or len({len(index) for index in where}) > 1:
        raise UserError(f"{store.file}: a class lacks a template: run `pipeline embed-text --dataset {store.dataset}`")
    return normalize(torch.stack([rows[index] for index in where]), dim=-1).to(device)


def _without_text(names: tuple[str, ...], train: Split, *, several: bool) -> ClassText:
    """The mean training image of each class, in the place of its text; of all images where one may have several."""
    images = train.images.float32()
    if several:
        mean = normalize(images.embeddings.sum(0), dim=0)
        return ClassText(names, mean.expand(len(names), -1).contiguous(), is_text=False)
    sums = images.embeddings.new_zeros(len(names), images.embeddings.shape[1])
    return ClassText(names, normalize(sums.index_add_(0, images.labels, images.embeddings), dim=-1), is_text=False)


def _prompts(
    store: TextStore, class_ids: tuple[int, ...], named: ClassText, *, most: int | None
) -> tuple[Float[Tensor, "C N D"], Tensor, list[int]]:
    """Prompts padded to the longest class; a class without any gets its template, and is reported."""
    rows, where = _text_rows(store, class_ids, "prompt", most=most)
    template, longest = named.template, max(1, *(len(index) for index in where))
    prompts = torch.zeros(len(where), longest, template.shape[1])
    mask = torch.zeros(len(where), longest, dtype=torch.bool)
    for i, index in enumerate(where):
        chosen = rows[index] if index else template[i : i + 1].cpu()
        prompts[i, : len(chosen)], mask[i, : len(chosen)] = chosen, True
    return prompts.to(template.device), mask.to(template.device), [i for i, index in enumerate(where) if not index]
