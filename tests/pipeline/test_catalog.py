"""`pipeline sql`: what a query may not do, what its result looks like, and copying it out."""

import csv
import io
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog import copy_out, mismatches, query, unique
from pipeline.printing import plain, table, write_csv, write_json
from stages import ImageStore, ManifestProvenance, ManifestStore, Provenance, UserError
from stages.command import visible
from stages.stores.artifacts import embedding_array

WIDTH = 8
HOSTILE = "red\x1b[2J\x9b31m\u202eevil\nrow"


def fill(cache: Path, *, dataset: str = "w", precision: str = "float16", manifest: str | None = None) -> None:
    """A manifest of three images, one class name hostile, and their embeddings."""
    rows = [
        {
            "image_id": f"{i}.png", "path": f"{i}.png", "class_id": i % 2, "class_name": [HOSTILE, "blue"][i % 2],
            "split": "train", "width": 4, "height": 4,
        }
        for i in range(3)
    ]  # fmt: skip
    schema = ManifestStore.schema()
    made = ManifestStore(cache, dataset).write(
        pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema),
        ManifestProvenance(dataset=dataset, content="", class_names={0: HOSTILE, 1: "blue"}),
    )
    vectors = np.eye(3, WIDTH)
    columns = {
        "image_id": [r["image_id"] for r in rows], "view": [0] * 3, "class_id": [r["class_id"] for r in rows],
        "split": ["train"] * 3, "encoder_name": ["lite"] * 3,
    }  # fmt: skip
    schema = ImageStore.schema(width=WIDTH, precision=precision)
    store = ImageStore(cache, dataset, "lite")
    store.write(
        pa.table([*columns.values(), embedding_array(vectors, precision=precision)], schema=schema),
        Provenance(
            store="images", dataset=dataset, content="", encoder="lite", width=WIDTH,
            inputs={"manifest": manifest or made.content},
        ),
    )  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    fill(tmp_path / "cache")
    return tmp_path / "cache"


