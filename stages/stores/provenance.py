"""What a store was made from, kept in the Parquet footer, and the check that stores belong together."""

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.errors import UserError

FOOTER_KEY, SEAL = b"aape", "sha256"
FORMAT_VERSION = 3


def code_version() -> str:
    """The installed version of this project."""
    try:
        return metadata.version("aape")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _seal(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class Provenance(BaseModel):
    """The origin of one store.

    `content` is the hash of the store's own rows; `inputs` holds the `content` of every store it was made from, so that
    a chain of stores can be checked without opening the earlier files. Time and place of making are left out on
    purpose: the same input on the same machine gives the same bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    found: ClassVar[frozenset[str]] = frozenset()
    """Fields that tell what was found while the rows were made, and do not decide them."""

    store: str = Field(description="manifest, prompts, text or images")
    dataset: str = Field(description="data-set name")
    content: str = Field(description="sha256 over the rows (`stages.stores.content`)")
    inputs: dict[str, str] = Field(default_factory=dict, description="store name -> its `content`")
    encoder: str | None = Field(None, description="encoder name as the user writes it")
    encoder_fingerprint: str | None = Field(None, description="sha256 over weights, preprocessing, tokenizer")
    width: int | None = Field(None, description="D, length of an embedding")
    llm: str | None = Field(None, description="LLM or prompt source as the user writes it")
    llm_fingerprint: str | None = Field(None, description="sha256 or revision that pins the LLM or the source file")
    settings: dict[str, Any] = Field(default_factory=dict, description="what else decided the rows; never read again")
    note: str = Field("", description="one honest line that every output repeats")
    code_version: str = Field(default_factory=code_version)
    format_version: int = FORMAT_VERSION

    def to_footer(self) -> dict[bytes, bytes]:
        """The key and value that go into the Parquet footer, with a hash over the value."""
        entry = json.loads(json.dumps(self.model_dump()))  # keys as they are read back: text
        return {FOOTER_KEY: json.dumps(entry | {SEAL: _seal(entry)}, sort_keys=True, ensure_ascii=True).encode()}

    @property
    def made_from(self) -> dict[str, Any]:
        """All that decides the rows, without what was found on the way: where it is the same, so are the rows."""
        return self.model_dump(exclude={"store", "dataset", "content", *self.found})

    @staticmethod
    def from_footer(metadata: Mapping[bytes, bytes] | None, *, where: str) -> "Provenance":
        """Read the entry back from the key-value metadata of a Parquet file, as the class of its store.

        Raises:
            UserError: the file has none, or one of another format.
        """
        raw = (metadata or {}).get(FOOTER_KEY)
        if raw is None:
            raise UserError(f"{where}: no provenance in the Parquet footer; this store was not written by pipeline")
        try:
            entry = json.loads(raw)
            version, seal = entry["format_version"], entry.pop(SEAL, None)
            changed = seal is not None and seal != _seal(entry)  # stores of older versions have none
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{where}: unreadable provenance in the Parquet footer; write the store again") from error
        if changed:
            raise UserError(f"{where}: the provenance in the Parquet footer has changed; write the store again")
        if version not in (2, FORMAT_VERSION):
            raise UserError(f"{where}: store format {version}, this version reads {FORMAT_VERSION}; write it again")
        try:
            return KINDS[entry["store"]].model_validate(_from_version_2(entry) if version == 2 else entry)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where}: unreadable provenance in the Parquet footer; write the store again") from error


class ManifestProvenance(Provenance):
    """The origin of a manifest."""

    store: Literal["manifest"] = "manifest"
    source: str | None = Field(None, description="what was ingested, as the user named it")
    root: str | None = Field(None, description="folder that the paths of the rows lie below; None: no image files")
    features: str | None = Field(None, description="file or folder of the embeddings that stand for the images")
    class_names: dict[int, str] = Field(default_factory=dict, description="class_id -> name, empty classes too")
    templates: list[str] | None = Field(None, description="those of a known data set, or of the settings")
    licence: str | None = Field(None, description="of the images, as far as the source says so itself")
    labels: list[str] = Field(default_factory=list, description="files of decisions that were applied")
    excluded: list[str] = Field(default_factory=list, description="exclude lists that were applied")
    reading: dict[str, Any] = Field(default_factory=dict, description="settings that the source was read with")
    found: ClassVar[frozenset[str]] = frozenset({"licence"})

    @property
    def from_arrays(self) -> bool:
        """Whether images, prompts and class text came in as embeddings, in one file (`pipeline.features`)."""
        return FEATURES in self.inputs


NAMED = "named:"
"""What the fingerprint of an encoder begins with that was only named: nobody here saw its weights."""


def named_fingerprint(encoder: str, width: int) -> str:
    """The fingerprint of an encoder of which the name and the width are all that is known."""
    return NAMED + hashlib.sha256(f"{encoder} {width}".encode()).hexdigest()


FEATURES = "features"
"""What `inputs` calls a file of embeddings that someone else made; its value is the hash of the file."""
SECOND, VIEWS_FROM = "second", "views_from"
"""What `settings` calls the file of a second encoder's embeddings, by name, and a folder of views, by hash."""


class PromptProvenance(Provenance):
    """The origin of a prompt store: the questions that a language model was asked, or the file that was imported."""

    store: Literal["prompts"] = "prompts"
    questions: dict[str, str] | None = Field(None, description="question_id -> text; None: imported")
    file: str | None = Field(None, description="the imported file as the user named it; None: captions, or generated")
    nearest: dict[int, list[str]] = Field(
        default_factory=dict, description="class_id -> the classes that it was asked to be told from"
    )
    refused: list[str] = Field(
        default_factory=list, description="settings of a request that the server did not take, and that were left out"
    )
    found: ClassVar[frozenset[str]] = frozenset({"nearest", "refused"})


class EmbeddingProvenance(Provenance):
    """The origin of a store of embeddings."""

    precision: Literal["float16", "float32"] = Field("float16", description="of the stored embeddings")


class TextProvenance(EmbeddingProvenance):
    """The origin of a text store."""

    store: Literal["text"] = "text"
    templates: list[str] = Field(default_factory=list, description="one `{}` each; [] in a store of prompts")
    llm_note: str = Field("", description="the honest line about the language model")


class ImageProvenance(EmbeddingProvenance):
    """The origin of an image store."""

    store: Literal["images"] = "images"
    views: int = Field(0, description="augmentations an image, beside the centre crop")
    seed: int | None = Field(None, description="of the augmentations; None without them")
    left_out: dict[str, str] = Field(
        default_factory=dict, description="image_id -> why an image that the manifest could read could not be embedded"
    )
    found: ClassVar[frozenset[str]] = frozenset({"left_out"})


KINDS: dict[str, type[Provenance]] = {
    "manifest": ManifestProvenance, "prompts": PromptProvenance, "text": TextProvenance, "images": ImageProvenance,
}  # fmt: skip
"""Store name -> the class of its provenance."""


def _from_version_2(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the version that kept everything under `settings`; its list of unreadable files is left behind."""
    kind, settings = KINDS[entry["store"]], dict(entry["settings"])
    settings.pop("found_unreadable", None)
    own = kind.model_fields.keys() - Provenance.model_fields.keys()
    typed = {name: settings.pop(name) for name in own if name in settings}
    return {**entry, **typed, "settings": settings, "format_version": FORMAT_VERSION}


def refuse_mixture(first: Provenance, second: Provenance) -> None:
    """Check that two stores may be read together.

    Raises:
        UserError: they come from different data sets, manifests or encoders; the line names both and the mend.
    """
    a, b = f"{first.store} store", f"{second.store} store"
    if first.dataset != second.dataset:
        raise UserError(f"{a} is of data set {first.dataset!r}, {b} of {second.dataset!r}: read one data set at a time")
    mine = {**first.inputs, first.store: first.content}
    theirs = {**second.inputs, second.store: second.content}
    # Two text stores may well come from two prompt stores; a text store and a prompt store may not.
    shared = ["manifest", "classes"] + ["prompts"] * ("prompts" in (first.store, second.store))
    second_encoder = SECOND in first.settings or SECOND in second.settings  # its embeddings have a file of their own
    shared += [] if second_encoder else [FEATURES]
    for name in shared:
        what = {"classes": "classes", FEATURES: "files of embeddings"}.get(name, f"{name} stores")
        if name in mine and name in theirs and mine[name] != theirs[name]:
            maker = {"manifest": "ingest", "classes": "ingest", FEATURES: "ingest", "prompts": "generate-prompts"}[name]
            raise UserError(
                f"{a} and {b} of {first.dataset!r} were made from different {what} ({mine[name][:12]} and "
                f"{theirs[name][:12]}): run the commands after `pipeline {maker}` again"
            )
    if second_encoder and "manifest" in (first.store, second.store):  # that of a data set that came as embeddings
        return
    if first.encoder is not None and second.encoder is not None:
        if first.width != second.width:
            raise UserError(
                f"{a} has width {first.width} (encoder {first.encoder}), {b} has width {second.width} "
                f"(encoder {second.encoder}): embed both with one encoder"
            )
        if first.encoder_fingerprint != second.encoder_fingerprint:
            raise UserError(
                f"{a} was embedded with {first.encoder} ({(first.encoder_fingerprint or '')[:12]}), {b} with "
                f"{second.encoder} ({(second.encoder_fingerprint or '')[:12]}): embed both with one encoder"
            )
