"""Stores of many parts through the commands: made, read, checked, mended and tracked as those of one part."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import picture
from small_cache import EMBED, make_cache
from typer.testing import CliRunner

from aape import open_features
from pipeline.catalog import query
from pipeline.cli import app
from pipeline.embed import embed_images, embed_text
from pipeline.encoders.base import Encoder
from pipeline.ingest import ingest
from pipeline.search import embed_query, find_images, find_sentences, image_stores, sentence_stores
from pipeline.verify import fix, stores_in, verify
from pipeline.verify.places import files_of
from stages import ImageStore, ManifestStore, UserError
from stages.params import DataParams, Params
from stages.stores.artifacts import Store
from stages.stores.provenance import EmbeddingProvenance
from trainer.data.features import load_features

ROWS = 10


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder]:
    """A cache of stores of one part, and its encoder."""
    return make_cache(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def many(one: tuple[Path, Encoder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stores, in parts of `ROWS` rows where there are more."""
    cache = tmp_path_factory.mktemp("many") / "cache"
    for store in stores_in(one[0]):
        origin = store.provenance()
        precision = origin.precision if isinstance(origin, EmbeddingProvenance) else "float16"
        copy: Store = type(store)(cache, **{**store.partitions, **named(store)})
        with copy.writing(origin, precision=precision, part_rows=ROWS) as writer:
            writer.add(store.read())
    assert sorted(len(store.files()) for store in stores_in(cache)) == [1, 2, 2, 5, 15]
    return cache


def named(store: Store) -> dict[str, str]:
    """The full names in place of slugs."""
    origin = store.provenance()
    return {key: name for key in store.partitions if (name := getattr(origin, key, None)) is not None}


