"""Sources to manifests: one reader a file, the first that understands the source reads it."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.blobs import read_bytes
from pipeline.images import ImageError, open_picture
from pipeline.ingest.base import Entry, Listing, Question, Reader, check_listing, without_empty_classes
from pipeline.ingest.coop import CoOpReader
from pipeline.ingest.corrections import Corrections, corrected, read_corrections, without_copies
from pipeline.ingest.exported import ExportedReader, import_manifest
from pipeline.ingest.folders import FolderReader
from pipeline.ingest.from_features import ingest_features, is_features
from pipeline.ingest.huggingface import HubReader, SavedReader
from pipeline.ingest.licence import licence_of
from pipeline.ingest.lists import ListReader
from pipeline.ingest.packaged import PackageReader
from pipeline.ingest.pairs import PairReader
from pipeline.ingest.places import one_deeper
from pipeline.ingest.published import as_published, refuse_bare_images, with_place
from pipeline.ingest.side_tables import are_class_folders, weigh, weigh_archives
from pipeline.ingest.splits import draw_splits
from pipeline.ingest.voc import VOCReader
from pipeline.ingest.webdataset import WebDatasetReader
from pipeline.registry import card, prepare
from pipeline.registry.readers import AircraftReader, SynsetReader
from stages import ManifestProvenance, ManifestStore, UserError
from stages.command import progress
from stages.params import DataParams, EmbedParams
from stages.stores.artifacts import CLASS_IDS, SPLITS
from stages.text import counted

READERS: tuple[Reader, ...] = (
    PackageReader(), HubReader(), CoOpReader(), SavedReader(), AircraftReader(), SynsetReader(), ListReader(),
    WebDatasetReader(), VOCReader(), PairReader(), FolderReader(),
)  # fmt: skip
"""Tried in this order: what is told by a mark of its own comes before what is told by what is in it."""

KINDS = (
    "a folder of class folders, or of images with texts beside them; a CSV, TSV, JSON or Parquet file that names or "
    "holds images; a CoOp split file; tar, tar.gz or zip archives; COCO captions or "
    "instances, Pascal VOC annotations, VQA2 questions; a folder of "
    "save_to_disk; hf:OWNER/NAME; package:conformal-clip-data; embeddings in .npz, .npy, .safetensors, .pt or Parquet"
)
READING = {"images", "columns", "multi_label", "split", "split_folders", "max_missing", "class_names", "new_classes"}
"""Settings that a source is read with, kept in the manifest for `pipeline ingest NAME --labels FILE`."""
AT_ONCE = 4096
"""Images handed to the threads at once, so that what waits for them stays small."""

__all__ = ["READERS", "Entry", "Listing", "Question", "Reader", "Summary", "classes_hash", "ingest"]


@dataclass(frozen=True)
class Summary:
    """What `ingest` found, for the user and for --json."""

    dataset: str
    images: dict[str, int]
    classes: int
    captions: int
    questions: int
    unreadable: list[str]
    ignored: int
    outside: list[str]
    unlabelled: dict[str, int]
    duplicates: list[str]
    notes: list[str]


def classes_hash(class_names: dict[int, str]) -> str:
    """sha256 over the class list; everything made from class names alone depends on it."""
    return hashlib.sha256(json.dumps(sorted(class_names.items()), ensure_ascii=True).encode()).hexdigest()


def ingest(dataset: str, source: str, *, data: DataParams, cache: Path, embed: EmbedParams | None = None) -> Summary:
    """Read a source and write the manifest store of `dataset`; of a source of embeddings all stores.

    Every image is decoded once: one that cannot be is kept as a row with its `error`, counted and listed.

    Args:
        embed: says how embeddings of the source are kept.

    Raises:
        UserError: missing or empty source, one class only, two classes of one name, no readable image, or more
            missing and unreadable ones than `data.max_missing` allows. An older manifest then stays as it is.
    """
    with ManifestStore(cache, dataset).locked("pipeline ingest"):
        return _ingest(dataset, source, data=data, cache=cache, embed=embed or EmbedParams())


def _ingest(dataset: str, source: str, *, data: DataParams, cache: Path, embed: EmbedParams) -> Summary:
    store = ManifestStore(cache, dataset)
    given = read_corrections(data.label_files, data.exclude_files, data.new_classes)
    if given and (_matches(ExportedReader(), source) or is_features(source, data)):
        raise UserError(
            f"{source}: {dataset} comes as embeddings, in files with labels of their own: correct these, or leave "
            "labels and exclude away",
            exit_code=2,
        )
    if _matches(ExportedReader(), source):
        return _summary(dataset, import_manifest(store, source))
    if is_features(source, data):
        table, lines = ingest_features(store, source, classes=classes_hash, data=data, embed=embed)
        return _summary(dataset, table, Listing(Path(source), [], {}, notes=[*lines, *_lines_of(table, store)]), source)
    asked = data
    if isinstance(find_reader(source), FolderReader):
        refuse_bare_images(dataset, source)
    place, data = prepare(dataset, source, asked)
    with with_place(dataset, source):
        listing = as_published(dataset, source, read_source(place, data), max_missing=data.max_missing)
    check_listing(source, listing)
    seeded = any(entry.split is None for entry in listing.entries)
    listing, entries, added = _after_decisions(
        dataset, source, listing, draw_splits(listing.entries, data.split), given
    )
    facts = list(progress(_looks(listing.root, entries), what=f"reading {dataset}", total=len(entries), unit="image"))
    if added:
        digests = {entry.image_id: fact[2] for entry, fact in zip(entries, facts, strict=True)}
        copies, lines = without_copies(dataset, added, digests)
        kept = [entry.image_id not in copies for entry in entries]
        entries, facts = list(compress(entries, kept)), list(compress(facts, kept))
        listing = replace(listing, notes=[*listing.notes, *lines])
    columns = {name: [getattr(entry, name) for entry in entries] for name in (
        "image_id", "path", "class_id", "class_name", "split", "captions",
    )}  # fmt: skip
    several = any(entry.class_ids is not None for entry in entries)
    columns["questions"] = [
        None if entry.questions is None else [asdict(question) for question in entry.questions] for entry in entries
    ]
    for number, name in enumerate(("width", "height", "sha256", "error")):
        columns[name] = [fact[number] for fact in facts]
    if several:
        columns[CLASS_IDS] = [entry.class_ids for entry in entries]
    kept_columns = [*store.columns, *(store.optional if several else ())]
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in kept_columns})
    _require_images(source, listing.root, table, dataset, data.max_missing)
    provenance = ManifestProvenance(
        dataset=dataset,
        content="",
        inputs={"classes": classes_hash(listing.class_names)},
        source=source,
        root=str(listing.root),
        class_names=listing.class_names,
        templates=data.templates,
        licence=licence_of(source, None if data is asked else card(dataset)),
        labels=asked.label_files,
        excluded=asked.exclude_files,
        reading=asked.model_dump(include=READING, exclude_defaults=True),
        settings={
            "split": data.split.model_dump() if seeded else "as found",
            **listing.settings,
            **({"decisions": given.settings} if given else {}),
        },
    )
    store.write(table, provenance)
    of_classes = _of_several(table, listing.class_names) if several else _of_classes(table)
    return _summary(dataset, table, replace(listing, notes=[*listing.notes, *_altered(facts), *of_classes]), source)


def _after_decisions(
    dataset: str, source: str, listing: Listing, entries: list[Entry], given: Corrections
) -> tuple[Listing, list[Entry], frozenset[str]]:
    """What a source lists after the decisions, and which images are new."""
    if not given:
        return listing, entries, frozenset()
    found = corrected(dataset, listing.root, entries, listing.class_names, given)
    changed = replace(
        listing, root=found.root, entries=found.entries, class_names=found.class_names,
        notes=[*listing.notes, *found.notes],
    )  # fmt: skip
    check_listing(f"{source}, after the decisions", changed)
    return changed, found.entries, found.added


def read_source(source: str, data: DataParams) -> Listing:
    """What a source holds, as the reader that understands it lists it; classes without an image are left out.

    Raises:
        UserError: no reader understands it, or the one that does finds a fault; `split_folders` for no folder.
    """
    reader = find_reader(source)
    if data.split_folders is not None and not isinstance(reader, FolderReader | SynsetReader | WebDatasetReader):
        if not Path(source).is_dir():
            raise UserError(f"{source}: split_folders is about class folders; leave it away", exit_code=2)
        reader = FolderReader()  # what is said about the folders says that they are the set
    told = data.images is not None or bool(data.columns)
    beside = isinstance(reader, ListReader | WebDatasetReader) and Path(source).is_dir() and not told
    try:
        listing = reader.read(source, data)
    except UserError as error:
        if not beside or not are_class_folders(source, data):
            raise
        what = "list" if isinstance(reader, ListReader) else "hold"
        raise UserError(
            f"{error}; or, if it does not {what} the data set, move it away: class folders lie there"
        ) from None
    if beside:
        listing = (weigh if isinstance(reader, ListReader) else weigh_archives)(source, listing, data)
    return without_empty_classes(listing)


def find_reader(source: str) -> Reader:
    """The reader that understands a source.

    Raises:
        UserError: none does; the line says what kinds there are.
    """
    for reader in READERS:
        if _matches(reader, source):
            return reader
    if source.startswith("~") and (home := Path(os.path.expanduser(source))).exists():  # noqa: PTH111 (raises nothing)
        raise UserError(f"source {source!r}: ~ is a word of the shell; write {str(home)!r}", exit_code=2)
    kind = f"is a file {suffix}" if (suffix := Path(source).suffix[:20]) else "is a file without suffix"
    what = f"{kind}, which is not a kind of source that is understood" if Path(source).exists() else "does not exist"
    raise UserError(f"source {source!r} {what}; name {KINDS} (docs/sources.md)")


def _matches(reader: Reader | ExportedReader, source: str) -> bool:
    if not source.strip():  # would be the working folder
        raise UserError("the source is empty; name a folder or a file (docs/sources.md)", exit_code=2)
    try:
        return reader.matches(source)
    except OSError as error:
        raise UserError(f"{str(error.filename or source)[:200]}: cannot be read ({error.strerror})") from error


Fact = tuple[int | None, int | None, str | None, str | None, str | None, bool]


def _looks(root: Path, entries: list[Entry]) -> Iterator[Fact]:
    """Width, height, sha256, error, `Picture.scaled` and `.first` of every image, in order; decoded in threads."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(entries), AT_ONCE):
            yield from pool.map(lambda entry: _look(root, entry.path), entries[start : start + AT_ONCE])


