"""`pipeline verify`: what is wrong with the stores is named, and `--fix` makes exactly that again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import COLOURS, Command, picture
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipeline.catalog import query
from pipeline.cli import app
from pipeline.embed import embed_images, embed_text
from pipeline.encoders import load_encoder
from pipeline.encoders.base import Encoder
from pipeline.ingest import ingest
from pipeline.torchvision_mend import mend_torchvision
from pipeline.verify import stores_in, verify
from stages import ImageStore, ManifestStore, Store, UserError
from stages.params import DataParams, load_params
from stages.stores.artifacts import embedding_array, embedding_matrix
from trainer.data.features import load_features

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
Stores = dict[str, Store]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, sentences, a small encoder, settings, and a sound cache of five stores."""
    mend_torchvision()
    import open_clip

    folder = tmp_path_factory.mktemp("project")
    for name, colour in COLOURS.items():
        (folder / "weaves" / name).mkdir(parents=True)
        for i in range(8):
            picture(colour, i).save(folder / "weaves" / name / f"{i:02d}.png")
    (folder / "weaves" / "red weave" / "bad.png").write_text("no picture")
    sentences = {name: [f"a {name}, seen {k} times" for k in range(3)] for name in COLOURS}
    (folder / "sentences.json").write_text(json.dumps(sentences))
    (folder / "clip").mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / "clip" / "open_clip_model.safetensors")
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    (folder / "params.yaml").write_text(
        f"""
        datasets: [w]
        encoder: "open_clip:local-dir:{folder / "clip"}"
        data: {{w: {{source: "{folder / "weaves"}"}}}}
        imports: [{{dataset: w, name: people, file: "{folder / "sentences.json"}"}}]
        embed: {{workers: 0, batch: 8, part: 10, views: 1}}
        """
    )
    for command in ("ingest", "import-prompts", "embed-text", "embed-images"):
        done = CliRunner().invoke(app, [command, f"--params={folder / 'params.yaml'}", f"--cache={folder / 'cache'}"])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def encoder(project: Path) -> Encoder:
    return load_encoder(load_params(project / "params.yaml").encoder, device="cpu")


@pytest.fixture
def cache(project: Path, tmp_path: Path) -> Path:
    shutil.copytree(project / "cache", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def stores(cache: Path) -> Stores:
    """The five stores by a short name."""
    return {
        "-".join([store.name, *(["own"] if store.partitions.get("llm") == "none" else [])]): store
        for store in stores_in(cache)
    }


def faults(cache: Path) -> str:
    return "\n".join(fault.text for fault in verify(cache).faults)


def fix(project: Path, cache: Path, *more: str, params: str = "params.yaml") -> Any:
    words = ["verify", "--fix", "--json", f"--cache={cache}", f"--params={project / params}", *more]
    done = CliRunner().invoke(app, words)
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


def rewrite(store: Store, change: Callable[[pa.Table], pa.Table], **origin: Any) -> None:
    """Write the store with other rows, or another footer, as a faulty writer would: it is sound by itself."""
    provenance = store.provenance().model_copy(update=origin)
    table = change(store.read())
    store.write(table, provenance)


def edit(store: Store, column: str, value: Any) -> None:
    """Change the first row by hand: the footer stays."""
    table = pq.read_table(store.file, partitioning=None)
    footer = pq.read_metadata(store.file).metadata[b"aape"]
    kind = table.schema.field(column).type
    changed = pa.array([value, *table[column].to_pylist()[1:]], kind)
    table = table.set_column(table.schema.get_field_index(column), column, changed)
    pq.write_table(table.replace_schema_metadata({b"aape": footer}), store.file)


def other_footer(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]] | None) -> None:
    table, footer = pq.read_table(file, partitioning=None), pq.read_metadata(file).metadata[b"aape"]
    kept = {b"aape": json.dumps(change(json.loads(footer))).encode()} if change else None
    pq.write_table(table.replace_schema_metadata(kept), file)


