"""Stores of many parts: read as those of one, published in one step by any number of writers, refused where damaged."""

import errno
import multiprocessing
import pickle
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parted_stores import ORIGIN, replace_again_and_again, some, table, write, write_and_be_killed

from stages import ImageStore, Provenance, UserError
from stages.stores.artifacts import embedding_matrix, partition_values
from stages.stores.parted import LIST, exchange
from stages.stores.parts import Parts, cuts_of


def write_by_parts(store: ImageStore, tables: list[pa.Table], *, parts: int, origin: Provenance = ORIGIN) -> None:
    with store.writing_parts(origin, parts=parts) as writer:
        for i in reversed(range(len(tables))):
            writer.write(i, [tables[i]])


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """Of 23 rows in 5 parts."""
    made = ImageStore(tmp_path / "cache", "d", "e")
    write(made, table(23), 5)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@settings(max_examples=15)
@given(
    rows=st.integers(0, 60), part_rows=st.integers(1, 70), pieces=st.integers(1, 70), group=st.sampled_from([3, 16]),
    precision=st.sampled_from(["float16", "float32"]), marks=st.integers(0, 2**60),
)  # fmt: skip
def test_any_rows_in_any_parts_are_read_back_equal_with_the_same_hash(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int, part_rows: int, pieces: int, group: int, precision: str, marks: int,
) -> None:  # fmt: skip
    folder, wanted = tmp_path_factory.mktemp("c"), table(rows, precision=precision)
    one, many, shared = (ImageStore(folder / name, "d", "e") for name in ("one", "many", "shared"))
    vectors = embedding_matrix(wanted["embedding"]).reshape(rows, 3)
    chosen = np.array([bool(marks >> k & 1) for k in range(rows)], bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.stores.store.ROW_GROUP", group)
        content = write(one, wanted, 1000, precision=precision)
        assert write(many, wanted, part_rows, pieces=pieces, precision=precision) == content
        parts = max(1, -(-rows // part_rows))
        with shared.writing_parts(ORIGIN, parts=parts, precision=precision) as shared_writer:
            for i in reversed(range(parts)):
                shared_writer.write(i, [wanted.slice(i * part_rows, part_rows)])
        assert files(shared.folder) == files(many.folder)
        assert len(many.files()) == parts
        assert (many.file.name == LIST) == (parts > 1)
        if parts == 1:
            assert files(many.folder) == files(one.folder)
        assert many.provenance().content == content
        assert many.read().equals(wanted)
        assert many.read(["view", "image_id"]).equals(wanted.select(["view", "image_id"]))
        assert many.read(["view"], where={"image_id": ["i000003", "i000010"]}).num_rows == (rows > 3) + (rows > 10)
        assert pa.concat_tables([wanted.slice(0, 0), *many.batches()]).equals(wanted)
        assert np.array_equal(many.embeddings(), vectors)
        assert np.array_equal(many.embeddings(chosen, check=True), vectors[chosen])
        order = np.random.default_rng(1).permutation(rows)
        assert np.array_equal(many.rows()(order), vectors[order])
        assert np.array_equal(many.rows(check_all=False)(order), vectors[order])
        assert many.at(order, ["image_id", "view"]).equals(wanted.select(["image_id", "view"]).take(pa.array(order)))
        found = list(many.pieces(["image_id"]))
        assert [i for t, _ in found for i in t["image_id"].to_pylist()] == wanted["image_id"].to_pylist()
        assert np.array_equal(np.concatenate([np.empty((0, 3)), *(m for _, m in found)]), vectors)
        assert many.verify() == []


def test_a_store_below_the_limit_is_the_one_file_it_always_was(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, "d", "e")
    write(store, table(23), 23)
    assert sorted(files(store.folder)) == ["part-0.parquet"]
    assert not (tmp_path / ".work").exists()


def test_plain_duckdb_pyarrow_and_polars_read_many_parts(store: ImageStore) -> None:
    place = store.folder
    sql = f"SELECT count(*), count(DISTINCT image_id), any_value(encoder) FROM '{place}/*.parquet'"
    assert duckdb.sql(sql).fetchall() == [(23, 23, "e")]
    assert pq.read_table(place).num_rows == pq.read_table(place, filters=ds.field("view") == 0).num_rows == 23
    assert ds.dataset(store.cache / "images", partitioning="hive").to_table()["dataset"].to_pylist() == ["d"] * 23
    assert pl.scan_parquet(f"{place}/*.parquet", hive_partitioning=True).collect().height == 23
    origin = Provenance.from_footer(pq.read_metadata(place / LIST).metadata, where="here")
    assert origin == store.provenance()


def test_a_store_of_one_part_becomes_many_and_back_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "cache", "d", "e")
    for part_rows, names in ((50, 1), (5, 6), (10, 4), (50, 1)):
        write(store, table(23, seed=part_rows), part_rows)
        (store.folder / "notes.txt").write_text("mine")
        (store.folder / ".part-0.parquet.aside").write_text("put aside")
        assert len([name for name in files(store.folder) if name[0] != "."]) == names + 1
        assert store.read().equals(table(23, seed=part_rows))
        assert (store.folder / ".part-0.parquet.aside").read_text() == "put aside"
        assert not list((tmp_path / "cache" / ".work").rglob("*"))


def test_partitions_of_many_parts_are_listed(store: ImageStore) -> None:
    assert partition_values(store.cache, ImageStore, "encoder", dataset="d") == ["e"]
    assert store.exists()


def test_parts_written_by_several_processes_are_the_bytes_that_one_writes(store: ImageStore, tmp_path: Path) -> None:
    shared = ImageStore(tmp_path / "shared", "d", "e")
    with multiprocessing.get_context("spawn").Pool(2) as pool, shared.writing_parts(ORIGIN, parts=5) as writer:
        assert not shared.exists()
        pool.map(some, [(pickle.dumps(writer), index, 5) for index in (4, 1, 0, 3, 2)])
        assert not shared.exists()
    assert files(shared.folder) == files(store.folder)


def test_saved_pieces_are_joined_by_many_into_what_one_makes_of_them(tmp_path: Path) -> None:
    made = []
    for name in ("one", "many"):
        store = ImageStore(tmp_path / name, "d", "e")
        parts = Parts(store, ORIGIN, part_rows=4)
        for i in range(6):
            parts.save(i, table(23).slice(i * 4, 4))
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
            patch.setattr("stages.stores.store.Store.part_rows", 5)
            if name == "one":
                origin = parts.finish(parts.tables(6), provenance=ORIGIN)
            else:
                origin = parts.finish_by(lambda job, todo: list(pool.map(job, todo)), parts=6, provenance=ORIGIN)
        assert origin.content == store.provenance().content
        made.append(files(store.folder))
        assert not list((tmp_path / name / ".work").rglob("*.parquet"))
    assert made[0] == made[1]
    assert len(made[0]) == 6


def test_files_are_cut_into_parts_without_gap_or_overlap() -> None:
    assert cuts_of([(Path("a"), 3), (Path("b"), 0), (Path("c"), 5)], 4) == (
        ((Path("a"), 0, 3), (Path("c"), 0, 1)),
        ((Path("c"), 1, 4),),
    )
    assert cuts_of([], 4) == ((),)


def missing(store: ImageStore) -> None:
    store.files()[2].unlink()


def cut_short(store: ImageStore) -> None:
    whole = store.files()[2].read_bytes()
    store.files()[2].write_bytes(whole[: len(whole) // 2])


def of_another_state(store: ImageStore) -> None:
    other = ImageStore(store.cache.parent / "other", "d", "e")
    write(other, table(23, seed=1), 5)
    shutil.copy(other.files()[2], store.files()[2])


def of_other_weights(store: ImageStore) -> None:
    other = ImageStore(store.cache.parent / "other", "d", "e")
    with other.writing(ORIGIN.model_copy(update={"encoder_fingerprint": "g"}), part_rows=5) as writer:
        writer.add(table(23))
    shutil.copy(other.files()[2], store.files()[2])


def swapped(store: ImageStore) -> None:
    other = store.folder / "part-00001.parquet"
    shutil.copy(other, store.files()[2])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (missing, "missing, though _common_metadata beside it names it"),
        (cut_short, "not a readable Parquet file"),
        (of_another_state, "a part of another store, or of another state of this one"),
        (of_other_weights, "a part of another store, or of another state of this one"),
        (swapped, "a part of another store, or of another state of this one"),
    ],
)
def test_a_part_that_is_not_the_listed_one_is_named_in_one_line(
    store: ImageStore, harm: Callable[[ImageStore], None], said: str
) -> None:
    harm(store)
    readers = (store.read, store.embeddings, store.rows, lambda: list(store.pieces(["view"])), store.check_schema)
    for read in (*readers, lambda: list(store.batches())):
        with pytest.raises(UserError, match=said) as caught:
            read()
        assert str(caught.value).startswith(str(store.folder / "part-00002.parquet"))
        assert "\n" not in str(caught.value)
    assert [line.split(":")[0] for line in store.verify()] == [str(store.folder / "part-00002.parquet")]


@pytest.mark.parametrize("what", [b"", b"not Parquet", None, b"[]", b'[{"file": "../x", "rows": 1, "content": "a"}]'])
def test_a_list_that_makes_no_sense_is_one_line(store: ImageStore, what: bytes | None) -> None:
    schema = pq.read_schema(store.file)
    if what is None or what.startswith(b"["):
        noted = {b"aape": (schema.metadata or {}).get(b"aape", pq.read_metadata(store.file).metadata[b"aape"])}
        noted |= {b"aape.parts": what} if what else {}
        pq.write_metadata(schema.with_metadata(noted), store.file)
    else:
        store.file.write_bytes(what)
    with pytest.raises(UserError, match=LIST):
        store.read()


def test_parts_without_their_list_are_no_store_and_the_line_says_what_is_missing(store: ImageStore) -> None:
    store.file.unlink()
    assert not store.exists()
    with pytest.raises(UserError, match="5 parts without _common_metadata"):
        store.read()


def test_a_single_file_beside_many_parts_is_refused_until_one_of_them_goes(store: ImageStore) -> None:
    shutil.copy(store.files()[0], store.folder / "part-0.parquet")
    with pytest.raises(UserError, match=r"part-0\.parquet beside a store of many parts"):
        store.read()
    (store.folder / "part-0.parquet").unlink()
    assert store.verify() == []


def test_a_page_that_has_changed_is_named_by_its_part(store: ImageStore) -> None:
    file = store.files()[3]
    data = bytearray(file.read_bytes())
    at = data.index(embedding_matrix(pq.read_table(file, partitioning=None)["embedding"]).tobytes())
    data[at + 1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"part-00003\.parquet: damaged"):
        store.embeddings(check=True)
    near = store.rows(check_all=False)
    assert len(near(np.array([0, 4, 22]))) == 3, "only the pages of these rows are looked at"
    with pytest.raises(UserError, match=r"part-00003\.parquet: damaged"):
        near(np.array([0, 16]))
    assert "part-00003.parquet" in store.verify()[0]


def test_a_store_that_is_replaced_while_it_is_read_is_refused_not_mixed(store: ImageStore) -> None:
    reading = store.batches()
    next(reading)
    write(store, table(23, seed=9), 5)
    with pytest.raises(UserError, match="another command replaced it while it was being read: run this again"):
        list(reading)
    assert store.read().equals(table(23, seed=9))


def test_what_fails_leaves_the_old_store_and_no_rest(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(store.folder)
    with pytest.raises(ValueError, match="not in the order"):
        write(store, pa.concat_tables([table(12), table(3)]), 5, pieces=12)
    with pytest.raises(ValueError, match="not in the order"):
        write_by_parts(store, [table(12), table(3)], parts=2)
    with pytest.raises(UserError, match=r"part-00001\.parquet: this part was not written"):
        write_by_parts(store, [table(12)], parts=2)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("stages.stores.parted.write_list", full)
    with pytest.raises(UserError, match="disk is full"):
        write(store, table(30), 5)
    assert files(store.folder) == before
    assert not [file for file in store.cache.rglob("*") if file.is_file() and file.parent != store.folder]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two megabytes of a file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_the_old_parts_whoever_writes(small_disk: Path) -> None:
    store = ImageStore(small_disk / "cache", "d", "e")
    write(store, table(23), 5)
    before, large = files(store.folder), table(6000, width=256)
    origin = ORIGIN.model_copy(update={"width": 256})
    with pytest.raises(UserError, match="the disk is full: free some space"):
        write(store, large, 1000, origin=origin)
    with pytest.raises(UserError, match="the disk is full: free some space"):
        write_by_parts(store, [large.slice(i * 1000, 1000) for i in range(6)], parts=6, origin=origin)
    assert files(store.folder) == before
    assert not [file for file in (small_disk / "cache" / ".work").rglob("*") if file.is_file()]


def test_parts_of_a_killed_writer_are_never_read_and_the_next_one_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    process = multiprocessing.get_context("spawn").Process(target=write_and_be_killed, args=(cache,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = ImageStore(cache, "d", "e")
    assert not store.exists()
    with pytest.raises(UserError, match="is not there"):
        store.read()
    write(store, table(23), 5)
    assert "removed 3 parts of a command that was killed" in capsys.readouterr().err
    assert store.read().equals(table(23))
    assert not [file for file in (cache / ".work").rglob("*") if file.is_file()]


def test_a_second_writer_of_many_parts_is_turned_away(store: ImageStore) -> None:
    before = files(store.folder)

    def second() -> None:
        with store.writing_parts(ORIGIN, parts=1):
            pass

    with store.locked("pipeline embed-images"), ThreadPoolExecutor(1) as pool:
        with pytest.raises(UserError, match="is writing it: one at a time"):
            pool.submit(second).result()
        with pytest.raises(UserError, match="is writing it: one at a time"):
            pool.submit(write, store, table(30), 5).result()
    assert files(store.folder) == before


def test_folders_change_places_where_the_system_cannot_exchange_them(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.stores.parted._renameat2", lambda one, other: False)
    write(store, table(30, seed=4), 7)
    assert store.read().equals(table(30, seed=4))
    store.work.mkdir(parents=True)
    store.folder.rename(store.work / "old")  # killed between two renames
    write(store, table(31), 5)
    assert store.read().equals(table(31))
    assert not (store.work / "old").exists()
    with pytest.raises(OSError, match="No such file"):
        exchange(store.folder, store.folder / "not there", aside=store.folder / "aside")


def test_a_reader_sees_one_state_or_says_so_while_another_process_replaces_the_store_and_is_killed(
    tmp_path: Path,
) -> None:
    store, states = ImageStore(tmp_path, "d", "e"), [table(23, seed=seed) for seed in (1, 2)]
    write(store, states[0], 5)
    for _ in range(2):
        seen, said = [0, 0], list[str]()
        writer = multiprocessing.get_context("spawn").Process(target=replace_again_and_again, args=(tmp_path,))
        writer.start()
        while min(seen) < 8 or len(said) < 3:
            try:
                seen[states.index(store.read())] += 1
            except UserError as error:
                said.append(str(error))
        writer.kill()
        writer.join()
        assert all("another command replaced it while it was being read: run this again" in line for line in said)
        assert any(store.read().equals(state) for state in states)
        assert store.verify() == []