def _look(root: Path, path: str) -> Fact:
    """Hash and decode one image."""
    try:
        data = read_bytes(root, path)
    except OSError as error:
        return None, None, None, f"cannot be read: {error.strerror or error}", None, False
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = open_picture(data)
    except ImageError as error:
        return None, None, digest, str(error), None, False
    return picture.image.width, picture.image.height, digest, None, picture.scaled, picture.first


def _altered(facts: list[Fact]) -> list[str]:
    """Lines that count the images scaled to 8 bits, by the range that they were scaled from, and first frames."""
    ranges = Counter(fact[4] for fact in facts if fact[4] is not None)
    shown = ", ".join(f"{count} from {what}" for what, count in sorted(ranges.items(), key=lambda item: -item[1]))
    lines = [f"{ranges.total()} images of more than 8 bits a channel are scaled to 8: {shown}"] if ranges else []
    several = sum(fact[5] for fact in facts)
    return [
        *lines,
        *[f"{counted(several, 'file holds', 'files hold')} several frames or pages: the first of each is taken"]
        * bool(several),
    ]


def _of_classes(table: pa.Table) -> list[str]:
    """Lines about classes that nothing can be learnt of, and about files that stand in two classes."""
    rows = table.select(["class_name", "split", "sha256", "error"]).to_pylist()
    found: dict[str, set[str]] = {row["class_name"]: set() for row in rows if row["class_name"] is not None}
    classes: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["class_name"] is not None and row["error"] is None:
            found[row["class_name"]].add(row["split"])
            if row["sha256"] is not None:
                classes[row["sha256"]].append(row["class_name"])
    facts = {
        "have no image that can be read": [name for name, splits in found.items() if not splits],
        "have no image in train to learn from": [name for name, s in found.items() if s and "train" not in s],
    }
    lines = [
        f"{len(names)} classes {what}: {', '.join(names[:5])[:200]}{', ...' if len(names) > 5 else ''}"
        for what, names in facts.items()
        if 0 < len(names) < len(found)
    ]
    twice = sum(len(names) for names in classes.values() if len(set(names)) > 1)
    return [
        *lines,
        *[f"{counted(twice, 'image stands', 'images stand')} in two classes: the same file under both"] * bool(twice),
    ]