def damage(store: Store, how: str, other: Store) -> None:
    data = store.file.read_bytes()
    if how == "truncated":
        store.file.write_bytes(data[: len(data) // 2])
    elif how == "tail cut":
        store.file.write_bytes(data[:-4])
    elif how == "empty":
        store.file.write_bytes(b"")
    elif how == "no footer":
        other_footer(store.file, None)
    elif how == "of another version":
        other_footer(store.file, lambda footer: {**footer, "format_version": 1})
    elif how == "footer of nonsense":
        other_footer(store.file, lambda footer: {"format_version": footer["format_version"], "store": 7})
    elif how == "another store":
        shutil.copy(other.file, store.file)
    else:
        raise AssertionError(how)


DAMAGES = (
    "truncated", "tail cut", "empty", "no footer", "of another version", "footer of nonsense", "another store",
)  # fmt: skip
NAMES = ("manifest", "prompts", "text", "text-own", "images")


def test_sound_stores_have_no_fault(cache: Path, project: Path, command: Command) -> None:
    report = verify(cache)
    assert (report.checked, report.faults, report.notes) == (5, [], [])
    done = command("pipeline", "verify", "--cache", cache, cwd=project)
    assert done.stdout == "5 stores checked, 0 faults\n"


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_store_is_one_line_that_names_the_file(cache: Path, stores: Stores, name: str, how: str) -> None:
    damage(stores[name], how, stores["prompts" if name != "prompts" else "manifest"])
    found = verify(cache).faults
    assert len(found) == 1
    assert found[0].text.startswith(str(stores[name].file))
    assert "\n" not in found[0].text


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_whoever_reads_a_damaged_store_says_so_in_one_line(
    cache: Path, project: Path, encoder: Encoder, stores: Stores, name: str, how: str
) -> None:
    damage(stores[name], how, stores["prompts" if name != "prompts" else "manifest"])
    params = load_params(project / "params.yaml")
    data = params.of("w")
    readers: dict[str, Callable[[], Any]] = {
        "sql": lambda: query(cache, params.encoder, f"SELECT * FROM {stores[name].name}"),
    }
    if name != "images":
        readers["embed-text"] = lambda: embed_text("w", encoder, data=data, embed=params.embed, cache=cache)
    if name in ("manifest", "images"):
        readers["embed-images"] = lambda: embed_images("w", encoder, embed=params.embed, cache=cache)
    if name != "prompts":
        readers["trainer"] = lambda: load_features(cache, "w", params.encoder, device="cpu").test()
    for reader, read in readers.items():
        if (reader, name) == ("embed-text", "prompts"):  # the other sources are embedded all the same
            text = next(summary.fault for summary in read() if summary.llm == "people")
        else:
            with pytest.raises(UserError) as caught:
                read()
            text = str(caught.value)
        assert str(stores[name].file) in text, reader
        assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("manifest", "class_name", "blue"),
        ("prompts", "text", "another sentence about it"),
        ("text", "class_id", 3),
        ("text-own", "text", "x"),
        ("images", "split", "val"),
        ("images", "embedding", [0.0] * 24),
    ],
)
def test_a_value_edited_by_hand_is_found(cache: Path, stores: Stores, name: str, column: str, value: Any) -> None:
    edit(stores[name], column, value)
    found = faults(cache)
    assert "the rows are not those of the footer" in found
    assert str(stores[name].file) in found


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("images", lambda t: t.slice(2), "1 images are missing"),
        ("images", lambda t: t.slice(1), "1 images do not have all their views"),
        ("images", lambda t: pa.concat_tables([t.slice(0, 2), t]).sort_by(list(ORDER)), "2 views of images stand"),
        ("text", lambda t: t.slice(3), "3 sentences are missing"),
        ("text", lambda t: pa.concat_tables([t.slice(0, 1), t]), "1 sentence stands in it twice"),
        ("text-own", lambda t: t.slice(1), "1 sentences are missing"),
        ("prompts", lambda t: pa.concat_tables([t.slice(0, 1), t]), "1 prompt stands in it twice"),
        ("manifest", lambda t: pa.concat_tables([t.slice(0, 1), t]), "1 image stands in it twice"),
    ],
)
def test_rows_that_are_missing_or_stand_twice_are_counted(
    cache: Path, stores: Stores, name: str, change: Callable[[pa.Table], pa.Table], part: str
) -> None:
    rewrite(stores[name], change)
    assert part in faults(cache)


