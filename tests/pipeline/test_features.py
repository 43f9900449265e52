"""Embeddings that someone else made come in, in every form, as if they had been embedded here."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from small_cache import WIDTH, tiny_clip

from pipeline.ingest import ingest
from pipeline.verify import verify
from stages import ImageStore, ManifestStore, PromptStore, TextStore, UserError
from stages.arrays import limits
from stages.params import DataParams

Arrays = dict[str, Any]
NAMED = DataParams(encoder_name="clip-x")
TEXTS = {"split", "class_names", "prompt_source", "prompt_text", "label", "image_id", "templates"}


def example(*, classes: int = 3, images: int = 6, width: int = 5, seed: int = 0, dtype: str = "float32") -> Arrays:
    """All keys that a file may have, of well-separated classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, width)) * 3
    y = np.repeat(np.arange(classes), images)
    return {
        "embedding": (centres[y] + rng.normal(size=(len(y), width))).astype(dtype),
        "class_id": y,
        "split": np.array((["train"] * (images - 3) + ["val", "test", "test"]) * classes),
        "image_id": np.array([f"{c}/{i}.jpg" for c in range(classes) for i in range(images)]),
        "class_names": np.array([f"weave {c}" for c in range(classes)]),
        "text_template": (centres[:, None] + rng.normal(size=(classes, 2, width))).astype(dtype),
        "templates": np.array(["a photo of a {}.", "a {}."]),
        "prompts": (np.repeat(centres, 2, 0) + rng.normal(size=(2 * classes, width))).astype(dtype),
        "prompt_class_id": np.repeat(np.arange(classes), 2),
        "prompt_source": np.array(["people", "an LLM"] * classes),
        "prompt_text": np.array([f"sentence {i}" for i in range(2 * classes)]),
    }


def npz(folder: Path, arrays: Arrays) -> Path:
    np.savez(folder / "features.npz", **arrays)
    return folder / "features.npz"


def packed(folder: Path, arrays: Arrays) -> Path:
    np.savez_compressed(folder / "packed.npz", **arrays)
    return folder / "packed.npz"


def npy(folder: Path, arrays: Arrays) -> Path:
    (folder / "npy").mkdir()
    for key, array in arrays.items():
        np.save(folder / "npy" / f"{key}.npy", array)
    return folder / "npy"


def safetensors(folder: Path, arrays: Arrays) -> Path:
    numbers = {key: np.ascontiguousarray(array) for key, array in arrays.items() if key not in TEXTS}
    about = {key: json.dumps(array.tolist()) for key, array in arrays.items() if key in TEXTS}
    save_file(numbers, folder / "f.safetensors", about)
    return folder / "f.safetensors"


def pt(folder: Path, arrays: Arrays) -> Path:
    values = {key: a.tolist() if key in TEXTS else torch.from_numpy(np.array(a)) for key, a in arrays.items()}
    torch.save(values, folder / "f.pt")
    return folder / "f.pt"


def column(array: np.ndarray) -> pa.Array:
    if array.ndim == 1:
        return pa.array(array.tolist() if array.dtype.kind == "U" else array)
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    return pa.array(array.astype(np.float64).tolist(), pa.list_(pa.list_(pa.from_numpy_dtype(array.dtype))))


def parquet(folder: Path, arrays: Arrays) -> Path:
    """Files told apart by their columns; the images in two pieces."""
    (folder / "tables").mkdir()
    kinds = {
        "text": ["class_names", "text_template"],
        "templates": ["templates"],
        "prompts": ["prompts", "prompt_class_id", "prompt_source", "prompt_text"],
    }
    images = [key for key in arrays if not any(key in keys for keys in kinds.values())]
    table = pa.table({key: column(arrays[key]) for key in images})
    pq.write_table(table.slice(0, 4), folder / "tables" / "images-0.parquet")
    pq.write_table(table.slice(4), folder / "tables" / "images-1.parquet")
    for name, keys in kinds.items():
        there = [key for key in keys if key in arrays]
        if there:
            pq.write_table(pa.table({k: column(arrays[k]) for k in there}), folder / "tables" / f"{name}.parquet")
    return folder / "tables"


