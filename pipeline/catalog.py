"""DuckDB over the stores: views `manifest`, `prompts`, `text` and `images`; one read-only statement at a time.

What a query may do is bounded by DuckDB itself, locked before the query is seen. It reads files below the cache (by
no link that leads out of it) and nothing else on the machine or the network. It writes nothing: rows that do not fit
into memory are not moved to disk. It loads no extension and changes no setting.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import UserError

if TYPE_CHECKING:
    from stages import Store

VIEWS = {
    "manifest": "pipeline ingest",
    "prompts": "pipeline generate-prompts",
    "text": "pipeline embed-text",
    "images": "pipeline embed-images",
}
"""The views, and the command that makes what each one shows."""

LOCKS = (
    "temp_directory = ''",
    "enable_external_access = false",
    "python_enable_replacements = false",
    "allow_community_extensions = false",
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "lock_configuration = true",
)
CHUNK = 4096
"""Rows fetched at once."""


def connect(cache: Path, encoder: str) -> Any:
    """A DuckDB connection with the four views, locked to reading the cache.

    Embedding columns are cast to FLOAT[D], so that `array_cosine_similarity` works. `text` and `images` show the
    embeddings of one encoder, since one column has one width.

    Raises:
        UserError: there is no store yet, or one of them cannot be read or is a link that leads out of the cache.
    """
    import duckdb

    cache = Path(cache)
    stores = _stores(cache, encoder)
    if not stores:
        raise UserError(
            f"{cache}: no store there yet: run `pipeline ingest NAME --source SOURCE` first, or name the folder with "
            "--cache"
        )
    inside = cache.resolve()
    connection = duckdb.connect(":memory:")
    for view in VIEWS:
        mine = [s for s in stores if s.name == view]
        if not mine:
            continue
        for store in mine:
            store.check_schema()  # a damaged file, or another store's, is told in one line
            for file in (store.file, *store.files()):
                if not file.resolve().is_relative_to(inside):
                    raise UserError(
                        f"{file}: a link that leads out of {cache}: put the file itself there (where DVC made the "
                        "link: `dvc config cache.type reflink,hardlink,copy`, then `dvc checkout --relink`)"
                    )
        columns = "*"
        if mine[0].embedded:
            columns = f"* REPLACE (embedding::FLOAT[{mine[0].provenance().width}] AS embedding)"
        names = ", ".join(_quoted(str(file)) for s in mine for file in s.files())
        try:
            connection.execute(
                f"CREATE VIEW {view} AS SELECT {columns} FROM read_parquet([{names}], hive_partitioning = true, "
                "hive_types_autocast = false, union_by_name = true)"
            )
        except duckdb.Error as error:
            raise UserError(
                f"{mine[0].file}: DuckDB cannot read the {view} stores ({' '.join(str(error).split())[:200]}): run "
                "`pipeline verify`"
            ) from error
    connection.execute(f"SET allowed_directories = [{_quoted(str(inside))}]")
    for lock in LOCKS:
        connection.execute(f"SET {lock}")
    return connection


@contextmanager
def asked(cache: Path, encoder: str, sql: str) -> Iterator[Any]:
    """A locked connection, after checking that `sql` is one SELECT; DuckDB's complaints become one line.

    Raises:
        UserError: another kind of statement, more than one, a view whose store is not written, or DuckDB's complaint.
    """
    import duckdb

    from stages.command import visible

    connection = connect(cache, encoder)
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1:
            raise UserError(f"expected one SQL statement, found {len(statements)}", exit_code=2)
        kind = statements[0].type
        if kind != duckdb.StatementType.SELECT:  # EXPLAIN ANALYZE would run what it explains
            raise UserError(f"only SELECT is allowed, found {kind.name}", exit_code=2)
        yield connection
    except duckdb.Error as error:
        for view, maker in VIEWS.items():
            if f"Table with name {view} does not exist" in str(error):
                of = f" of encoder {encoder}" if view in ("text", "images") else ""
                raise UserError(f"view {view}: no store{of} in {cache} yet: run `{maker}` first") from error
        raise UserError(f"SQL: {visible(' '.join(str(error).split()))[:400]}", exit_code=2) from error
    finally:
        connection.close()


def query(cache: Path, encoder: str, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run one SELECT (DESCRIBE, SUMMARIZE and SHOW count as such) and return column names and rows.

    Raises:
        UserError: another kind of statement, more than one, or DuckDB's own complaint.
    """
    with asked(cache, encoder, sql) as connection:
        cursor = connection.execute(sql)
        return unique([d[0] for d in cursor.description]), cursor.fetchall()