ORDER = [(key, "ascending") for key in ImageStore.sort_by]


def test_embeddings_that_are_no_unit_vectors_are_counted(cache: Path, stores: Stores) -> None:
    def broken(table: pa.Table) -> pa.Table:
        vectors = embedding_matrix(table["embedding"]).copy()
        vectors[0], vectors[1] = np.nan, vectors[1] * 3
        at = table.schema.get_field_index("embedding")
        return table.set_column(at, "embedding", embedding_array(vectors))

    rewrite(stores["images"], broken)
    assert "1 embedding holds NaN" in faults(cache)
    assert "1 embedding does not have length 1" in faults(cache)


def test_a_file_of_another_data_set_or_encoder_is_found_in_its_place(cache: Path, stores: Stores) -> None:
    rewrite(stores["images"], lambda t: t, encoder="lite")
    assert "another store's file in this place, the images store of dataset 'w', encoder 'lite'" in faults(cache)
    shutil.copytree(cache / "text" / "dataset=w", cache / "text" / "dataset=x")
    found = faults(cache)
    assert "another store's file in this place, the text store of dataset 'w'" in found
    assert f"{ManifestStore(cache, 'x').file}: not there" in found


def test_stores_of_one_encoder_with_other_weights_are_named_together(cache: Path, stores: Stores) -> None:
    rewrite(stores["images"], lambda t: t, encoder_fingerprint="f" * 64)
    found = verify(cache).faults
    assert len(found) == 1
    assert "2 different weights" in found[0].text
    assert len(found[0].stores) == 3


def test_stores_of_an_earlier_manifest_are_out_of_date(cache: Path, project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "weaves", tmp_path / "weaves")
    picture((1, 2, 3), 99).save(tmp_path / "weaves" / "red weave" / "new.png")
    ingest("w", str(tmp_path / "weaves"), data=DataParams(), cache=cache)
    found = verify(cache).faults
    assert [fault.stores[0].name for fault in found] == ["images"]
    assert "out of date" in found[0].text


def test_files_that_are_no_stores_are_named_and_rests_are_notes(cache: Path, stores: Stores) -> None:
    folder = stores["images"].folder
    (folder / "part-1.parquet").write_bytes(stores["images"].file.read_bytes())
    odd = cache / "images" / "dataset=w" / "encoder=a 'b'; DROP" / "part-0.parquet"
    odd.parent.mkdir()
    odd.write_bytes(b"x")
    (folder / ".part-0.parquet.99999999.part").write_bytes(b"x")
    (folder / "notes.txt").write_text("mine")
    (cache / ".work" / "images-w-e" / "0123").mkdir(parents=True)
    (cache / ".work" / "images-w-e" / "0123" / "part-000000.parquet").write_bytes(b"x")
    report = verify(cache)
    assert {fault.text.split(": ")[0] for fault in report.faults} == {str(folder / "part-1.parquet"), str(odd)}
    notes = "\n".join(report.notes)
    assert "rest of a killed command" in notes
    assert "notes.txt: not a store" in notes
    assert "unfinished work, 1 parts done" in notes


def test_one_data_set_can_be_checked_alone(cache: Path, stores: Stores) -> None:
    shutil.copytree(cache / "prompts" / "dataset=w", cache / "prompts" / "dataset=x")
    assert verify(cache, "w").faults == []
    assert verify(cache, "x").faults
    with pytest.raises(UserError, match="no store of data set 'y'"):
        verify(cache, "y")


def test_an_empty_cache_is_one_clear_line(tmp_path: Path, command: Command) -> None:
    done = command("pipeline", "verify", cwd=tmp_path, code=1)
    mend = "pipeline ingest NAME --source SOURCE"
    assert done.stderr == f"error: cache: no store there yet: run `{mend}` first, or name another --cache\n"


def marks(cache: Path) -> dict[Path, tuple[int, int]]:
    return {store.file: (store.file.stat().st_ino, store.file.stat().st_mtime_ns) for store in stores_in(cache)}


