"""The four stores: their columns, their order and the command that makes each (`store.py` reads and writes them).

Stores are Hive-partitioned Parquet (`cache/images/dataset=D/encoder=E/part-0.parquet`, many parts where there are many
rows), so that pyarrow, DuckDB and Polars read them without this code. Partition values are slugs; the full names stand
in the footer and in a column.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.names import slug
from stages.stores.columns import embedding_array, embedding_matrix, embedding_type
from stages.stores.parted import PART
from stages.stores.provenance import (
    ImageProvenance,
    ManifestProvenance,
    PromptProvenance,
    Provenance,
    TextProvenance,
    refuse_mixture,
)
from stages.stores.store import NO_LLM, PART_ROWS, ROW_GROUP, Store, values_on_disk

__all__ = [
    "CLASS_IDS", "NO_LLM", "PART", "PART_ROWS", "QUESTION", "ROW_GROUP", "SPLITS", "STORES", "ImageStore",
    "ManifestStore", "PromptStore", "Store", "TextStore", "embedding_array", "embedding_matrix", "embedding_type",
    "encoder_of", "only_encoder", "partition_values", "read_together", "refuse_other_encoder",
]  # fmt: skip

SPLITS = ("train", "val", "test")
QUESTION = pa.struct(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answers", pa.list_(pa.string())),
    ]
)
"""One question about an image, with all the answers that people gave, and the choices where there are some."""


CLASS_IDS = "class_ids"
"""Column of a manifest whose images have several classes each; `class_id` and `class_name` are then empty."""


class ManifestStore(Store):
    """What images there are: one row an image, unreadable ones included (their `error` says why)."""

    name = "manifest"
    columns = (
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("error", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("questions", pa.list_(QUESTION)),
    )
    optional = ((CLASS_IDS, pa.list_(pa.int32())),)
    sort_by = ("split", "class_id", "image_id")
    made_by = "pipeline ingest {dataset} --source PATH"

    def __init__(self, cache: Path, dataset: str) -> None:
        super().__init__(cache, dataset=dataset)

    def provenance(self) -> ManifestProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, ManifestProvenance)
        return found

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes, or none: the column `class_ids`.

        Raises:
            UserError: the store is missing, unreadable, or not of this schema.
        """
        self.check_schema()
        return CLASS_IDS in pq.read_schema(self.file).names

    def class_ids(self) -> dict[str, list[int]]:
        """image_id -> its classes, ascending, of a manifest whose images may have several."""
        table = self.read(["image_id", CLASS_IDS])
        return dict(zip(table["image_id"].to_pylist(), table[CLASS_IDS].to_pylist(), strict=True))


class PromptStore(Store):
    """What a language model, or a person, wrote about each class; dropped rows stay, with the reason."""

    name = "prompts"
    columns = (
        ("prompt_id", pa.string()),
        ("class_id", pa.int32()),
        ("image_id", pa.string()),
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("n_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("kept", pa.bool_()),
        ("drop_reason", pa.string()),
        ("answer", pa.string()),
        ("llm_name", pa.string()),
    )
    sort_by = ("class_id", "image_id", "question_id", "sample")
    made_by = "pipeline generate-prompts --dataset {dataset} --llm {llm}"

    def __init__(self, cache: Path, dataset: str, llm: str) -> None:
        super().__init__(cache, dataset=dataset, llm=llm)

    def provenance(self) -> PromptProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, PromptProvenance)
        return found


class TextStore(Store):
    """Unit text embeddings: templates (llm=none) and kept prompts (llm=the source)."""

    name = "text"
    columns = (
        ("prompt_id", pa.string()),
        ("kind", pa.string()),
        ("class_id", pa.int32()),
        ("image_id", pa.string()),
        ("text", pa.string()),
        ("encoder_name", pa.string()),
    )
    sort_by = ("class_id", "prompt_id")
    embedded = True
    made_by = "pipeline embed-text --dataset {dataset}"

    def __init__(self, cache: Path, dataset: str, encoder: str, llm: str) -> None:
        super().__init__(cache, dataset=dataset, encoder=encoder, llm=llm)

    def provenance(self) -> TextProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, TextProvenance)
        return found


class ImageStore(Store):
    """Unit image embeddings: view 0 is the centre crop, further views are augmentations."""

    name = "images"
    columns = (
        ("image_id", pa.string()),
        ("view", pa.int32()),
        ("class_id", pa.int32()),
        ("split", pa.string()),
        ("encoder_name", pa.string()),
    )
    sort_by = ("split", "class_id", "image_id", "view")
    embedded = True
    made_by = "pipeline embed-images --dataset {dataset}"

    def __init__(self, cache: Path, dataset: str, encoder: str) -> None:
        super().__init__(cache, dataset=dataset, encoder=encoder)

    def provenance(self) -> ImageProvenance:
        """The footer, typed."""
        found = super().provenance()
        assert isinstance(found, ImageProvenance)
        return found


STORES: tuple[type[Store], ...] = (ManifestStore, PromptStore, TextStore, ImageStore)


def partition_values(cache: Path, store: type[Store], key: str, **known: str) -> list[str]:
    """The values a partition key has on disk, sorted, e.g. the prompt sources of a data set.

    Args:
        known: values of the keys that come before `key` in the path.
    """
    return values_on_disk(cache, store.name, key, **known)


def encoder_of(cache: Path, dataset: str, wanted: str) -> str:
    """The encoder whose embeddings a data set came with, where it came as embeddings; else the one that is wanted."""
    manifest = ManifestStore(cache, dataset)
    return (manifest.provenance().encoder if manifest.exists() else None) or wanted


def refuse_other_encoder(cache: Path, datasets: Sequence[str], asked: str | None) -> None:
    """Refuse an encoder that is asked for by name where a data set came as embeddings of another one.

    Raises:
        UserError: names the data set and both.
    """
    for dataset in datasets:
        own = encoder_of(cache, dataset, asked or "")
        if asked is not None and slug(own) != slug(asked):
            raise UserError(
                f"{dataset} came as embeddings of {own}, and nothing of {asked} can be put beside them: "
                "leave --encoder away",
                exit_code=2,
            )


def only_encoder(cache: Path, wanted: str) -> str:
    """The one encoder whose embeddings the cache holds, where it holds none of the wanted one; else the wanted one."""
    there = {
        encoder
        for store in (TextStore, ImageStore)
        for dataset in partition_values(cache, store, "dataset")
        for encoder in partition_values(cache, store, "encoder", dataset=dataset)
    }
    return there.pop() if len(there) == 1 and slug(wanted) not in there else wanted


def read_together(*stores: Store) -> list[Provenance]:
    """The provenance of several stores, after checking that each pair belongs together."""
    found = [store.provenance() for store in stores]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            refuse_mixture(first, second)
    return found
