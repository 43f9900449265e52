"""Tables whose rows speak of images, whatever file they stand in."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.ingest.arrow_tables import arrow_roles, read_arrow_table
from pipeline.ingest.columns import Table, find_columns
from pipeline.ingest.text_tables import read_text_table, text_header
from stages.errors import UserError

ARROW_SUFFIXES = {".parquet", ".arrow"}
SUFFIXES = {".csv", ".tsv", ".jsonl"} | ARROW_SUFFIXES


def speaks_of_images(file: Path) -> bool:
    """Whether a file names images, or holds them, and says something about each; one that cannot be read does not."""
    try:
        if file.suffix.lower() in ARROW_SUFFIXES:
            roles = arrow_roles(file, {})
        else:
            roles = find_columns(text_header(file), {}, where=str(file))
        told = {"class", "labels", "caption", "question"} & set(roles)
        if "image" in roles and not told and file.suffix.lower() in (".csv", ".tsv"):
            return read_text_table(file, {}).order is not None
    except UserError:
        return False
    return "image" in roles and bool(told)


def read_table(file: Path, wanted: Mapping[str, str]) -> Table:
    """Read a file's rows; images that a Parquet or Arrow file holds are left where they are.

    Args:
        wanted: our name -> column, for columns that are not called as `columns.ROLES` knows them.

    Raises:
        UserError: the file cannot be understood; the line says where.
    """
    if file.suffix.lower() in ARROW_SUFFIXES:
        return read_arrow_table(file, wanted)
    return read_text_table(file, wanted)
