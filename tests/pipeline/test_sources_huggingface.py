"""Hugging Face `datasets` as sources: what its own library wrote is read alike, and the hub's absence is one line."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from pipeline.blobs import read_bytes
from pipeline.images import open_rgb
from pipeline.ingest import Listing, ingest
from pipeline.ingest.huggingface import HubReader, SavedReader
from stages import ManifestStore, UserError
from stages.params import DataParams

datasets = pytest.importorskip("datasets")
DATA = DataParams()


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf" / "datasets")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def table(weaves: Path, every: int = 1, **more: list[Any]) -> Any:
    files = sorted(weaves.rglob("*.png"))[::every]
    names = sorted({file.parent.name for file in files})
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        | {name: datasets.Value("string") for name in more}
    )
    rows = {"image": [str(f) for f in files], "label": [f.parent.name for f in files], **more}
    return datasets.Dataset.from_dict(rows, features=features)


def read(source: Path, **data: Any) -> Listing:
    return SavedReader().read(str(source), DataParams(**data))


def test_a_saved_data_set_is_read_as_its_own_library_reads_it(weaves: Path, tmp_path: Path) -> None:
    table(weaves).shuffle(seed=3).save_to_disk(tmp_path / "saved", num_shards=3)
    shutil.rmtree(weaves)
    summary = ingest("w", str(tmp_path / "saved"), data=DATA, cache=tmp_path / "cache")
    assert (summary.images, summary.classes) == ({"train": 24, "val": 4, "test": 20}, 4)
    store = ManifestStore(tmp_path / "cache", "w")
    found = store.read().to_pylist()
    root = Path(store.provenance().root or "")
    expected = datasets.load_from_disk(tmp_path / "saved")
    names = expected.features["label"].names
    ours = Counter((r["class_id"], r["class_name"], open_rgb(read_bytes(root, r["path"])).tobytes()) for r in found)
    assert ours == Counter((r["label"], names[r["label"]], r["image"].tobytes()) for r in expected)


def test_splits_of_a_dict_are_kept_and_strange_ones_left_aside(weaves: Path, tmp_path: Path) -> None:
    parts = {"train": table(weaves), "validation": table(weaves, 2), "extra": table(weaves, 3)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    found = read(tmp_path / "saved")
    assert Counter(e.split for e in found.entries) == {"train": 48, "val": 24}
    assert found.notes[-1].endswith("extra")
    datasets.DatasetDict({"train": parts["train"]}).save_to_disk(tmp_path / "one")
    assert {e.split for e in read(tmp_path / "one").entries} == {None}, "a lone split is split by seed"


def test_captions_and_other_columns_are_found_or_named(weaves: Path, tmp_path: Path) -> None:
    captions = [f"weave {i}" for i in range(48)]
    table(weaves, text=captions, other=captions[::-1]).save_to_disk(tmp_path / "saved")
    assert [list(e.captions or ()) for e in read(tmp_path / "saved").entries[:2]] == [["weave 0"], ["weave 1"]]
    found = read(tmp_path / "saved", columns={"caption": "other"}).entries
    assert list(found[0].captions or ()) == ["weave 47"]


def test_two_class_columns_ask_for_one(weaves: Path, tmp_path: Path) -> None:
    found = table(weaves).rename_column("label", "fine_label")
    found = found.add_column("coarse_label", [i % 2 for i in range(48)])
    found = found.cast_column("coarse_label", datasets.ClassLabel(names=["odd", "even"]))
    found.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"several class columns \(fine_label, coarse_label\)"):
        read(tmp_path / "saved")
    assert read(tmp_path / "saved", columns={"class": "coarse_label"}).class_names == {0: "odd", 1: "even"}


def test_parquet_files_in_the_hubs_layout_need_no_library(weaves: Path, tmp_path: Path) -> None:
    table(weaves).save_to_disk(tmp_path / "saved")
    halves = datasets.load_from_disk(tmp_path / "saved").train_test_split(0.5, seed=1)
    for split, half in halves.items():
        half.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    shutil.rmtree(weaves)
    summary = ingest("w", str(tmp_path / "hub"), data=DATA, cache=tmp_path / "cache")
    assert (summary.images, summary.classes) == ({"train": 24, "val": 0, "test": 24}, 4)
    assert not summary.unreadable


def test_parquet_files_may_name_images_that_lie_elsewhere(weaves: Path, tmp_path: Path) -> None:
    table(weaves).to_parquet(tmp_path / "w.parquet")
    summary = ingest("w", str(tmp_path / "w.parquet"), data=DataParams(images=str(weaves)), cache=tmp_path / "cache")
    assert sum(summary.images.values()) == 48


def test_any_layout_that_the_library_reads_can_be_had_through_it(weaves: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(weaves, tmp_path / "folder" / split)
    found = HubReader().read(f"hf:{tmp_path / 'folder'}", DATA)
    assert Counter(e.split for e in found.entries) == {"train": 48, "test": 48}
    assert (found.root / found.entries[0].path).is_file()


@pytest.mark.parametrize(
    "name", ["hf:nobody/nothing", "hf:nothing@main", "hf:nothing:config", "hf:../x", "hf:/nowhere"]
)
def test_a_hub_that_cannot_be_reached_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="not to be had") as caught:
        HubReader().read(name, DATA)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected hf:"):
        HubReader().read("hf:", DATA)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset_dict.json", "[]"), ("dataset_dict.json", '{"splits": ["../x"]}'), ("dataset_dict.json", "junk"),
        ("train/state.json", "{}"), ("train/state.json", '{"_data_files": [{"filename": "/etc/x.arrow"}]}'),
        ("train/state.json", '{"_data_files": [{"filename": "none.arrow"}]}'),
        ("train/data-00000-of-00001.arrow", "junk"), ("train/data-00000-of-00001.arrow", ""),
    ],
)  # fmt: skip
def test_a_damaged_saved_data_set_is_one_line(weaves: Path, tmp_path: Path, file: str, content: str) -> None:
    datasets.DatasetDict({"train": table(weaves)}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / file).write_text(content)
    with pytest.raises(UserError, match="saved"):
        read(tmp_path / "saved")


def test_paths_in_a_saved_data_set_do_not_leave_it(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    (tmp_path / "secret").write_text("x")
    image = {"bytes": b"1", "path": None}
    found = datasets.Dataset.from_dict({"image": [image, image], "label": [0, 1]}, features=features)
    found.save_to_disk(tmp_path / "saved")
    import pyarrow as pa

    file = tmp_path / "saved" / "data-00000-of-00001.arrow"
    rows = [{"bytes": None, "path": str(tmp_path / "secret")}] * 2
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    evil = pa.table({"image": pa.array(rows, table.schema.field("image").type), "label": table["label"]}, table.schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, evil.schema) as stream:
        stream.write_table(evil)
    with pytest.raises(UserError, match="does not lie below"):
        read(tmp_path / "saved")


def test_without_the_library_the_line_says_how_to_get_it(command: Command, tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text("raise ImportError('not here')")
    done = command("pipeline", "ingest", "w", "--source", "hf:x/y", cwd=tmp_path, code=1)
    assert "pip install datasets" in done.stderr
    assert json.dumps(done.stderr).count("\\n") == 1