def _lines_of(table: pa.Table, store: ManifestStore) -> list[str]:
    return _of_several(table, store.provenance().class_names) if CLASS_IDS in table.column_names else _of_classes(table)


def _of_several(table: pa.Table, names: dict[int, str]) -> list[str]:
    """Lines about images with several classes each, and about classes that nothing can be learnt of."""
    readable = table.filter(pc.is_null(table["error"]))
    train = readable.filter(pc.equal(readable["split"], "train"))
    learnt = set(pc.list_flatten(train[CLASS_IDS]).to_pylist())
    lacking = [name for class_id, name in names.items() if class_id not in learnt]
    lengths = pc.list_value_length(table[CLASS_IDS])
    mean, most = pc.mean(lengths).as_py() or 0.0, pc.max(lengths).as_py() or 0
    return [
        f"an image has {mean:.1f} of {counted(len(names), 'class', 'classes')} on average, {most} at most",
        *[
            f"{counted(len(lacking), 'class has', 'classes have')} no image in train to learn from: "
            f"{', '.join(lacking[:5])[:200]}{', ...' if len(lacking) > 5 else ''}"
        ]
        * bool(lacking),
    ]


def _require_images(source: str, root: Path, table: pa.Table, dataset: str, max_missing: float) -> None:
    """Refuse a source of which too few images can be read, saying whether they are missing or broken."""
    bad = table.filter(pc.is_valid(table["error"]))
    if len(bad) <= max_missing * len(table) and len(bad) < len(table):
        return
    missing = bad["sha256"].null_count
    first = f"(first: {bad['path'][0].as_py()[:120]!r}, {bad['error'][0].as_py()})"
    lost = next((row["path"] for row in bad.select(["path", "sha256"]).to_pylist() if row["sha256"] is None), None)
    other = one_deeper(root, lost) if lost is not None else None
    found = f"{lost[:120]!r} lies below {other}: move it where it should be" if lost is not None and other else None
    if len(bad) < len(table):
        raise UserError(
            f"{source}: {len(bad)} of {len(table)} images cannot be used: {missing} are missing below {root}, "
            f"{len(bad) - missing} are broken {first}; {found or 'mend them'}, or allow a larger share than "
            f"{max_missing:g}: data.{dataset}.max_missing in the settings, or --max-missing"
        )
    if missing == len(bad):
        instead = "name the folder that holds them with --images, or fetch the list that belongs to them"
        mend = f"{found}, or name that folder with --images" if found else instead
        raise UserError(
            f"{source}: none of the {len(table)} images that it names can be read below {root} {first}; {mend}"
        )
    raise UserError(f"{source}: none of {len(table)} files can be read as an image {first}")


