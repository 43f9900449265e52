"""Stores: what is written is read back, nothing is half-written, and stores that do not belong together are refused."""

import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages import ImageStore, ManifestProvenance, ManifestStore, Provenance, TextStore, UserError
from stages.stores.artifacts import embedding_array, embedding_matrix, partition_values, read_together


def origin(**more: object) -> Provenance:
    given = {"store": "images", "dataset": "d", "content": "", "encoder": "e", "encoder_fingerprint": "f", "width": 4}
    return Provenance(**{**given, **more})  # type: ignore[arg-type]


def image_table(store: ImageStore, vectors: np.ndarray, precision: str = "float16") -> pa.Table:
    n = len(vectors)
    columns = [
        pa.array([f"i{k:03d}" for k in range(n)]), pa.array([0] * n, pa.int32()),
        pa.array([k % 2 for k in range(n)], pa.int32()),
        pa.array(["train"] * n), pa.array(["e"] * n), embedding_array(vectors, precision=precision),
    ]  # fmt: skip
    return pa.table(columns, schema=store.schema(width=vectors.shape[1], precision=precision))


def unit(n: int, width: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(n, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(deadline=None, max_examples=30)
@given(
    vectors=hnp.arrays(
        np.float16, st.tuples(st.integers(1, 40), st.integers(1, 9)), elements=st.floats(-1, 1, width=16)
    ),
    precision=st.sampled_from(["float16", "float32"]),
)
def test_embeddings_are_read_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray, precision: str
) -> None:
    store = ImageStore(tmp_path_factory.mktemp("cache"), "d", "e")
    table = image_table(store, vectors, precision)
    store.write(table, origin(width=vectors.shape[1]))
    found = store.read()
    order = np.argsort([k % 2 for k in range(len(vectors))], kind="stable")
    assert np.array_equal(embedding_matrix(found["embedding"]), vectors[order].astype(precision))


def test_the_same_rows_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    stores = [ImageStore(tmp_path / name, "d", "e") for name in "ab"]
    table = image_table(stores[0], unit(20))
    stores[0].write(table, origin())
    stores[1].write(table.take(pa.array(np.random.default_rng(1).permutation(20))), origin())
    assert stores[0].file.read_bytes() == stores[1].file.read_bytes()


def test_plain_duckdb_reads_a_store_without_our_code(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "d", "e")
    store.write(image_table(store, unit(3)), origin())
    sql = (
        f"SELECT dataset, encoder, array_cosine_similarity(embedding::FLOAT[4], embedding::FLOAT[4]) "
        f"FROM read_parquet('{tmp_path}/images/*/*/*.parquet', hive_partitioning = true)"
    )
    rows = duckdb.sql(sql).fetchall()
    assert [(r[0], r[1]) for r in rows] == [("d", "e")] * 3
    assert all(abs(r[2] - 1) < 1e-3 for r in rows)


def test_a_failed_write_leaves_the_old_store_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path, "d", "e")
    store.write(image_table(store, unit(3)), origin())
    before = store.file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(UserError, match="disk is full"):
        store.write(image_table(store, unit(5)), origin())
    assert store.file.read_bytes() == before
    assert [p.name for p in store.folder.iterdir()] == [store.file.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    from stages.files import user_errors

    def fill() -> None:
        with user_errors(tmp_path), Path("/dev/full").open("wb") as handle:
            handle.write(b"x" * 10_000)

    with pytest.raises(UserError, match="disk is full"):
        fill()


def test_a_file_in_place_of_the_cache_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    store = ImageStore(tmp_path / "cache", "d", "e")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        store.write(image_table(store, unit(2)), origin())


def test_reading_a_store_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `pipeline ingest d --source PATH` first"):
        ManifestStore(tmp_path, "d").read()


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty", "foreign"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    store = ImageStore(tmp_path, "d", "e")
    store.write(image_table(store, unit(30)), origin())
    data = store.file.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"x": [1]}), store.file)
    else:
        store.file.write_bytes({"truncate": data[: len(data) // 2], "garbage": os.urandom(500), "empty": b""}[damage])
    with pytest.raises(UserError) as caught:
        store.read()
    assert str(store.file) in str(caught.value)
    assert store.verify()


def test_verify_finds_rows_edited_by_hand_nan_and_wrong_length(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "d", "e")
    vectors = unit(6)
    vectors[1] = np.nan
    vectors[2] *= 3
    store.write(image_table(store, vectors), origin())
    faults = "\n".join(store.verify())
    assert "1 embedding holds NaN" in faults
    assert "1 embedding does not have length 1" in faults
    table = pq.read_table(store.file)
    edited = table.set_column(2, "class_id", pa.array([1] * 6, pa.int32()))
    edited = edited.replace_schema_metadata({b"aape": pq.read_metadata(store.file).metadata[b"aape"]})
    pq.write_table(edited, store.file)
    assert any("edited by hand" in fault for fault in store.verify())


def test_a_sound_store_verifies(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "d", "e")
    store.write(image_table(store, unit(6)), origin())
    assert store.verify() == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"width": 8}, "width 4"),
        ({"encoder_fingerprint": "other"}, "embed both with one encoder"),
        ({"inputs": {"manifest": "b"}}, "different manifest stores"),
        ({"inputs": {"manifest": "a", "classes": "b"}}, "different classes"),
    ],
)
def test_stores_of_another_origin_are_refused_naming_both(tmp_path: Path, change: dict[str, object], part: str) -> None:
    images, text = ImageStore(tmp_path, "d", "e"), TextStore(tmp_path, "d", "e", "none")
    images.write(image_table(images, unit(4)), origin(inputs={"manifest": "a", "classes": "a"}))
    other = origin(**{"inputs": {"manifest": "a", "classes": "a"}, **change})
    width = other.width or 0
    columns = [pa.array(["p"]), pa.array(["template"]), pa.array([0], pa.int32()), pa.array([None], pa.string()),
               pa.array(["t"]), pa.array(["e"]), embedding_array(unit(1, width))]  # fmt: skip
    text.write(pa.table(columns, schema=text.schema(width=width)), other)
    with pytest.raises(UserError, match=part) as caught:
        read_together(images, text)
    assert "images store" in str(caught.value)
    assert "text store" in str(caught.value)