def copy_out(cache: Path, encoder: str, sql: str, file: Path) -> int:
    """Run one SELECT and write its result to a new file, whole or not at all; returns the number of rows.

    Args:
        file: ends in .parquet, .csv or .json (a list of objects). Embeddings stay fixed-size lists in Parquet.

    Raises:
        UserError: the file is there already, lies in the cache or has another suffix; and all that `query` raises.
    """
    from pipeline import printing
    from stages.files import atomic_file

    if file.suffix not in (".parquet", ".csv", ".json"):
        raise UserError(f"--write {file}: the name must end in .parquet, .csv or .json", exit_code=2)
    if file.resolve().is_relative_to(cache.resolve()):
        raise UserError(f"--write {file}: lies among the stores in {cache}: name another folder", exit_code=2)
    if file.exists() or file.is_symlink():
        raise UserError(f"--write {file}: is there already: remove it, or name another file", exit_code=2)
    with asked(cache, encoder, sql) as connection, atomic_file(file) as work:
        if file.suffix == ".parquet":
            return _write_parquet(connection, sql, work)
        cursor = connection.execute(sql)
        names = unique([d[0] for d in cursor.description])
        rows = (row for chunk in iter(lambda: cursor.fetchmany(CHUNK), []) for row in chunk)
        write = printing.write_csv if file.suffix == ".csv" else printing.write_json
        with work.open("w", encoding="utf-8", newline="") as out:
            return write(names, rows, out)


def mismatches(cache: Path, encoder: str) -> list[str]:
    """One line for every store of the views that does not belong to the manifest or the prompts that are there now.

    Raises:
        UserError: a store cannot be read.
    """
    from stages.stores.provenance import refuse_mixture

    stores = _stores(Path(cache), encoder)
    parents = {(s.name, s.dataset, s.partitions.get("llm")): s for s in stores if not s.embedded}
    found = []
    for store in stores:
        for key in (("manifest", store.dataset, None), ("prompts", store.dataset, store.partitions.get("llm", ""))):
            if key in parents and parents[key] is not store:
                try:
                    refuse_mixture(parents[key].provenance(), store.provenance())
                except UserError as error:
                    found.append(str(error))
    return list(dict.fromkeys(found))


def unique(names: list[str]) -> list[str]:
    """Column names with `_1`, `_2`, ... behind those that would come again, so that no column hides another."""
    found: list[str] = []
    for name in names:
        free = (n for n in [name, *(f"{name}_{k}" for k in range(1, len(names) + 1))] if n not in found)
        found.append(next(free))
    return found


def _write_parquet(connection: Any, sql: str, file: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = connection.sql(sql).to_arrow_reader(CHUNK)
    names = unique(reader.schema.names)
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    rows = 0
    try:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch.rename_columns(names))
                rows += len(batch)
    except pa.ArrowNotImplementedError as error:
        raise UserError(f"Parquet: {' '.join(str(error).split())[:200]}: cast that column", exit_code=2) from error
    return rows


def _stores(cache: Path, encoder: str) -> list["Store"]:
    """What the views show: every store, of embeddings those of one encoder."""
    from pipeline.verify.places import stores_in
    from stages.names import slug

    return [s for s in stores_in(cache) if s.partitions.get("encoder", slug(encoder)) == slug(encoder)]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