def _summary(dataset: str, table: pa.Table, listing: Listing | None = None, source: str = "") -> Summary:
    readable = table.filter(pc.is_null(table["error"]))
    broken = table.filter(pc.is_valid(table["error"])).select(["path", "error"]).to_pylist()
    counts = {value["values"]: value["counts"] for value in readable["split"].value_counts().to_pylist()}
    seen: dict[str, set[str]] = {}
    hashes, names = table["sha256"].to_pylist(), table["split"].to_pylist()
    for digest, split in zip(hashes, names, strict=True):
        if digest is not None:
            seen.setdefault(digest, set()).add(split)
    across = {digest for digest, found in seen.items() if len(found) > 1}
    image_ids: list[Any] = table["image_id"].to_pylist()
    return Summary(
        dataset=dataset,
        images={split: counts.get(split, 0) for split in SPLITS},
        classes=pc.count_distinct(
            pc.list_flatten(table[CLASS_IDS]) if CLASS_IDS in table.column_names else table["class_id"]
        ).as_py(),
        captions=pc.sum(pc.list_value_length(table["captions"])).as_py() or 0,
        questions=pc.sum(pc.list_value_length(table["questions"])).as_py() or 0,
        unreadable=[f"{row['path']}: {row['error']}" for row in broken],
        ignored=listing.ignored if listing else 0,
        outside=listing.outside if listing else [],
        unlabelled={str(Path(source) / path): count for path, count in listing.unlabelled.items()} if listing else {},
        duplicates=sorted(i for i, digest in zip(image_ids, hashes, strict=True) if digest in across),
        notes=listing.notes if listing else [],
    )