@pytest.mark.parametrize("name", NAMES)
def test_fix_makes_a_damaged_store_again_byte_for_byte_and_touches_no_other(
    cache: Path, project: Path, stores: Stores, name: str
) -> None:
    whole, before = stores[name].file.read_bytes(), marks(cache)
    damage(stores[name], "truncated", stores["manifest"])
    found = fix(project, cache)
    assert (found["faults"], found["not_fixed"], len(found["fixed"])) == ([], [], 1)
    assert stores[name].file.read_bytes() == whole
    after = marks(cache)
    assert {file for file in after if after[file] != before[file]} == {stores[name].file}
    assert [path for path in cache.rglob("*") if path.is_file() and path.name != "part-0.parquet"] == []


def test_fix_mends_everything_at_once_missing_stores_too(cache: Path, project: Path, stores: Stores) -> None:
    whole = {name: store.file.read_bytes() for name, store in stores.items()}
    damage(stores["manifest"], "empty", stores["images"])
    stores["prompts"].file.unlink()
    edit(stores["text"], "class_id", 3)
    rewrite(stores["text-own"], lambda t: t.slice(1))
    damage(stores["images"], "no footer", stores["manifest"])
    found = fix(project, cache)
    assert found["faults"] == []
    assert len(found["fixed"]) == 5
    assert {name: store.file.read_bytes() for name, store in stores.items()} == whole


def test_fix_makes_again_what_a_changed_manifest_leaves_behind(cache: Path, project: Path, stores: Stores) -> None:
    other = project / "other.yaml"
    other.write_text((project / "params.yaml").read_text().replace("data: {w: {", "data: {w: {split: {seed: 2}, "))
    damage(stores["manifest"], "empty", stores["images"])
    before = marks(cache)
    found = fix(project, cache, params="other.yaml")
    assert found["faults"] == []
    after = marks(cache)
    changed = {file for file in after if after[file] != before[file]}
    assert changed == {stores["manifest"].file, stores["images"].file}, "text depends on the classes alone"


def test_fix_says_what_it_cannot_mend_and_keeps_it(cache: Path, project: Path, stores: Stores, tmp_path: Path) -> None:
    (project / "poor.yaml").write_text(f'datasets: [w]\nencoder: "open_clip:local-dir:{project / "clip"}"\n')
    edit(stores["prompts"], "text", "edited")
    stores["manifest"].file.write_bytes(b"")
    edited = stores["prompts"].file.read_bytes()
    found = fix(project, cache, params="poor.yaml")
    assert len(found["faults"]) == 2
    assert found["fixed"] == []
    lines = "\n".join(found["not_fixed"])
    assert "its source is unknown: run `pipeline ingest w --source SOURCE`" in lines
    assert f"{stores['prompts'].file}: not made again: {stores['manifest'].file} has to be mended first" in lines
    assert stores["prompts"].file.read_bytes() == edited
    rewrite_from = project / "cache" / stores["manifest"].file.relative_to(cache)
    shutil.copy(rewrite_from, stores["manifest"].file)
    found = fix(project, cache, params="poor.yaml")
    assert found["not_fixed"] == []
    rewrite(stores["prompts"], lambda rows: rows, file="/gone/sentences.json")
    edit(stores["prompts"], "text", "edited")
    command = "pipeline import-prompts --dataset w --name people --file /gone/sentences.json"
    assert (
        f"not there and not listed in the settings: run `{command}` with"
        in fix(project, cache, params="poor.yaml")["not_fixed"][0]
    )


def test_a_fix_that_fails_puts_the_damaged_store_back(cache: Path, project: Path, stores: Stores) -> None:
    (project / "gone.yaml").write_text(
        (project / "params.yaml").read_text().replace(str(project / "sentences.json"), str(project / "gone.json"))
    )
    edit(stores["prompts"], "text", "edited")
    edited = stores["prompts"].file.read_bytes()
    found = fix(project, cache, params="gone.yaml")
    assert "gone.json" in found["not_fixed"][0]
    assert len(found["not_fixed"]) == 1
    assert stores["prompts"].file.read_bytes() == edited
    assert not [path for path in cache.rglob(".*") if path.is_file()]


def test_fix_does_nothing_where_nothing_is_wrong(cache: Path, project: Path) -> None:
    before = marks(cache)
    assert fix(project, cache)["fixed"] == []
    assert marks(cache) == before