@pytest.fixture
def cache(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change; what is written meanwhile has parts of `ROWS` rows too."""
    monkeypatch.setattr(Store, "part_rows", ROWS)
    shutil.copytree(many, tmp_path / "cache")
    return tmp_path / "cache"


def contents(cache: Path) -> dict[str, str]:
    return {str(store.folder.relative_to(cache)): store.provenance().content for store in stores_in(cache)}


def files(store: Store) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files_of(store)}


def test_all_that_reads_finds_the_same_in_many_parts(one: tuple[Path, Encoder], many: Path) -> None:
    single, encoder = one
    assert contents(many) == contents(single)
    assert (verify(many).checked, verify(many).faults, verify(many).notes) == (5, [], [])
    sentence = embed_query(encoder, text="a photo of a red weave")
    found: list[list[Any]] = []
    for cache in (single, many):
        images, texts = image_stores(cache, encoder.name), sentence_stores(cache, encoder.name)
        features = load_features(cache, "weaves", encoder.name, device="cpu")
        stored = open_features(cache, dataset="weaves", encoder=encoder.name)
        audit = CliRunner().invoke(
            app, ["audit", "--json", f"--cache={cache}", "--encoder", encoder.name, "--dataset", "weaves"]
        )
        assert audit.exit_code == 0, audit.output
        found.append(
            [
                query(cache, encoder.name, "SELECT split, view, count(*) FROM images GROUP BY ALL ORDER BY ALL"),
                query(cache, encoder.name, "SELECT prompt_id, llm, embedding[1] FROM text ORDER BY ALL"),
                [hit.image_id for hit in find_images(images, sentence, top=7, split="test")],
                [hit.prompt_id for hit in find_sentences(texts, sentence, top=3)],
                features.train.images.embeddings.tolist(),
                features.test(views=True).images.embeddings.tolist(),
                [text.prompts.tolist() for text in features.text.values() if text.prompts is not None],
                stored.sentences(),
                json.loads(audit.stdout),
            ]
        )
    assert found[0] == found[1]


def test_embedding_writes_the_parts_that_one_writer_writes(
    one: tuple[Path, Encoder], many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "part_rows", ROWS)
    cache = tmp_path / "cache"
    for kind in ("manifest", "prompts"):
        shutil.copytree(many / kind, cache / kind)
    embed = EMBED.model_copy(update={"part": 7})
    embed_images("weaves", one[1], embed=embed, cache=cache)
    embed_text("weaves", one[1], data=DataParams(), embed=embed, cache=cache)
    for made, wanted in zip(stores_in(cache), stores_in(many), strict=True):
        assert files(made) == files(wanted)
    assert not list((cache / ".work").rglob("*.parquet"))


@pytest.mark.parametrize("harm", ["missing", "list"])
def test_fix_makes_a_store_of_many_parts_again_byte_for_byte(cache: Path, one: tuple[Path, Encoder], harm: str) -> None:
    store = ImageStore(cache, "weaves", one[1].name)
    before = files(store)
    file = store.file if harm == "list" else store.files()[3]
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    [fault] = verify(cache).faults
    assert fault.text.startswith(str(file))

    def run(words: Sequence[str]) -> None:
        done = CliRunner().invoke(app, [*words, f"--cache={cache}", "--set", "embed.views=2", "--set", "embed.batch=8"])
        assert done.exit_code == 0, done.output

    fixed = fix(cache, Params(), run)
    assert (fixed.left, fixed.report.faults, fixed.report.notes, len(fixed.done)) == ([], [], [], 1)
    assert files(store) == before


def test_fix_may_make_one_file_of_many_parts(
    cache: Path, one: tuple[Path, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(cache, "weaves", one[1].name)
    store.files()[3].unlink()
    monkeypatch.setattr(Store, "part_rows", 1000 * ROWS)

    def run(words: Sequence[str]) -> None:
        done = CliRunner().invoke(app, [*words, f"--cache={cache}", "--set", "embed.views=2", "--set", "embed.batch=8"])
        assert done.exit_code == 0, done.output

    fixed = fix(cache, Params(), run)
    assert (fixed.left, fixed.report.faults, len(fixed.done)) == ([], [], 1)
    assert [file.name for file in store.files()] == ["part-0.parquet"]


def test_what_cannot_be_mended_comes_back_as_it_was(cache: Path, one: tuple[Path, Encoder]) -> None:
    store = ImageStore(cache, "weaves", one[1].name)
    store.files()[2].unlink()
    before = {file.name: file.read_bytes() for file in store.folder.iterdir()}

    def fail(words: Sequence[str]) -> None:
        raise UserError("no encoder")

    assert len(fix(cache, Params(), fail).left) == 1
    assert {file.name: file.read_bytes() for file in store.folder.iterdir()} == before


def test_parts_that_no_list_names_and_those_of_a_killed_writer_are_reported_and_not_read(
    cache: Path, one: tuple[Path, Encoder]
) -> None:
    store = ImageStore(cache, "weaves", one[1].name)
    stray = store.folder / "part-00099.parquet"
    shutil.copy(store.files()[0], stray)
    shutil.copytree(store.folder, store.work / "new")
    report = verify(cache)
    assert [fault.text.split(": ")[0] for fault in report.faults] == [str(stray)]
    assert "a part that _common_metadata beside it does not name" in report.faults[0].text
    assert "16 parts of a killed command, which nobody reads" in "\n".join(report.notes)
    assert store.read().num_rows == 144


def test_images_of_a_changed_data_set_are_taken_from_the_kept_parts(
    one: tuple[Path, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "part_rows", ROWS)
    source, cache = tmp_path / "weaves", tmp_path / "cache"
    shutil.copytree(one[0].parent / "weaves", source)
    ingest("weaves", str(source), data=DataParams(), cache=cache)
    embed_images("weaves", one[1], embed=EMBED, cache=cache)
    before = ImageStore(cache, "weaves", one[1].name).read()
    picture((9, 9, 9), 3).save(source / "red weave" / "new.png")
    ingest("weaves", str(source), data=DataParams(), cache=cache)
    assert embed_images("weaves", one[1], embed=EMBED, cache=cache).reused > 40
    after = ImageStore(cache, "weaves", one[1].name)
    assert len(after.files()) > 1
    rows = dict(zip(after.read()["image_id"].to_pylist(), after.embeddings().tolist(), strict=False))
    assert rows["grey weave/00.png"] == dict(
        zip(before["image_id"].to_pylist(), np.array(before["embedding"].to_pylist()).tolist(), strict=False)
    )["grey weave/00.png"]  # fmt: skip
    assert ManifestStore(cache, "weaves").verify() == after.verify() == []


def test_dvc_tracks_a_partition_of_many_parts_and_brings_it_back(cache: Path, one: tuple[Path, Encoder]) -> None:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for words in (["init", "--no-scm", "-q"], ["add", "-q", "cache/images"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=cache.parent, env=env, check=True)
    shutil.rmtree(cache / "images")
    assert not ImageStore(cache, "weaves", one[1].name).exists()
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "-q"], cwd=cache.parent, env=env, check=True)
    assert len(ImageStore(cache, "weaves", one[1].name).files()) == 15
    assert verify(cache).faults == []
