"""A data set without pixels: a folder with `manifest.parquet` and `images.parquet`, of `pipeline export-features`."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages import ImageStore, ManifestProvenance, ManifestStore, Provenance, UserError, slug
from stages.files import refuse_lfs_pointer, user_errors, write_bytes
from stages.stores.artifacts import Store
from stages.stores.provenance import FEATURES

MANIFEST, IMAGES = "manifest.parquet", "images.parquet"


class ExportedReader:
    """Recognises the folder; its two files are copied, not read as images."""

    def matches(self, source: str) -> bool:
        """A folder that holds both files."""
        return (Path(source) / MANIFEST).is_file() and (Path(source) / IMAGES).is_file()


def _read(file: Path) -> tuple[pa.Table, Provenance]:
    refuse_lfs_pointer(file)
    try:
        table, footer = pq.read_table(file), pq.read_metadata(file).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0][:120]})") from error
    return table, Provenance.from_footer(footer, where=str(file))


def import_manifest(store: ManifestStore, source: str) -> pa.Table:
    """Take over the manifest of an exported data set; its images stay known by their embeddings alone."""
    table, origin = _read(Path(source) / MANIFEST)
    inputs = {
        name: content for name, content in origin.inputs.items() if name != FEATURES
    }  # this folder took its place
    store.write(table, origin.model_copy(update={"source": source, "features": source, "root": None, "inputs": inputs}))
    return table


def import_images(store: ImageStore, source: str, *, encoder: str, manifest: Provenance) -> int:
    """Take over the image embeddings of an exported data set; returns the number of rows.

    Raises:
        UserError: they were made with another encoder, or belong to another manifest.
    """
    file = Path(source) / IMAGES
    table, origin = _read(file)
    if slug(origin.encoder or "") != slug(encoder):
        raise UserError(
            f"{file} was embedded with {origin.encoder!r}, not {encoder!r}, and its images are not here: "
            f"use --encoder {origin.encoder}, or ingest a folder of images"
        )
    if origin.inputs.get("manifest") != manifest.content:
        raise UserError(f"{file} does not belong to {MANIFEST} beside it: export the data set again")
    store.write(table, origin)
    return len(table)


def export(cache: Path, dataset: str, encoder: str, folder: Path) -> list[Path]:
    """Copy the manifest and the image embeddings of a data set into a folder, for others to ingest without pixels.

    The manifest's root folder is left out: it is a path of this machine.
    """
    manifest, images = ManifestStore(cache, dataset), ImageStore(cache, dataset, encoder)
    stores: list[tuple[Store, str]] = [(manifest, MANIFEST), (images, IMAGES)]
    written = []
    for store, name in stores:
        origin = store.provenance()
        if isinstance(origin, ManifestProvenance):
            origin = origin.model_copy(update={"root": None, "source": None, "features": None})
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, store.read().schema, compression="zstd") as parquet:
            parquet.write_table(store.read())
            parquet.add_key_value_metadata(origin.to_footer())
        with user_errors(folder):
            write_bytes(folder / name, sink.getvalue().to_pybytes())
        written.append(folder / name)
    return written
