"""Embeddings that someone else made: read and split as any other source, and all their stores written at once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.features.checks import FeatureSet, read_features
from pipeline.features.stores import encoder_facts, manifest_table, write_stores
from pipeline.ingest.base import Entry
from pipeline.ingest.licence import licence_of
from pipeline.ingest.splits import draw_splits
from stages import ManifestProvenance, ManifestStore, UserError
from stages.arrays import FORM_NAMES, FORMS, holds_arrays
from stages.params import DataParams, EmbedParams
from stages.stores.provenance import FEATURES


def is_features(source: str, data: DataParams) -> bool:
    """Whether a source holds embeddings, by its form or because the settings name their encoder.

    Raises:
        UserError: the settings name an encoder, and the source is of no form that holds embeddings.
    """
    path = Path(source)
    if path.exists() and holds_arrays(path, main=data.columns.get("embedding", "embedding")):
        return True
    if data.encoder_name is None:
        return False
    if not path.exists():
        raise UserError(f"source {source!r} does not exist; name a file or folder of embeddings ({FORM_NAMES})")
    if path.is_file() and path.suffix.lower() in FORMS:
        return True
    raise UserError(
        f"source {source!r} holds no `embedding` ({FORM_NAMES}), and encoder_name is about embeddings: leave it away "
        "where the source holds images",
        exit_code=2,
    )


def named_features(dataset: str, source: str, data: DataParams) -> tuple[FeatureSet, str]:
    """The checked arrays of a source, and the encoder that made them.

    Raises:
        UserError: the arrays are wrong (see `pipeline.features.check_features`), or no encoder is named.
    """
    found = read_features(Path(source), columns=data.columns, class_names=data.class_names)
    if data.encoder_name is None:
        raise UserError(
            f"{source}: {len(found.rows)} embeddings of {found.width} numbers; say which encoder made them with "
            f"--encoder-name, such as clip-vit-b-32 (data.{dataset}.encoder_name in the settings)",
            exit_code=2,
        )
    return found, data.encoder_name


def ingest_features(
    store: ManifestStore, source: str, *, classes: Callable[[dict[int, str]], str], data: DataParams, embed: EmbedParams
) -> tuple[pa.Table, list[str]]:
    """Write the manifest, and the stores that belong to it; returns the manifest's rows and lines for the user.

    Args:
        classes: the hash of a class list.

    Raises:
        UserError: the arrays are wrong (see `pipeline.features.check_features`), or no encoder is named.
    """
    found, encoder = named_features(store.dataset, source, data)
    first = (found.views == 0).nonzero()[0].tolist()
    given = found.splits
    entries = [
        Entry(
            found.image_ids[row], found.image_ids[row], None if found.several else int(found.class_ids[row]), None,
            None if given is None else given[row], class_ids=None if found.several is None else found.several[row],
        )
        for row in first
    ]  # fmt: skip
    splits = {entry.image_id: entry.split or "" for entry in draw_splits(entries, data.split)}
    if given is None and "split" not in found.arrays:
        shares = ", ".join(f"{count} {split}" for split, count in sorted(Counter(splits.values()).items()))
        found.notes.append(f"no split in the file: drawn by seed, a class at a time ({shares})")
    provenance = ManifestProvenance(
        dataset=store.dataset,
        content="",
        inputs={"classes": classes(found.class_names), FEATURES: found.sha256},
        source=source,
        features=source,
        licence=licence_of(source, None),
        class_names=found.class_names,
        templates=found.templates,
        settings={"split": data.split.model_dump() if given is None else "as found"},
        **encoder_facts(encoder, found.width),
    )
    table = manifest_table(found, splits)
    written = store.write(table, provenance)
    assert isinstance(written, ManifestProvenance)
    return table, [*found.notes, *write_stores(found, written, cache=store.cache, embed=embed)]