def test_partitions_on_disk_are_listed(tmp_path: Path) -> None:
    for encoder in ("open_clip:ViT-B-16/openai", "lite"):
        store = ImageStore(tmp_path, "d", encoder)
        store.write(image_table(store, unit(2)), origin())
    assert partition_values(tmp_path, ImageStore, "encoder", dataset="d") == ["lite", "open_clip-ViT-B-16-openai"]


def test_a_footer_of_the_format_before_is_read_as_the_same_origin() -> None:
    old = {
        "store": "manifest", "dataset": "d", "content": "c", "inputs": {"classes": "x"}, "encoder": None,
        "encoder_fingerprint": None, "width": None, "llm": None, "llm_fingerprint": None, "note": "",
        "code_version": "0.1.0", "format_version": 2,
        "settings": {
            "source": "s", "root": "/r", "class_names": {"0": "cat"}, "templates": ["a {}."], "split": "as found",
        },
    }  # fmt: skip
    found = Provenance.from_footer({b"aape": json.dumps(old).encode()}, where="here")
    assert isinstance(found, ManifestProvenance)
    assert (found.root, found.class_names, found.templates) == ("/r", {0: "cat"}, ["a {}."])
    assert found.settings == {"split": "as found"}
    assert Provenance.from_footer(found.to_footer(), where="here") == found


@pytest.mark.parametrize(
    "entry", [[], 3, {"format_version": 2}, {"format_version": 3, "store": "no"}, {"store": "text"}]
)
def test_a_footer_that_makes_no_sense_is_one_line(entry: object) -> None:
    with pytest.raises(UserError, match="here: unreadable provenance"):
        Provenance.from_footer({b"aape": json.dumps(entry).encode()}, where="here")
