"""Reading an embedding column straight from its pages gives what pyarrow gives, or nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import ImageStore, Provenance, UserError
from stages.stores.artifacts import embedding_array, embedding_matrix
from stages.stores.pages import EmbeddingPages, embedding_pages


def written(cache: Path, rows: int, width: int, precision: str, *, seed: int = 0) -> tuple[ImageStore, np.ndarray]:
    store = ImageStore(cache, "d", "e")
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(precision)
    columns = [
        pa.array([f"i{k:09d}" for k in range(rows)]), pa.array([0] * rows, pa.int32()),
        pa.array([0] * rows, pa.int32()), pa.array([("test", "train")[2 * k >= rows] for k in range(rows)]),
        pa.array(["e"] * rows), embedding_array(vectors, precision=precision),
    ]  # fmt: skip
    schema = store.schema(width=width, precision=precision)
    origin = Provenance(store="images", dataset="d", content="", encoder="e", encoder_fingerprint="f", width=width)
    store.write(pa.table(columns, schema=schema), origin)
    return store, vectors


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(0, 300), width=st.integers(1, 40), precision=st.sampled_from(["float16", "float32"]),
    group=st.sampled_from([7, 64, 16_384]),
)  # fmt: skip
def test_pages_equal_pyarrow(
    tmp_path_factory: pytest.TempPathFactory, rows: int, width: int, precision: str, group: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.stores.store.ROW_GROUP", group)
        store, vectors = written(tmp_path_factory.mktemp("cache"), rows, width, precision)
    pages = embedding_pages(store.file, width=width)
    assert pages is not None
    assert np.array_equal(pages.all(), vectors)
    assert pages.dtype == precision
    pieces = list(store.pieces(["image_id"]))
    assert [i for table, _ in pieces for i in table["image_id"].to_pylist()] == [f"i{k:09d}" for k in range(rows)]
    assert np.array_equal(np.concatenate([np.empty((0, width)), *(matrix for _, matrix in pieces)]), vectors)
    assert np.array_equal(embedding_matrix(store.read()["embedding"]).reshape(rows, width), vectors)
    marked = np.arange(rows) % 3 == 0
    assert np.array_equal(store.embeddings(marked), vectors[marked])
    assert np.array_equal(store.embeddings(np.arange(rows) > rows // 2), vectors[rows // 2 + 1 :])


def test_rows_that_need_many_pages_are_read_whole(tmp_path: Path) -> None:
    store, vectors = written(tmp_path, 40_000, 64, "float16")
    assert pq.read_metadata(store.file).num_row_groups > 1
    assert np.array_equal(store.embeddings(), vectors)


@pytest.mark.parametrize("how", [{"compression": "snappy"}, {"use_dictionary": True}, {"data_page_version": "2.0"}, {}])
def test_a_file_of_another_kind_is_read_by_pyarrow(tmp_path: Path, how: dict[str, object]) -> None:
    store, vectors = written(tmp_path, 50, 8, "float16")
    table = pq.read_table(store.file)
    nullable = pa.list_(pa.float16(), 8)
    table = table if how else table.set_column(5, pa.field("embedding", nullable), table["embedding"].cast(nullable))
    table = table.replace_schema_metadata({b"aape": pq.read_metadata(store.file).metadata[b"aape"]})
    pq.write_table(table, store.file, **how)
    assert embedding_pages(store.file, width=8) is None
    assert np.array_equal(store.embeddings(), vectors)


def test_a_truncated_or_scrambled_file_is_refused_or_read_by_pyarrow(tmp_path: Path) -> None:
    store, _ = written(tmp_path, 50, 8, "float16")
    whole = store.file.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        store.file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="part-0"):
            store.embeddings()


def test_any_rows_in_any_order_are_gathered_from_many_pages(tmp_path: Path) -> None:
    store, vectors = written(tmp_path, 700, 1025, "float32")
    pages = embedding_pages(store.file, width=1025)
    assert pages is not None
    assert len(pages.groups[0]) > 1
    index = np.random.default_rng(1).integers(0, 700, size=2000)
    assert np.array_equal(pages.gather(index), vectors[index])
    assert np.array_equal(store.rows()(np.arange(700)), vectors)
    assert pages.gather(np.empty(0, np.int64)).shape == (0, 1025)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(0, 20 * 6), max_size=6), index=st.lists(st.integers(0, 19), max_size=30))
def test_a_row_that_lies_on_several_pages_is_gathered_whole(cuts: list[int], index: list[int]) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 3)).astype("float16")
    numbers = vectors.reshape(-1).view(np.uint8)
    pages = EmbeddingPages(3, np.dtype("float16"), [np.split(numbers, sorted(cuts))], [])
    rows = np.array(index, np.int64)
    assert np.array_equal(pages.gather(rows), vectors[rows])