def test_a_query_reads_nothing_outside_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("password\nhunter2\n")
    (tmp_path / "cache2").mkdir()
    (tmp_path / "cache2" / "near.csv").write_text("password\nhunter2\n")
    (cache / "link.csv").symlink_to(secret)
    (cache / "folder").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"password": ["hunter2"]})
    assert len(frame) == 1, "a variable of the caller, which DuckDB would find"
    for source in (
        "read_csv('/etc/passwd')", f"read_csv('{secret}')", "'secret.csv'", f"read_text('{cache}/../secret.csv')",
        "read_csv('cache/../secret.csv')", f"'{cache}/link.csv'", f"read_blob('{cache}/folder/secret.csv')",
        f"read_csv('{tmp_path}/cache2/near.csv')", "read_json('/proc/self/environ')", "glob('/etc/*')",
        f"glob('{tmp_path}/*')", f"read_parquet('{cache}/../*.parquet')", f"sniff_csv('{secret}')",
        f"parquet_metadata('{secret}')", "read_csv('http://localhost/x.csv')", "read_parquet('s3://bucket/x')",
        "duckdb_secrets()", "frame",
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            query(cache, "lite", f"SELECT * FROM {source}")
        assert caught.value.exit_code == 2
        assert "hunter2" not in str(caught.value)
    with pytest.raises(UserError, match="getenv"):
        query(cache, "lite", "SELECT getenv('HOME')")
    stores = query(cache, "lite", f"SELECT count(*) FROM glob('{cache.resolve()}/**/*.parquet')")[1]
    assert stores == [(2,)], "the cache itself can be read"


def test_a_query_writes_nothing_and_changes_no_setting(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for sql in (
        "COPY (SELECT 1) TO 'out.csv'", f"COPY (SELECT 1) TO '{cache}/out.csv'", "EXPORT DATABASE 'x'", "ATTACH 'x.db'",
        "INSTALL httpfs", "LOAD httpfs", "SET temp_directory = '.'", "RESET lock_configuration", "PRAGMA threads = 1",
        "PRAGMA database_list", "CALL pragma_version()", "CREATE TABLE x AS SELECT 1", "CREATE MACRO f() AS 1",
        "DROP VIEW manifest", "INSERT INTO manifest VALUES (1)", "DELETE FROM manifest", "UPDATE manifest SET a = 1",
        "PREPARE p AS SELECT 1", "EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'", "USE memory", "CHECKPOINT", "VACUUM",
        "SELECT * FROM query('COPY (SELECT 1) TO ''out.csv''')", "SELECT * FROM enable_profiling()",
        "SELECT * FROM enable_logging()", "BEGIN", "SELECT 1; SELECT 2",
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            query(cache, "lite", sql)
        assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before
    spill = query(cache, "lite", "SELECT current_setting('temp_directory'), current_setting('lock_configuration')")[1]
    assert spill == [("", True)], "rows that do not fit into memory are not moved to the disk"


def test_a_store_that_is_a_link_out_of_the_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    file = ImageStore(cache, "w", "lite").file
    file.rename(tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(UserError, match=r"leads out of .*`dvc checkout --relink`"):
        query(cache, "lite", "SELECT 1")


def test_a_cache_is_asked_through_a_link_and_by_a_relative_or_odd_path(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(cache)
    odd = tmp_path / "it's [1]* x=y?"
    fill(odd)
    for place in (Path("cache"), Path("link"), Path("./link/../cache"), odd):
        assert query(place, "lite", "SELECT count(*) FROM images")[1] == [(3,)]


def test_stores_of_two_precisions_and_a_data_set_called_by_a_number_share_a_view(cache: Path) -> None:
    fill(cache, dataset="2024", precision="float32")
    found = query(
        cache, "lite", "SELECT dataset, sum(array_inner_product(embedding, embedding)) FROM images GROUP BY 1"
    )
    assert sorted(found[1]) == [("2024", 3.0), ("w", 3.0)]


def test_a_view_without_a_store_names_the_command_that_makes_it(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"view prompts: no store in .* run `pipeline generate-prompts` first"):
        query(cache, "lite", "SELECT * FROM prompts")
    with pytest.raises(UserError, match=r"view images: no store of encoder open_clip:ViT-B-16/openai"):
        query(cache, "open_clip:ViT-B-16/openai", "SELECT * FROM images")
    with pytest.raises(UserError, match="run `pipeline ingest NAME --source SOURCE` first"):
        query(tmp_path / "empty", "lite", "SELECT 1")


def test_stores_that_do_not_belong_together_are_named(cache: Path) -> None:
    assert mismatches(cache, "lite") == []
    fill(cache, manifest="an earlier one")
    (line,) = mismatches(cache, "lite")
    assert "different manifest stores" in line


def test_hostile_text_never_reaches_a_terminal_as_it_is(cache: Path, command: Command) -> None:
    sql = "SELECT class_name, {'k': class_name} AS nested, [class_name] AS listed FROM manifest WHERE class_id = 0"
    for flag in ([], ["--json"]):
        done = command("pipeline", "sql", sql, "--cache", cache, *flag, cwd=cache)
        assert done.stdout.replace("\n", "").isprintable()
    assert json.loads(done.stdout)[0] == {"class_name": HOSTILE, "nested": {"k": HOSTILE}, "listed": [HOSTILE]}
    failed = command("pipeline", "sql", "SELECT class_name::INT FROM manifest", "--cache", cache, cwd=cache, code=2)
    assert failed.stderr.rstrip("\n").isprintable()
    plain_csv = command("pipeline", "sql", sql, "--cache", cache, "--csv", cwd=cache).stdout
    assert next(csv.DictReader(io.StringIO(plain_csv)))["class_name"] == HOSTILE, "a pipe gets the value"


def test_the_table_keeps_text_that_looks_like_a_number_and_shortens_embeddings(cache: Path) -> None:
    names, rows = query(cache, "lite", "SELECT '007' AS name, 1e5 AS size, embedding, 1 AS name FROM images LIMIT 1")
    shown = table(names, rows).splitlines()
    assert shown[0].split() == ["name", "size", "embedding", "name_1"]
    assert shown[2].split()[:2] == ["007", "100000"]
    assert "[1, 0, 0, 0, ... 8 numbers]" in shown[2]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_a_result_is_copied_out_whole(cache: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / "new" / f"out{suffix}"
    sql = "SELECT image_id, embedding, 'nan'::FLOAT AS none, 1 AS a, 2 AS a FROM images ORDER BY image_id"
    assert copy_out(cache, "lite", sql, file) == 3
    if suffix == ".parquet":
        assert pq.read_schema(file).field("embedding").type.list_size == WIDTH
        rows = pq.read_table(file).to_pylist()
    elif suffix == ".json":
        rows = json.loads(file.read_text())
        assert [row["none"] for row in rows] == [None] * 3, "JSON has no NaN"
    else:
        rows = [
            {**row, "embedding": json.loads(row["embedding"])} for row in csv.DictReader(io.StringIO(file.read_text()))
        ]
    assert [row["image_id"] for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(math.isclose(sum(row["embedding"]), 1) for row in rows)
    assert [int(row["a_1"]) for row in rows] == [2] * 3
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_result_goes_to_a_new_file_outside_the_cache_or_nowhere(cache: Path, tmp_path: Path) -> None:
    store = ImageStore(cache, "w", "lite").file
    (tmp_path / "mine.csv").write_text("mine")
    for file, sql, part in (
        (tmp_path / "mine.csv", "SELECT 1", "is there already"),
        (store, "SELECT 1", "lies among the stores"),
        (cache / "new.csv", "SELECT 1", "lies among the stores"),
        (tmp_path / "out.txt", "SELECT 1", "must end in"),
        (tmp_path / "half.csv", "SELECT error('stop') FROM images", "stop"),
        (tmp_path / "half.parquet", "SELECT error('stop') FROM images", "stop"),
        (tmp_path / "span.parquet", "SELECT INTERVAL 1 DAY AS span", "cast that column"),
        (tmp_path / "drop.csv", "DROP VIEW images", "only SELECT"),
    ):
        with pytest.raises(UserError, match=part) as caught:
            copy_out(cache, "lite", sql, file)
        assert caught.value.exit_code == 2
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "mine.csv"]
    assert query(cache, "lite", "SELECT count(*) FROM images")[1] == [(3,)]


def test_the_command_writes_a_file_and_says_how_many_rows(cache: Path, tmp_path: Path, command: Command) -> None:
    done = command(
        "pipeline", "sql", "SELECT image_id FROM images", "--write", "out.csv", "--cache", cache, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("", "wrote out.csv: 3 rows\n")
    both = command("pipeline", "sql", "SELECT 1", "--json", "--csv", "--cache", cache, cwd=tmp_path, code=2)
    assert "not both" in both.stderr


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(VALUES, TEXT), max_size=5))
def test_any_value_prints_on_one_printable_line_and_survives_as_json(rows: list[tuple[object, str]]) -> None:
    shown = table(["value", "text"], rows)
    lines = shown.split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(line.isprintable() for line in lines)
    out = io.StringIO()
    assert write_json(["value", "text"], rows, out) == len(rows)
    assert json.loads(out.getvalue()) == [{"value": plain(value), "text": text} for value, text in rows]
    sheet = io.StringIO(newline="")
    write_csv(["value", "text"], rows, sheet)
    cells = list(csv.reader(io.StringIO(sheet.getvalue(), newline="")))
    assert [row[1] for row in cells[1:]] == [text for _, text in rows]


def test_plain_values_keep_their_meaning() -> None:
    assert plain({"a": (1.5, float("inf"), Decimal("0.25"), b"\xff")}) == {"a": [1.5, None, 0.25, "ff"]}
    assert visible("straße, 猫, 🐈") == "straße, 猫, 🐈"
    assert visible("a\tb\x00") == "a\\tb\\x00"


@given(names=st.lists(st.sampled_from(["a", "a_1", "b", "a_1_1"]), max_size=8))
def test_no_column_hides_another(names: list[str]) -> None:
    found = unique(names)
    assert len(set(found)) == len(names)
    assert all(new.startswith(old) for new, old in zip(found, names, strict=True))