FORMS: list[Callable[[Path, Arrays], Path]] = [npz, packed, npy, safetensors, pt, parquet]


def contents(cache: Path) -> dict[str, str]:
    stores = [ManifestStore(cache, "d"), ImageStore(cache, "d", "clip-x"), TextStore(cache, "d", "clip-x", "none")]
    for source in ("people", "an LLM"):
        stores += [PromptStore(cache, "d", source), TextStore(cache, "d", "clip-x", source)]
    return {str(store.folder.relative_to(cache)): store.provenance().content for store in stores if store.exists()}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000), width=st.integers(1, 9), dtype=st.sampled_from(["float16", "float32", "float64"]),
    without=st.sets(st.sampled_from(["split", "templates", "prompt_text", "prompt_source", "image_id"])),
)  # fmt: skip
def test_the_same_arrays_in_every_form_give_the_same_stores(
    tmp_path_factory: pytest.TempPathFactory, seed: int, width: int, dtype: str, without: set[str]
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    arrays = {k: v for k, v in example(width=width, seed=seed, dtype=dtype).items() if k not in without}
    found = []
    for number, form in enumerate(FORMS):
        ingest("d", str(form(folder, arrays)), data=NAMED, cache=folder / str(number))
        found.append(contents(folder / str(number)))
    assert all(each == found[0] for each in found)
    assert len(found[0]) == (7 if "prompt_source" not in without else 3)
    assert verify(folder / "0").faults == []


def test_vectors_are_stored_by_their_direction_and_a_line_counts_those_of_another_length(tmp_path: Path) -> None:
    arrays = example(dtype="float64")
    unit = arrays["embedding"] / np.linalg.norm(arrays["embedding"], axis=1, keepdims=True)
    arrays["embedding"] = unit * np.where(np.arange(len(unit)) < 4, 1e200, 1.0)[:, None]
    notes = ingest("d", str(npz(tmp_path, arrays)), data=NAMED, cache=tmp_path / "c").notes
    assert "4 of 18 rows of embedding are not of length 1: each is divided by its length" in notes
    table = ImageStore(tmp_path / "c", "d", "clip-x").read()
    stored = dict(zip(table["image_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    for image_id, row in zip(arrays["image_id"], unit, strict=True):
        assert np.allclose(stored[image_id], row, atol=1e-3)


def test_two_classes_of_one_name_are_kept_apart_by_their_ids_and_counted(tmp_path: Path) -> None:
    arrays = example()
    arrays["class_names"] = np.array(["crane", "heron", "crane"])
    notes = ingest("d", str(npz(tmp_path, arrays)), data=NAMED, cache=tmp_path / "c").notes
    assert ManifestStore(tmp_path / "c", "d").provenance().class_names == {0: "crane (0)", 1: "heron", 2: "crane (2)"}
    assert sum("1 names are given to 2 classes (crane)" in note for note in notes) == 1


def test_labels_that_are_names_number_the_classes_in_their_order(tmp_path: Path) -> None:
    arrays = example()
    arrays["label"] = np.array(["stork", "heron", "ibis"])[arrays.pop("class_id")]
    arrays["label"][0] = ""
    del arrays["class_names"], arrays["prompts"], arrays["prompt_class_id"], arrays["prompt_source"]
    del arrays["prompt_text"]
    summary = ingest("d", str(npz(tmp_path, arrays)), data=NAMED, cache=tmp_path / "c")
    assert ManifestStore(tmp_path / "c", "d").provenance().class_names == {0: "heron", 1: "ibis", 2: "stork"}
    assert sum(summary.images.values()) == 17
    assert any("1 images are unlabelled" in note for note in summary.notes)


@pytest.mark.parametrize(
    ("key", "kind"),
    [("label", pa.string()), ("label", pa.dictionary(pa.int8(), pa.string())), ("class_id", pa.uint8()),
     ("class_id", pa.float64())],
)  # fmt: skip
def test_a_null_label_in_parquet_is_an_unlabelled_image(tmp_path: Path, key: str, kind: pa.DataType) -> None:
    arrays = example()
    ids = arrays["class_id"].tolist()
    own = [None, *(ids if key == "class_id" else [f"weave {c}" for c in ids])[1:]]
    columns = {"embedding": pa.array(list(arrays["embedding"])), "split": pa.array(arrays["split"])}
    pq.write_table(pa.table({**columns, "own": pa.array(own).cast(kind)}), tmp_path / "f.parquet")
    data = NAMED.model_copy(update={"columns": {key: "own"}})
    summary = ingest("d", str(tmp_path / "f.parquet"), data=data, cache=tmp_path / "c")
    assert sum(summary.images.values()) == 17
    assert sum(note.startswith("1 images are unlabelled (class -1 or empty)") for note in summary.notes) == 1


def test_views_belong_to_their_image(tmp_path: Path) -> None:
    arrays = example()
    both = {key: np.concatenate([arrays[key]] * 2) for key in ("embedding", "class_id", "split", "image_id")}
    both["view"] = np.repeat([0, 1], len(arrays["class_id"]))
    ingest("d", str(npz(tmp_path, both)), data=NAMED, cache=tmp_path / "c")
    assert ImageStore(tmp_path / "c", "d", "clip-x").provenance().views == 1
    assert verify(tmp_path / "c").faults == []
    both["view"][-1] = 0
    with pytest.raises(UserError, match="stands there twice"):
        ingest("e", str(npz(tmp_path, both)), data=NAMED, cache=tmp_path / "c")


def changed(**changes: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: value for key, value in (arrays | changes).items() if value is not None}


def edited(key: str, at: Any, value: Any) -> Callable[[Arrays], Arrays]:
    def edit(arrays: Arrays) -> Arrays:
        array = np.array(arrays[key])
        array[at] = value
        return arrays | {key: array}

    return edit


WRONG: list[tuple[Callable[[Arrays], Arrays], str]] = [
    (changed(embedding=None), r"no `embedding` \(N, D\); it has class_id, class_names"),
    (changed(class_id=None), "neither `class_id` nor `label`.*it has class_names, embedding"),
    (changed(prompt_class_id=None), "`prompts` .* and `prompt_class_id` .* belong together"),
    (changed(embedding=np.zeros((2, 5, 5), "f4")), r"embedding is of shape \(2, 5, 5\); expected \(N, D\)"),
    (changed(embedding=np.ones((18, 5), int)), "embedding: of type int64; expected float16, float32 or float64"),
    (edited("embedding", (3, 1), np.nan), r"embedding: 1 of 18 rows hold NaN or infinity \(first: row 3\)"),
    (edited("embedding", 4, 0), r"embedding: 1 of 18 rows are zero and have no direction \(first: row 4\)"),
    (edited("text_template", (1, 0), np.inf), "text_template: 1 of 6 rows hold NaN or infinity"),
    (
        changed(text_template=np.ones((3, 7))),
        "text_template is 7 wide and embedding 5: both must come from one encoder",
    ),
    (changed(text_template=np.ones((2, 5)), templates=None), "text_template has 2 rows for 3 classes"),
    (changed(prompts=np.ones((6, 4))), "prompts are 4 wide and embedding 5"),
    (edited("prompt_class_id", 2, 9), r"prompt_class_id 9 \(row 2\) is no class: there are 3"),
    (edited("class_id", 5, 7), r"class_id 7 \(row 5\) has no name: class_names has 3"),
    (edited("class_id", 5, -2), r"class_id -2 \(row 5\): expected 0 to"),
    (changed(class_id=np.zeros(18, int)), "1 classes with an image; only 'weave 0': a classifier needs at least two"),
    (changed(class_id=np.zeros(4, int)), r"class_id is of shape \(4,\); expected \(18,\)"),
    (changed(class_id=np.full(18, 0.5)), r"class_id holds 0.5 \(row 0\); expected whole numbers"),
    (edited("split", 2, "holdout"), r"split 'holdou' \(row 2\)|split 'holdo' \(row 2\): expected train, val or test"),
    (edited("image_id", 1, "0/0.jpg"), "image '0/0.jpg' stands there twice"),
    (edited("image_id", 1, "a\nb"), r"image_id 'a\\nb' \(row 1\) holds '\\n'; expected 1 to 1000 letters on one line"),
    (changed(class_names=np.array(["a" * 5000, "b", "c"])), r"\(row 0\) has 5000 letters; expected 1 to 1000"),
    (edited("class_names", 1, ""), r"class_names '' \(row 1\) is empty"),
    (changed(class_names=np.array([1, 2, object()])), "class_names: holds Python objects, which only pickle can read"),
    (changed(prompt_source=np.array(["none"] * 6)), "prompt_source 'none' stands for text without a source"),
]


@pytest.mark.parametrize(("change", "line"), WRONG, ids=[line[:50] for _, line in WRONG])
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    tmp_path: Path, change: Callable[[Arrays], Arrays], line: str
) -> None:
    with pytest.raises(UserError, match=line) as error:
        ingest("d", str(npz(tmp_path, change(example()))), data=NAMED, cache=tmp_path / "c")
    assert "features.npz" in str(error.value)
    assert not list((tmp_path / "c").rglob("*.parquet"))


def test_a_file_without_names_says_what_a_data_set_needs(tmp_path: Path) -> None:
    np.save(tmp_path / "pairs.npy", np.ones((2, 500, 8)))
    torch.save(torch.ones(10, 8), tmp_path / "text.pt")
    for file, shape in (("pairs.npy", r"\(2, 500, 8\)"), ("text.pt", r"\(10, 8\)")):
        with pytest.raises(
            UserError, match=rf"one array without a name, of shape {shape}; a data set needs `embedding`"
        ):
            ingest("d", str(tmp_path / file), data=DataParams(), cache=tmp_path / "c")


def test_hostile_files_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"embedding": torch.zeros(1).expand(10**9, 512), "class_id": torch.zeros(2)}, tmp_path / "x.pt")
    bomb = np.lib.format.header_data_from_array_1_0(np.zeros(1, "f4")) | {"shape": (2**40, 512)}
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive, archive.open("embedding.npy", "w") as handle:
        np.lib.format.write_array_header_1_0(handle, bomb)
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        archive.writestr("embedding.npy", b"\x93NUMPY\x02\x00" + (2**20).to_bytes(4, "little") + b"{" + b" " * 2**20)
    with zipfile.ZipFile(tmp_path / "program.npz", "w") as archive:
        archive.writestr("embedding.pkl", b"")
    torch.save({"embedding": Path("pickled")}, tmp_path / "pickled.pt")
    good = npz(tmp_path, example())
    damaged = bytearray(good.read_bytes())
    damaged[200] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:500])
    lines = {
        "x.pt": "bytes are stored: save its clone",
        "liar.npz": "bytes long, and its header says",
        "long.npz": "not a readable array",
        "program.npz": "is no array",
        "pickled.pt": "without running its code",
        "damaged.npz": "damaged|not a readable|checksum",
        "cut.npz": "not a readable .npz",
    }
    for name, line in lines.items():
        with pytest.raises(UserError, match=line):
            ingest("d", str(tmp_path / name), data=NAMED, cache=tmp_path / "c")
    monkeypatch.setattr("stages.arrays.limits.free_memory", lambda: 1000)
    assert limits.free_memory() == 1000
    with pytest.raises(UserError, match="GiB are free"):
        ingest("d", str(packed(tmp_path, example())), data=NAMED, cache=tmp_path / "c")


