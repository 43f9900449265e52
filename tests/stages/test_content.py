"""The content hash: the same for the same rows however they are cut, another for any value that differs."""

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.stores.artifacts import QUESTION
from stages.stores.content import ContentHash, content_hash

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("number", pa.int32()),
        ("kept", pa.bool_()),
        ("captions", pa.list_(pa.string())),
        ("questions", pa.list_(QUESTION)),
        ("embedding", pa.list_(pa.float16(), 3)),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | TEXT,
        "number": st.none() | st.integers(-3, 3),
        "kept": st.none() | st.booleans(),
        "captions": st.none() | st.lists(st.none() | TEXT, max_size=3),
        "questions": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {
                    "question_id": TEXT,
                    "question": st.none() | TEXT,
                    "choices": st.none() | st.lists(TEXT, max_size=2),
                    "answers": st.lists(TEXT, max_size=2),
                }
            ),
            max_size=2,
        ),
        "embedding": st.lists(st.floats(-2, 2, width=16), min_size=3, max_size=3),
    }
)
ROWS = st.lists(ROW, max_size=8)
QUICK = settings(deadline=None, max_examples=60)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@QUICK
@given(ROWS, st.lists(st.integers(0, 8), max_size=4))
def test_the_hash_does_not_depend_on_how_rows_are_cut_into_chunks_and_tables(
    rows: list[dict[str, Any]], cuts: list[int]
) -> None:
    whole = table(rows)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(edges)]
    assert content_hash(pa.concat_tables(pieces)) == content_hash(whole)
    fed = ContentHash(SCHEMA)
    for piece in pieces:
        fed.update(piece)
    assert fed.hexdigest() == content_hash(whole)


@QUICK
@given(ROWS, st.integers(1, 4))
def test_the_hash_survives_the_way_through_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], group: int
) -> None:
    file = tmp_path_factory.mktemp("content") / "x.parquet"
    pq.write_table(table(rows), file, row_group_size=group, compression="zstd")
    assert content_hash(pq.read_table(file)) == content_hash(table(rows))


@QUICK
@given(ROWS, ROWS)
def test_other_rows_have_another_hash(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    # repr: 0.0 and -0.0 are equal and other bytes
    assume(repr(table(one).to_pylist()) != repr(table(other).to_pylist()))
    assert content_hash(table(one)) != content_hash(table(other))


@QUICK
@given(st.lists(ROW, min_size=1, max_size=5), st.data())
def test_changing_one_value_of_one_row_changes_the_hash(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(SCHEMA.names))
    at = data.draw(st.integers(0, len(rows) - 1))
    changed = [dict(row) for row in rows]
    changed[at][column] = data.draw(ROW)[column]
    assume(repr(table(changed).to_pylist()) != repr(table(rows).to_pylist()))
    assert content_hash(table(changed)) != content_hash(table(rows))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([None], [""]),
        (["ab", "c"], ["a", "bc"]),
        (["a", None], ["a", ""]),
        ([], [None]),
    ],
)
def test_texts_that_look_alike_end_to_end_have_other_hashes(one: list[str | None], other: list[str | None]) -> None:
    def text(values: list[str | None]) -> pa.Table:
        return pa.table({"text": pa.array(values, pa.string())})

    assert content_hash(text(one)) != content_hash(text(other))


def test_lists_that_look_alike_end_to_end_have_other_hashes() -> None:
    def lists(*values: list[str] | None) -> str:
        return content_hash(pa.table({"captions": pa.array(values, pa.list_(pa.string()))}))

    assert len({lists(["a", "b"], []), lists(["a"], ["b"]), lists([], ["a", "b"]), lists(None, ["a", "b"])}) == 4


def test_names_and_types_of_columns_belong_to_the_hash() -> None:
    hashes = {
        content_hash(pa.table({name: pa.array([1, 2], kind)}))
        for name in ("a", "b")
        for kind in (pa.int32(), pa.int64(), pa.uint32())
    }
    assert len(hashes) == 6


def test_a_table_of_other_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the columns"):
        ContentHash(SCHEMA).update(pa.table({"name": ["x"]}))
