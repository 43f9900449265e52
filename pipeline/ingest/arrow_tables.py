"""Tables as Parquet, and as the Arrow stream files of Hugging Face `datasets`; both may hold the images themselves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ingest.columns import Table, find_columns, require_image, rivals
from stages.errors import UserError


def arrow_roles(file: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """Our name -> column; columns that `datasets` calls images and class labels come first."""
    schema = _open(file).schema_arrow if _is_parquet(file) else _open(file).schema
    return _roles(schema, wanted, where=str(file))


def read_arrow_table(file: Path, wanted: Mapping[str, str]) -> Table:
    """Read a file's rows; of images that it holds, nothing is read.

    Raises:
        UserError: unreadable or damaged, or no column of images.
    """
    found = _open(file)
    schema = found.schema_arrow if _is_parquet(file) else found.schema
    roles = _roles(schema, wanted, where=str(file))
    require_image(file, roles, schema.names)
    image = roles["image"]
    has_paths = pa.types.is_struct(schema.field(image).type) and "path" in _fields(schema, image)
    holds = _holds_files(schema, image) and not (has_paths and _all_null(found, image))
    columns = [column for column in roles.values() if column != image or not holds]
    try:
        table = found.read(columns=columns) if _is_parquet(file) else found.select(columns)
        values: dict[str, Sequence[Any]] = {
            role: _paths(table.column(column)) if role == "image" and has_paths else table.column(column).to_pylist()
            for role, column in roles.items()
            if column in columns
        }
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file}: damaged ({' '.join(str(error).split())[:160]})") from error
    n_rows = min((len(column) for column in values.values()), default=0)
    if not n_rows:
        raise UserError(f"{file}: no rows, or nothing beside the images in them")
    names = _features(schema).get(roles.get("class", ""), {}).get("names")
    several = _features(schema).get(roles.get("labels", ""), {}).get("feature")
    if names is None and isinstance(several, dict):
        names = several.get("names")
    return Table(
        file,
        values,
        range(1, n_rows + 1),
        counted="row",
        holds=image if holds else None,
        names=[str(name) for name in names] if isinstance(names, list) else None,
        called=roles,
        rivals=rivals(schema.names, roles, wanted),
    )


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"


def _open(file: Path) -> Any:
    """A Parquet file, or the mapped table of an Arrow stream file, checked: damaged offsets would crash the process.

    Raises:
        UserError: missing, damaged, or neither.
    """
    try:
        if _is_parquet(file):
            return pq.ParquetFile(file, memory_map=True)
        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable table ({' '.join(str(error).split())[:160]})") from error
    return table


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` wrote about the columns; {} where it wrote nothing."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(raw)["info"]["features"] if raw else {}
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _roles(schema: pa.Schema, wanted: Mapping[str, str], *, where: str) -> dict[str, str]:
    features = _features(schema)
    known = dict(wanted)
    images = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    images = images or [name for name in schema.names if _holds_files(schema, name)]
    if images:
        known.setdefault("image", images[0])
    labels = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if labels and "class" not in known:
        plain = find_columns(labels, {}, where=where).get("class")
        if len(labels) > 1 and plain is None:
            raise UserError(f"{where}: several class columns ({', '.join(labels)[:200]}); give --column class=COLUMN")
        known["class"] = plain or labels[0]
    return find_columns(schema.names, known, where=where)


def _fields(schema: pa.Schema, column: str) -> list[str]:
    """The names inside a struct column; [] of any other."""
    kind = schema.field(column).type
    return [kind.field(i).name for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _holds_files(schema: pa.Schema, column: str) -> bool:
    """Whether a column is of files: bytes, or `datasets`' struct of bytes and path."""
    if schema.names.count(column) > 1:
        return False
    kind = schema.field(column).type
    if "bytes" in _fields(schema, column):
        kind = kind.field("bytes").type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _all_null(found: Any, column: str) -> bool:
    """Whether no row of a struct of bytes and path has bytes: the paths then say where the images are."""
    if isinstance(found, pa.Table):
        values = pc.struct_field(found.column(column), "bytes")
        return bool(values.null_count == len(values))
    leaves = [found.metadata.schema.column(i).path for i in range(found.metadata.num_columns)]
    leaf = leaves.index(f"{column}.bytes")
    chunks = [found.metadata.row_group(group).column(leaf) for group in range(found.metadata.num_row_groups)]
    return all(c.statistics is not None and c.statistics.null_count == c.num_values for c in chunks)


def _paths(column: pa.ChunkedArray) -> list[Any]:
    found: list[Any] = pc.struct_field(column, "path").to_pylist()
    return found