def test_another_file_of_the_same_data_set_leaves_nothing_of_the_older_one(tmp_path: Path) -> None:
    cache = tmp_path / "c"
    ingest("d", str(npz(tmp_path, example())), data=NAMED, cache=cache)
    bare = changed(prompts=None, prompt_class_id=None, prompt_source=None, prompt_text=None, text_template=None,
                   templates=None)(example(seed=1))  # fmt: skip
    notes = ingest("d", str(npz(tmp_path, bare)), data=NAMED, cache=cache).notes
    assert any("5 stores of an older file were removed" in note for note in notes)
    assert any("no class text" in note for note in notes)
    assert verify(cache).faults == []


def test_the_commands_take_such_a_data_set_as_any_other(typed: Command, tmp_path: Path) -> None:
    source, cache = npz(tmp_path, example()), tmp_path / "cache"
    refused = typed("pipeline", "ingest", "d", "--source", source, cwd=tmp_path, code=2)
    assert "18 embeddings of 5 numbers; say which encoder made them with --encoder-name" in refused.stderr
    typed("pipeline", "ingest", "d", "--source", source, "--encoder-name", "clip-x", cwd=tmp_path)
    before = contents(cache)
    for store in ("prompts", "text", "images"):
        (cache / store).rename(tmp_path / f"old-{store}")
    for command in ("generate-prompts", "embed-text", "embed-images", "verify"):
        typed("pipeline", command, "--dataset", "d", cwd=tmp_path)
    assert contents(cache) == before
    for name, command in (("pipeline", "embed-images"), ("pipeline", "embed-text"), ("trainer", "run")):
        other = typed(name, command, "--dataset", "d", "--encoder", "lite", cwd=tmp_path, code=2)
        assert "d came as embeddings of clip-x, and nothing of lite can be put beside them" in other.stderr
    found = typed("pipeline", "search", "--like", "1/0.jpg", "--dataset", "d", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)[0]["image_id"] == "1/0.jpg"
    told = typed("pipeline", "search", "a weave", "--dataset", "d", cwd=tmp_path, code=1)
    assert "an encoder that is not at hand" in told.stderr
    typed("pipeline", "export-features", "--dataset", "d", "--to", "out", cwd=tmp_path)
    typed("pipeline", "ingest", "again", "--source", "out", cwd=tmp_path)
    typed("pipeline", "embed-images", "--dataset", "again", cwd=tmp_path)
    assert ImageStore(cache, "again", "clip-x").provenance().content == before["images/dataset=d/encoder=clip-x"]
    counted = typed("pipeline", "sql", "SELECT count(*) AS n FROM images", "--json", cwd=tmp_path)
    assert json.loads(counted.stdout) == [{"n": 36}]


def test_a_damaged_store_is_made_again_from_the_file(typed: Command, tmp_path: Path) -> None:
    ingest("d", str(npz(tmp_path, example())), data=NAMED, cache=tmp_path / "cache")
    before = contents(tmp_path / "cache")
    for folder in [name for name in before if name.startswith(("manifest", "images", "prompts/dataset=d/llm=people"))]:
        file = tmp_path / "cache" / folder / "part-0.parquet"
        data = bytearray(file.read_bytes())
        data[60] ^= 255
        file.write_bytes(data)
        typed("pipeline", "verify", "--fix", cwd=tmp_path)
        assert contents(tmp_path / "cache") == before


def test_the_name_of_an_encoder_at_hand_lets_sentences_and_pictures_in(typed: Command, tmp_path: Path) -> None:
    name = tiny_clip(tmp_path / "clip")
    arrays = example(width=WIDTH)
    ingest("d", str(npz(tmp_path, arrays)), data=DataParams(encoder_name=name), cache=tmp_path / "cache")
    found = typed("pipeline", "search", "a weave", "--dataset", "d", "--top", "2", "--json", cwd=tmp_path)
    assert len(json.loads(found.stdout)) == 2
