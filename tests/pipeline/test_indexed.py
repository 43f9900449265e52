"""The index on disk: finds what exact search finds, is built of parts, and never taken for a store it is not of."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_search import clustered, write_store
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.search import exact, find_images, indexed
from pipeline.search.indexed import Indexed
from stages import ImageStore, UserError

ROWS, WIDTH = 6000, 32
SPLITS = ["test"] * 2000 + ["train"] * 4000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    """A store of three parts and its index, built in blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.stores.store.Store.part_rows", 5000)
        patch.setattr("stages.stores.store.ROW_GROUP", 1000)
        patch.setattr(indexed, "BLOCK", 1500)
        store = write_store(tmp_path_factory.mktemp("c") / "cache", clustered(ROWS, WIDTH, 1), views=2, splits=SPLITS)
        Indexed(store)
    assert len(store.files()) == 3
    return store


def recall(index: Indexed, store: ImageStore, split: str | None) -> float:
    def keep(piece: object) -> np.ndarray:
        return indexed._kept(piece, split)  # type: ignore[arg-type]

    right = 0
    for query in clustered(40, WIDTH, 2).astype(np.float32):
        near = exact.nearest_rows(store, query, top=10, keep=keep)
        found = index.nearest_rows(query, top=10, split=split)
        scores = dict(zip(near["image_id"].to_pylist(), near["score"].to_pylist(), strict=True))
        for row in found.to_pylist():
            assert row["view"] == 0
            assert split in (None, row["split"])
            assert row["score"] == pytest.approx(scores.get(row["image_id"], row["score"]), abs=1e-6), "exact scores"
            right += row["image_id"] in scores
    return right / 400


@pytest.mark.parametrize("split", [None, "test"])
def test_an_index_of_many_parts_finds_nine_in_ten_of_the_nearest_ten_with_their_own_scores(
    built: ImageStore, split: str | None
) -> None:
    assert recall(Indexed(built), built, split) > 0.9


def test_as_many_are_found_as_are_wanted_and_there(built: ImageStore) -> None:
    index, query = Indexed(built), clustered(1, WIDTH, 3)[0].astype(np.float32)
    assert len(index.nearest_rows(query, top=3000)) == 3000
    assert len(index.nearest_rows(query, top=3000, split="test")) == 2000
    assert len(index.nearest_rows(query, top=5, split="val")) == 0


def test_an_index_is_built_once_and_anew_when_the_store_changes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = write_store(tmp_path / "cache", clustered(1500, WIDTH, 1))
    query = clustered(1, WIDTH, 3)[0].astype(np.float32)
    Indexed(store)
    first = capfd.readouterr()
    assert first.out == "", "FAISS prints nothing into a result"
    assert "no index yet: it is built" in first.err
    before = Indexed(store).nearest_rows(query, top=5)["score"].to_pylist()
    assert "built" not in capfd.readouterr().err
    store = write_store(tmp_path / "cache", clustered(1500, WIDTH, 4))
    found = Indexed(store).nearest_rows(query, top=5)
    assert "of another state of the store: it is built" in capfd.readouterr().err
    assert found["score"].to_pylist() != before
    folder = tmp_path / "cache" / ".index" / "g+generated"
    assert sorted(file.name for file in folder.iterdir()) == ["about.json", "index.faiss", "lists.ivfdata"]
    assert not list(folder.parent.glob(".*.new"))


@pytest.mark.parametrize("harm", ["index", "lists", "about"])
def test_a_damaged_index_is_built_again(tmp_path: Path, harm: str, capfd: pytest.CaptureFixture[str]) -> None:
    store = write_store(tmp_path / "cache", clustered(1100, WIDTH, 1))
    query = clustered(1, WIDTH, 3)[0].astype(np.float32)
    index = Indexed(store)
    right, folder = index.nearest_rows(query, top=5), index.folder
    file = folder / {"index": "index.faiss", "lists": "lists.ivfdata", "about": "about.json"}[harm]
    data = file.read_bytes()
    file.write_bytes(data[:40] + b"x" + data[41:] if harm == "index" else data[: len(data) // 2])
    capfd.readouterr()
    assert Indexed(store).nearest_rows(query, top=5).equals(right)
    assert "it is built" in capfd.readouterr().err


def test_lists_of_nonsense_give_wrong_candidates_and_no_crash(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cache", clustered(1100, WIDTH, 1))
    lists = Indexed(store).folder / "lists.ivfdata"
    lists.write_bytes(np.random.default_rng(0).bytes(lists.stat().st_size))
    query = clustered(1, WIDTH, 3)[0].astype(np.float32)
    with suppress(UserError):  # damaged: remove it, and it is built again
        assert len(Indexed(store).nearest_rows(query, top=5)) <= 5


def test_what_fails_leaves_the_old_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path / "cache", clustered(1100, WIDTH, 1))
    folder = Indexed(store).folder
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    store = write_store(tmp_path / "cache", clustered(1100, WIDTH, 2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(indexed, "_merge", full)
    with pytest.raises(UserError, match="disk is full"):
        Indexed(store)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_small_store_is_searched_exactly_and_a_large_one_through_the_index(
    built: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write_store(tmp_path / "cache", clustered(50, WIDTH, 1))
    query = clustered(1, WIDTH, 3)[0].astype(np.float32)
    assert [hit.image_id for hit in find_images([small], query, top=3, index=True)] == [
        hit.image_id for hit in find_images([small], query, top=3)
    ]
    asked: list[ImageStore] = []
    whole = Indexed.nearest_rows
    monkeypatch.setattr(Indexed, "nearest_rows", lambda self, *a, **k: asked.append(self.store) or whole(self, *a, **k))
    find_images([built], query, top=3, index=None)
    assert not asked
    monkeypatch.setattr(indexed, "LARGE", ROWS)
    find_images([built], query, top=3, index=None)
    find_images([built], query, top=3)
    assert asked == [built]


def test_the_command_takes_the_index(built: ImageStore) -> None:
    words = ["search", "--like", "000004.png", "--cache", str(built.cache), "--dataset", "g", "--json"]
    done = CliRunner().invoke(app, [*words, "--encoder", "generated", "--index", "--top", "2"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["image_id"] == "000004.png"
    both = CliRunner().invoke(app, [*words, "--index", "--approximate"])
    assert "--approximate or --index, not both" in str(both.exception)
