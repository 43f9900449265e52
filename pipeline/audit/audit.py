"""The audit of a data set: what is wrong with its images and labels, before anything is trained.

Test images are looked at for copies and for bad pictures alone. Their labels are not judged, nothing is fitted on them.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from pipeline.audit import duplicates
from pipeline.audit.classes import ClassFinding, confusable, imbalance
from pipeline.audit.duplicates import Facts, copies_line, thumbnail_vectors
from pipeline.audit.finding import COLUMNS, KINDS, Finding
from pipeline.audit.labels import HeldOut, held_out
from pipeline.audit.measures import Measures, measure_all
from pipeline.audit.neighbours import nearest, robust_z
from pipeline.audit.quality import quality
from stages import ImageStore, ManifestProvenance, ManifestStore, TextStore, UserError
from stages.decisions import read_decisions
from stages.stores.artifacts import NO_LLM, SPLITS, encoder_of, read_together
from stages.text import counted

OUTLYING = 1.75
"""Robust standard deviations of the log distance above which an image is an outlier."""
ALONE = frozenset({"same-file", "same-pixels", "near-duplicate", "blank", "tiny"})
"""Kinds that say enough about an image: its label is not doubted as well."""
MORE = 1e-6
"""By how much another class must be more probable than an image's own."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        images: split -> readable images.
        findings: the most urgent first.
        classes: faults of whole classes.
        thresholds: limits that were calibrated on the store.
        notes: counted lines for the user.
        root: folder of the image files; None without pixels.
        rows: image id -> its row of the manifest, for every image of a finding.
    """

    dataset: str
    encoder: str | None
    images: dict[str, int]
    findings: list[Finding]
    classes: list[ClassFinding]
    thresholds: dict[str, float]
    notes: list[str]
    root: str | None
    rows: dict[str, dict[str, Any]] = field(repr=False)

    def listed(self) -> list[dict[str, Any]]:
        """One row a finding, as the list has it; None for what is empty."""
        return [self._listed(rank, finding) for rank, finding in enumerate(self.findings, 1)]

    def _listed(self, rank: int, finding: Finding) -> dict[str, Any]:
        own, other = self.rows[finding.image_id], self.rows.get(finding.other or "", {})
        values = {
            "rank": rank, "kind": finding.kind, "score": finding.score, "image_id": finding.image_id,
            "path": self.place(own), "split": own["split"], "class_name": own["class_name"],
            "suggested": finding.suggested, "probability": finding.probability, "other_image_id": finding.other,
            "other_path": self.place(other) if other else None, "other_split": other.get("split"),
            "other_class_name": other.get("class_name"), "detail": finding.detail, "action": None, "label": None,
        }  # fmt: skip
        return {name: values[name] for name in COLUMNS}

    def place(self, row: dict[str, Any]) -> str | None:
        """Where the file of an image lies."""
        return None if self.root is None else f"{self.root}/{row['path']}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "dataset": self.dataset, "encoder": self.encoder, "images": self.images, "thresholds": self.thresholds,
            "notes": self.notes, "findings": self.listed(), "classes": [each.row() for each in self.classes],
        }  # fmt: skip


def audit(cache: Path, dataset: str, encoder: str) -> Report:
    """Look at a data set with what there is of it: pixels, embeddings, class text.

    Raises:
        UserError: no manifest, or stores that do not belong together.
    """
    store = ManifestStore(cache, dataset)
    origin = store.provenance()
    assert isinstance(origin, ManifestProvenance)
    table = store.read(["image_id", "path", "class_id", "class_name", "split", "sha256", "error"])
    rows = {row["image_id"]: row for row in table.to_pylist()}
    unreadable = {image_id: row["error"] for image_id, row in rows.items() if row["error"] is not None}
    there = [row for row in rows.values() if row["error"] is None]
    facts = [Facts(row["image_id"], row["split"], row["class_name"]) for row in there]
    notes: list[str] = []
    measures = _measures(origin.root, [row["path"] for row in there], dataset, notes)
    found, limits = ([], {}) if measures is None else quality(
        [fact.image_id for fact in facts], measures, [fact.class_name for fact in facts], unreadable
    )  # fmt: skip
    if measures is None:
        found = [Finding("unreadable", 1.0, image_id, why[:200]) for image_id, why in unreadable.items()]
    pixels = [None] * len(there) if measures is None else [each.pixels or None for each in measures]
    digests = [row["sha256"] for row in there]
    embedded = _embedded(cache, dataset, encoder, notes)
    doubt: dict[str, float] = {}
    classes = imbalance(_counts(origin.class_names, facts, store))
    if embedded is not None:
        vectors, here = _rows_of(embedded, facts, notes)
        own = [facts[place] for place in here]
        copies = [pixels[place] or digests[place] for place in here]
        judged, doubt, of_classes = _judged(cache, origin, own, vectors, copies, embedded, notes)
        found += judged
        classes += of_classes
        thumbnails = None if measures is None else thumbnail_vectors([measures[place].thumbnail for place in here])
        close = nearest(vectors, duplicates.NEAREST)
        near, near_limits = duplicates.near(own, vectors, thumbnails, copies, doubt, embedded=close)
        limits = limits | near_limits
    else:
        near = []
    files = duplicates.exact(facts, digests, "same-file", doubt)
    known = {finding.image_id for finding in files}
    same = [each for each in duplicates.exact(facts, pixels, "same-pixels", doubt) if each.image_id not in known]
    known |= {finding.image_id for finding in same}
    found += [*files, *same, *[each for each in near if each.image_id not in known]]
    inside = duplicates.within(facts, [a or b for a, b in zip(pixels, digests, strict=True)])
    notes += [copies_line(inside)] * bool(inside)
    useless = {each.image_id for each in found if each.kind in ALONE}
    found = [each for each in found if each.kind not in ("wrong-label", "outlier") or each.image_id not in useless]
    decided = _decided(origin, notes)
    kept = [each for each in found if each.image_id not in decided or each.kind in KINDS[:3]]
    if len(kept) < len(found):
        notes.append(
            f"{counted(len(found) - len(kept), 'finding')} about images that were decided on: not listed again"
        )
    kept.sort(key=lambda each: (KINDS.index(each.kind), -each.score, each.image_id))
    shares = Counter(fact.split for fact in facts)
    return Report(
        dataset, embedded[0].provenance().encoder if embedded else None, {split: shares[split] for split in SPLITS},
        kept, classes, limits, notes, origin.root, rows,
    )  # fmt: skip


def _measures(root: str | None, paths: Sequence[str], dataset: str, notes: list[str]) -> list[Measures] | None:
    """The measures of all pictures; None where there are no files."""
    if root is None:
        notes.append("the data set came without image files: bytes, pixels and pictures are not looked at")
        return None
    if not Path(root).exists():
        notes.append(f"image folder {root} is gone: pixels and pictures are not looked at")
        return None
    return list(measure_all(Path(root), paths, what=f"looking at {dataset}"))


def _embedded(
    cache: Path, dataset: str, encoder: str, notes: list[str]
) -> "tuple[ImageStore, Callable[[Int[np.ndarray, ' M']], Any]] | None":
    """The image store and what gives its rows; None where there is none."""
    encoder = encoder_of(cache, dataset, encoder)
    store = ImageStore(cache, dataset, encoder)
    if not store.exists():
        notes.append(
            f"no embeddings of {encoder}: near duplicates, labels, outliers and classes are not looked at; run "
            f"`pipeline embed-images --dataset {dataset}` first"
        )
        return None
    read_together(ManifestStore(cache, dataset), store)
    return store, store.rows()


def _rows_of(
    embedded: "tuple[ImageStore, Callable[[Int[np.ndarray, ' M']], Any]]", facts: Sequence[Facts], notes: list[str]
) -> tuple[Float32[np.ndarray, "images D"], list[int]]:
    """Unit embeddings, and for each the place of its image among all that can be read."""
    store, rows = embedded
    table = store.read(["image_id", "view"])
    first = np.flatnonzero(table["view"].to_numpy() == 0)
    places = {fact.image_id: place for place, fact in enumerate(facts)}
    ids = table["image_id"].take(first).to_pylist()
    known = [(row, places[image_id]) for row, image_id in zip(first.tolist(), ids, strict=True) if image_id in places]
    vectors = np.asarray(rows(np.array([row for row, _ in known], np.int64)), np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    if len(known) < len(facts):
        notes.append(f"{counted(len(facts) - len(known), 'image has', 'images have')} no embedding")
    return vectors, [place for _, place in known]


def _judged(
    cache: Path,
    origin: ManifestProvenance,
    facts: Sequence[Facts],
    vectors: Float32[np.ndarray, "images D"],
    copies: Sequence[str | None],
    embedded: "tuple[ImageStore, Any]",
    notes: list[str],
) -> tuple[list[Finding], dict[str, float], list[ClassFinding]]:
    """Doubtful labels, outliers and classes, from the images that are not of the test split."""
    names = [name for _, name in sorted(origin.class_names.items())]
    if ManifestStore(cache, origin.dataset).is_multi_label:
        notes.append("an image has several classes: labels, outliers and pairs of classes are not looked at")
        return [], {}, []
    if len(names) < 2:
        notes.append("the data set has no classes to tell apart: labels, outliers and classes are not looked at")
        return [], {}, []
    numbers = {name: number for number, name in enumerate(names)}
    mine = [place for place, fact in enumerate(facts) if fact.split != "test" and fact.class_name is not None]
    if not mine:
        notes.append("every image is of the test split, whose labels are not judged")
        return [], {}, []
    x = vectors[mine]
    if len(x) > 1 and not np.ptp(x, axis=0).any():
        notes.append("every image has the same embedding: labels, outliers and classes are not looked at")
        return [], {}, []
    labels = np.array([numbers[facts[place].class_name or ""] for place in mine])
    seen: dict[str, int] = {}
    first = [seen.setdefault(copies[place] or facts[place].image_id, at) for at, place in enumerate(mine)]
    said = held_out(x, labels, len(names), copies=first)
    lonely = int((~said.judged).sum())
    if lonely:
        notes.append(
            f"{counted(lonely, 'label is', 'labels are')} not judged: no other image of the class to learn from"
        )
    image_ids = [facts[place].image_id for place in mine]
    found = _wrong_labels(image_ids, labels, names, x, said)
    if said.judged.any():
        notes.append(
            f"about {counted(int(said.confident.sum()), 'wrong label')} among the {int(said.judged.sum())} of train "
            "and val by confident learning; those of test are not judged"
        )
    found += _outliers(image_ids, said)
    own = said.probabilities[np.arange(len(labels)), labels]
    doubt = {image_id: 1 - float(p) for image_id, p in zip(image_ids, own, strict=True) if p == p}
    texts = _class_texts(cache, origin, embedded[0], sorted(origin.class_names))
    by_text = None if texts is None else x @ texts.T
    return found, doubt, confusable(names, labels, said.probabilities, by_text, texts)


def _wrong_labels(
    image_ids: Sequence[str],
    labels: Int[np.ndarray, " images"],
    names: Sequence[str],
    vectors: Float32[np.ndarray, "images D"],
    said: HeldOut,
) -> list[Finding]:
    """Images of which another class is more probable than their own."""
    found = []
    for place in np.flatnonzero(said.judged):
        shares = said.probabilities[place].copy()
        own = float(shares[labels[place]])
        shares[labels[place]] = -1
        best = int(shares.argmax())
        if shares[best] <= own + MORE:
            continue
        there = np.flatnonzero(labels == best)
        evidence = int(there[(vectors[there] @ vectors[place]).argmax()])
        sure = "confidently " if said.confident[place] else ""
        detail = f"{sure}{names[best]} ({shares[best]:.0%}) rather than {names[labels[place]]} ({own:.1%})"
        found.append(
            Finding(
                "wrong-label", round(1 - own, 6), image_ids[place], detail, names[best], round(float(shares[best]), 4),
                image_ids[evidence],
            )
        )  # fmt: skip
    return found


def _outliers(image_ids: Sequence[str], said: HeldOut) -> list[Finding]:
    """Images far from every class mean."""
    there = np.flatnonzero(~np.isnan(said.distance))
    z = robust_z(np.log(np.maximum(said.distance[there], 1e-6)))
    return [
        Finding(
            "outlier", round(0.5 + 0.5 * math.erf(float(far) / math.sqrt(2)), 4), image_ids[place],
            f"far from every class: distance {said.distance[place]:.2f}, {far:.1f} deviations more than usual",
        )
        for place, far in zip(there.tolist(), z.tolist(), strict=True)
        if far >= OUTLYING
    ]  # fmt: skip


def _class_texts(
    cache: Path, origin: ManifestProvenance, images: ImageStore, class_ids: Sequence[int]
) -> Float32[np.ndarray, "C D"] | None:
    """The mean template of each class, unit rows; None where there is no text."""
    store = TextStore(cache, origin.dataset, images.provenance().encoder or "", NO_LLM)
    if not store.exists():
        return None
    read_together(ManifestStore(cache, origin.dataset), store)
    table = store.read(["kind", "class_id"])
    kinds, ids = table["kind"].to_pylist(), table["class_id"].to_pylist()
    vectors = np.asarray(store.embeddings(), np.float32)
    rows = []
    for class_id in class_ids:
        own = [place for place, kind in enumerate(kinds) if kind == "template" and ids[place] == class_id]
        if not own:
            return None
        mean = vectors[own].mean(0)
        rows.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    return np.stack(rows)


def _counts(names: dict[int, str], facts: Sequence[Facts], store: ManifestStore) -> dict[str, int]:
    """Training images of each class."""
    train = [fact for fact in facts if fact.split == "train"]
    if store.is_multi_label:
        own = store.class_ids()
        of = Counter(class_id for fact in train for class_id in own[fact.image_id])
        return {name: of[class_id] for class_id, name in names.items()}
    counts = Counter(fact.class_name for fact in train)
    return {name: counts[name] for name in names.values()}


def _decided(origin: ManifestProvenance, notes: list[str]) -> set[str]:
    """Images that someone has confirmed or labelled already."""
    found: set[str] = set()
    for name in origin.labels:
        try:
            rows = read_decisions(Path(name)).rows
        except UserError as error:
            notes.append(f"what was decided before is not known: {error}")
            continue
        found |= {row.image_id for row in rows if row.image_id and row.action in ("confirm", "label")}
    return found
