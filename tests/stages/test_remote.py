"""A cache on an object store: a real S3 server of this machine, which throttles, drops connections and refuses keys."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from parted_stores import ORIGIN, table, write
from s3_server import Server, client, upload
from typer.testing import CliRunner

from pipeline.cli import app as pipeline_app
from stages import ImageStore, ManifestProvenance, ManifestStore, UserError
from stages.stores.parted import OBJECTS
from stages.stores.remote import _meaning, mirror, remote

URL = "s3://bucket/some/cache"


@pytest.fixture
def server(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with a cache in its bucket."""
    s3.at_hand(monkeypatch, tmp_path / "home")
    cache = tmp_path / "cache"
    write(ImageStore(cache, "d", "e"), table(23), 5)
    write(ImageStore(cache, "d", "other"), table(23), 50, origin=ORIGIN.model_copy(update={"encoder": "other"}))
    names = {f"i{k:06d}": k for k in range(23)}
    rows = [
        {
            "image_id": name, "path": name, "class_id": 0, "class_name": "thing", "split": "train", "width": 1,
            "height": 1, "sha256": None, "error": None, "captions": None, "questions": None,
        }
        for name in names
    ]  # fmt: skip
    ManifestStore(cache, "d").write(
        pa.Table.from_pylist(rows, schema=ManifestStore.schema()),
        ManifestProvenance(dataset="d", content="", class_names={0: "thing"}),
    )
    upload(cache, s3)
    s3.asked.clear()
    return s3


def test_stores_of_one_part_and_of_many_are_read_as_from_a_folder_and_fetched_once(
    server: Server, tmp_path: Path
) -> None:
    cache = mirror(URL)
    assert not server.gets(".parquet"), "nothing is fetched before it is read"
    store = ImageStore(cache, "d", "e")
    assert store.exists()
    assert store.read().equals(ImageStore(tmp_path / "cache", "d", "e").read())
    assert np.array_equal(store.embeddings(check=True), ImageStore(tmp_path / "cache", "d", "e").embeddings())
    assert store.verify() == []
    fetched = server.gets("part-00003.parquet")
    assert fetched
    assert not server.gets("part-0.parquet"), "the other encoder's store was not asked for"
    again = ImageStore(mirror(URL), "d", "e")
    assert again.read().num_rows == 23
    assert server.gets("part-00003.parquet") == fetched


def test_what_changed_there_is_fetched_again_and_what_went_is_gone(server: Server, tmp_path: Path) -> None:
    ImageStore(mirror(URL), "d", "e").read()
    write(ImageStore(tmp_path / "cache", "d", "e"), table(40, seed=3), 50)
    (tmp_path / "cache/images/dataset=d/encoder=other/part-0.parquet").unlink()
    upload(tmp_path / "cache", server)
    cache = mirror(URL)
    assert ImageStore(cache, "d", "e").read().equals(table(40, seed=3))
    assert not ImageStore(cache, "d", "other").exists()


def test_commands_that_read_take_the_address_and_those_that_write_refuse_it(server: Server) -> None:
    run = CliRunner().invoke
    shown = run(pipeline_app, ["sql", "SELECT count(*) AS n FROM images", "--json", "--cache", URL, "--encoder", "e"])
    assert '"n": 23' in shown.stdout, shown
    checked = run(pipeline_app, ["verify", "--cache", URL])
    assert "3 stores checked" in checked.stdout
    assert "not a store" not in checked.stdout
    for words in (
        ["ingest", "d", "--source", "x", "--cache", URL],
        ["embed-images", "--dataset", "d", "--cache", URL],
        ["verify", "--fix", "--cache", URL],
    ):
        refused = run(pipeline_app, words)
        assert isinstance(refused.exception, UserError)
        assert "an object store is only read, and this command writes there" in str(refused.exception)
        assert refused.exception.exit_code == 2


def test_throttling_and_dropped_connections_are_waited_out(server: Server) -> None:
    cache = mirror(URL)
    server.faults += ["SlowDown", "", "drop", "half", "half"]
    assert ImageStore(cache, "d", "e").read().equals(table(23))
    assert not server.faults


@pytest.mark.parametrize(("fault", "said"), [("SlowDown", "too busy, 2 times in a row"), ("drop", "does not answer")])
def test_a_store_that_stays_away_is_one_line_and_a_later_call_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    cache = mirror(URL)
    monkeypatch.setattr("stages.stores.remote.TRIES", 2)
    server.faults += [fault] * 200
    with pytest.raises(UserError, match=said) as caught:
        ImageStore(cache, "d", "e").read()
    assert str(caught.value).startswith(f"{URL}/images/dataset=d/encoder=e: ")
    assert "\n" not in str(caught.value)
    server.faults.clear()
    assert ImageStore(cache, "d", "e").read().equals(table(23))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://elsewhere/cache", "no such bucket"),
        ("s3://bucket/none", "no store there: name the folder"),
        ("s3://key:secret@bucket/cache", "keys and endpoints come from the environment"),
    ],
)
def test_a_wrong_address_is_one_line(server: Server, url: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        mirror(url)


def test_wrong_keys_are_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(UserError, match="refuses these keys: set AWS_ACCESS_KEY_ID"):
        mirror(URL)


def test_nothing_listens_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("stages.stores.remote.TRIES", 2)
    said = r"does not answer, 2 times in a row: .* at AWS_ENDPOINT_URL, which is http://127.0.0.1:9 \(ListObjectsV2: c"
    with pytest.raises(UserError, match=said):
        mirror(URL)


def test_what_is_not_set_of_an_object_store_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    line = _meaning("AWS Error NETWORK_CONNECTION during HeadBucket operation: curlCode: 6")
    assert "AWS_ENDPOINT_URL names no other server; no keys are set (AWS_ACCESS_KEY_ID" in line


def test_a_file_that_goes_while_it_is_fetched_is_one_line(server: Server) -> None:
    cache = mirror(URL)
    client(server).delete_file("bucket/some/cache/images/dataset=d/encoder=e/part-00002.parquet")
    with pytest.raises(UserError, match="a file has gone meanwhile: run this again"):
        ImageStore(cache, "d", "e").read()
    with pytest.raises(UserError, match=r"part-00002\.parquet: missing"):
        ImageStore(mirror(URL), "d", "e").read()


def test_a_full_disk_here_is_told_before_anything_is_fetched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = mirror(URL)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="free some space, or set XDG_CACHE_HOME"):
        ImageStore(cache, "d", "e").read()
    assert not server.gets(".parquet")


def test_an_address_is_known_whatever_was_made_of_its_slashes() -> None:
    assert remote(Path("s3://bucket/some/cache/")) == remote("s3://bucket/some/cache") == URL
    assert remote(Path("s3/bucket")) is None
    assert remote("cache") is None
    assert not (Path("cache") / OBJECTS).exists()
