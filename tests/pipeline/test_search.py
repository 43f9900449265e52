"""`pipeline search`: exact against NumPy, FAISS against exact."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_cache import make_cache
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.encoders import load_encoder
from pipeline.encoders.base import Encoder
from pipeline.images import open_rgb
from pipeline.search import (
    ImageHit,
    check_encoder,
    contact_sheet,
    embed_query,
    exact,
    find_images,
    find_sentences,
    image_stores,
    sentence_stores,
)
from pipeline.search.approximate import Approximate
from stages import ImageStore, ManifestProvenance, ManifestStore, Provenance, TextStore, UserError
from stages.sheet import HEAD, MOST, SIDE, _runs
from stages.stores.artifacts import embedding_array, embedding_matrix


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Encoder]:
    return make_cache(tmp_path_factory.mktemp("search"))


def write_store(cache: Path, vectors: np.ndarray, *, splits: list[str] | None = None, views: int = 1) -> ImageStore:
    """A manifest without pixels and an image store with these vectors, in order, each with further random views."""
    n = len(vectors)
    splits = splits or ["train"] * n
    schema = ManifestStore.schema()
    names = [f"{i:06d}.png" for i in range(n)]
    rows = pa.Table.from_pylist(
        [
            {"image_id": i, "path": i, "class_id": 0, "class_name": "c", "split": s}
            for i, s in zip(names, splits, strict=True)
        ],
        schema=pa.schema([schema.field(f) for f in ("image_id", "path", "class_id", "class_name", "split")]),
    )
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(n, field.type))
    manifest = ManifestStore(cache, "g").write(
        rows.select(schema.names),
        ManifestProvenance(dataset="g", content="", class_names={0: "c"}),
    )
    noise = np.random.default_rng(9).normal(size=(n, views, vectors.shape[1]))
    noise[:, 0] = vectors
    flat = noise.reshape(n * views, vectors.shape[1])
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    store = ImageStore(cache, "g", "generated")
    columns = [
        pa.array(np.repeat(names, views).tolist()), pa.array(np.tile(np.arange(views), n).astype(np.int32)),
        pa.array(np.zeros(n * views, np.int32)), pa.array(np.repeat(splits, views).tolist()),
        pa.array(["generated"] * (n * views)), embedding_array(flat),
    ]  # fmt: skip
    origin = Provenance(
        store="images", dataset="g", content="", encoder="generated", width=vectors.shape[1],
        inputs={"manifest": manifest.content},
    )  # fmt: skip
    store.write(pa.table(columns, schema=store.schema(width=vectors.shape[1])), origin)
    return store


def clustered(rows: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around a hundred centres, as embeddings of pictures lie."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(100, width))[draw.integers(100, size=rows)] + 0.7 * draw.normal(size=(rows, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_exact_search_finds_what_sorting_all_cosines_finds(
    made: tuple[Path, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, encoder = made
    monkeypatch.setattr("stages.stores.store.ROW_GROUP", 7)  # several pieces
    stores = image_stores(cache, encoder.name)
    query = embed_query(encoder, text="a photo of a red weave")
    table = stores[0].read()
    cosines = embedding_matrix(table["embedding"]).astype(np.float64) @ query
    rows = [
        (round(-c, 5), row["image_id"])
        for c, row in zip(cosines, table.drop_columns(["embedding"]).to_pylist(), strict=True)
        if row["view"] == 0 and row["split"] == "test"
    ]
    hits = find_images(stores, query, top=5, split="test")
    assert [round(-hit.score, 5) for hit in hits] == [c for c, _ in sorted(rows)[:5]]
    assert {hit.image_id for hit in hits} <= {name for _, name in rows}
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert all((Path(hit.place).is_file(), hit.split) == (True, "test") for hit in hits)
    assert all(hit.image_id.startswith(hit.class_name) for hit in hits)
    assert len(find_images(stores, query, top=1000)) == 48, "every image once, whatever its views"


def test_an_image_finds_itself_and_a_sentence_its_own_text(made: tuple[Path, Encoder]) -> None:
    cache, encoder = made
    file = Path(ManifestStore(cache, "weaves").provenance().root or "") / "red weave" / "05.png"
    first = find_images(image_stores(cache, encoder.name, "weaves"), embed_query(encoder, image=file), top=1)[0]
    assert (first.image_id, round(first.score, 2)) == ("red weave/05.png", 1)
    texts = sentence_stores(cache, encoder.name)
    best = find_sentences(texts, embed_query(encoder, text="a blue weave, seen 2 times"), top=3)
    assert (best[0].text, best[0].llm, best[0].kind, best[0].class_name) == (
        "a blue weave, seen 2 times", "people", "prompt", "blue weave",
    )  # fmt: skip
    assert best[0].score == pytest.approx(1, abs=2e-3)
    assert {s.partitions["llm"] for s in texts} == {"none", "people"}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), rows=st.integers(1, 40), top=st.integers(1, 50), pieces=st.integers(1, 50))
def test_exact_search_equals_one_sort_on_any_store(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rows: int, top: int, pieces: int
) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-1, 2, size=(rows, 3)) + np.eye(3)[0] / 9  # many the same: ties keep the order of the store
    query = np.float32([0.5, 0.25, 0])  # products and sums are exact, in whatever order they are taken
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.stores.store.ROW_GROUP", pieces)
        store = write_store(tmp_path_factory.mktemp("ties"), vectors)
    found = exact.nearest_rows(store, query, top=top)
    scores = embedding_matrix(store.read()["embedding"]).astype(np.float32) @ query
    order = np.argsort(-scores, kind="stable")[:top]
    assert found["image_id"].to_pylist() == [f"{i:06d}.png" for i in order]
    assert np.array_equal(found["score"].to_numpy(), scores[order])


def test_rows_whose_embedding_is_not_a_number_are_never_found(tmp_path: Path) -> None:
    vectors = clustered(5, 4, 1)
    vectors[2] = np.nan
    store = write_store(tmp_path, vectors)
    assert len(exact.nearest_rows(store, np.float32([1, 0, 0, 0]), top=9)) == 4


def test_an_index_finds_nine_in_ten_of_the_nearest_ten(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cache", clustered(5000, 32, 1), views=2)
    queries = clustered(50, 32, 2).astype(np.float32)
    index = Approximate(store)
    right = 0
    for query in queries:
        near = exact.nearest_rows(store, query, top=10, keep=lambda t: t["view"].to_numpy() == 0)
        found = index.nearest_rows(query, top=10)
        right += len(set(near["image_id"].to_pylist()) & set(found["image_id"].to_pylist()))
        assert found["score"].to_pylist() == sorted(found["score"].to_pylist(), reverse=True)
    assert set(found["view"].to_pylist()) == {0}
    assert right >= 0.9 * 10 * len(queries)
    every = exact.nearest_rows(store, query, top=5000, keep=lambda t: t["view"].to_numpy() == 0)
    whole = dict(zip(every["image_id"].to_pylist(), every["score"].to_pylist(), strict=True))
    for row in found.to_pylist():
        assert row["score"] == pytest.approx(whole[row["image_id"]], abs=2e-3)
    assert Approximate(store).nearest_rows(query, top=10) == found, "built again, it finds the same"
    assert len(index.nearest_rows(query, top=9999)) == 5000, "all rows where all are wanted"


def test_an_index_of_a_rare_split_finds_it_whole(tmp_path: Path) -> None:
    vectors = clustered(2000, 16, 3)
    store = write_store(tmp_path / "cache", vectors, splits=["test"] * 5 + ["train"] * 1990 + ["val"] * 5)
    away = -vectors[:5].mean(0).astype(np.float32)  # where none of the split lies
    for split in ("test", "val"):
        found = Approximate(store, split=split).nearest_rows(away / np.linalg.norm(away), top=10)
        assert found["split"].to_pylist() == [split] * 5
    assert len(Approximate(store, split="none").nearest_rows(away, top=10)) == 0


def test_two_images_are_enough_for_an_index_and_of_none_nothing_is_found(tmp_path: Path) -> None:
    query = np.float32([1, 0, 0, 0])
    assert len(Approximate(write_store(tmp_path / "two", np.eye(2, 4))).nearest_rows(query, top=10)) == 2
    assert len(Approximate(write_store(tmp_path / "none", np.empty((0, 4)))).nearest_rows(query, top=10)) == 0


def test_torch_and_faiss_work_in_one_process_without_a_warning() -> None:
    code = (
        "import torch, faiss, numpy as np\n"
        "x = np.random.default_rng(0).normal(size=(2000, 32)).astype('f4')\n"
        "index = faiss.index_factory(32, 'IVF8,SQfp16'); index.train(x); index.add(x)\n"
        "torch.ones(500, 500) @ torch.ones(500, 500)\n"
        "assert index.search(x[:1], 1)[1][0, 0] == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_query_of_another_encoder_is_refused(made: tuple[Path, Encoder], tmp_path: Path) -> None:
    cache, encoder = made
    stores = image_stores(cache, encoder.name)
    other = load_encoder(encoder.name, device="cpu")
    other.fingerprint = "0" * 64
    check_encoder(stores, encoder)
    with pytest.raises(UserError, match=r"was embedded with .* the query with .* run `pipeline embed-images"):
        check_encoder(stores, other)
    with pytest.raises(UserError, match=r"no images store of encoder lite: run `pipeline embed-images` first \(known"):
        image_stores(cache, "lite")
    with pytest.raises(UserError, match="did you mean 'weaves'"):
        image_stores(cache, encoder.name, "weave")
    with pytest.raises(UserError, match="did you mean 'weaves'"):
        sentence_stores(cache, encoder.name, "weave")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match=r"bad\.png: cannot be read as a picture"):
        embed_query(encoder, image=tmp_path / "bad.png")


def test_a_search_without_the_manifest_names_the_manifest(made: tuple[Path, Encoder], tmp_path: Path) -> None:
    cache, encoder = made
    copy = shutil.copytree(cache, tmp_path / "copy")
    ManifestStore(copy, "weaves").file.unlink()
    for stores in (image_stores, sentence_stores):
        with pytest.raises(UserError, match=r"manifest.*is not there: run `pipeline ingest weaves"):
            stores(copy, encoder.name)


def test_stores_of_an_earlier_manifest_are_refused(made: tuple[Path, Encoder], tmp_path: Path) -> None:
    cache, encoder = made
    copy = shutil.copytree(cache, tmp_path / "copy")
    manifest = ManifestStore(copy, "weaves")
    manifest.write(manifest.read().slice(1), manifest.provenance())
    with pytest.raises(UserError, match="different manifest stores"):
        image_stores(copy, encoder.name)


def hit(rank: int, root: Path | None, path: str, class_name: str = "red weave") -> ImageHit:
    return ImageHit(rank, 0.5, "w", path, class_name, "train", str(root) if root else None, path)


def test_a_sheet_shows_every_image_and_says_which_cannot_be_read(weaves: Path, tmp_path: Path) -> None:
    (weaves / "bad.png").write_text("no picture")
    Image.new("RGB", (3000, 10), "blue").save(weaves / "wide.png")
    hits = [
        hit(1, weaves, "red weave/00.png"),
        hit(2, weaves, "bad.png"),
        hit(3, weaves, "../secret.png", "a" * 500 + "\x1b[2J\n猫🐈"),
        hit(4, weaves, "wide.png", ""),
        hit(5, None, "0.png"),
        hit(6, weaves, "gone\x1b.png"),
    ]
    file = tmp_path / "sheets" / "s.png"
    unread = contact_sheet(
        hits, file, title="x" * 1000 + "\n", notes=["note\x00"], asked=weaves / "red weave" / "00.png"
    )
    assert [line.split(": ")[0].removeprefix(f"{weaves}/") for line in unread] == [
        "bad.png", "../secret.png", "0.png", "gone\\x1b.png",
    ]  # fmt: skip
    assert all(line.isprintable() for line in unread)
    sheet = open_rgb(file)
    assert sheet.size[0] < 1200
    red = np.asarray(sheet)[HEAD + SIDE // 2, 16 + SIDE // 2].astype(int)
    assert red[0] > red[1] + 50, "the first cell shows the red weave"
    assert [p.name for p in file.parent.iterdir()] == ["s.png"]


def test_a_sheet_of_a_thousand_hits_stays_a_picture_that_can_be_opened(weaves: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.png"
    contact_sheet([hit(i, weaves, "red weave/00.png") for i in range(1, 1001)], file, title="many")
    assert open_rgb(file).size[1] < (MOST // 10 + 1) * 300


def typed(*args: object) -> Result:
    """Run `pipeline` in this process, which has the heavy imports behind it."""
    done = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0
    return done


def test_the_command_prints_hits_and_writes_the_sheet(made: tuple[Path, Encoder], tmp_path: Path) -> None:
    cache, encoder = made
    sheet = tmp_path / "s.png"
    common = ["--encoder", encoder.name, "--cache", cache, "--device", "cpu"]
    done = typed("search", "a photo of a red weave", *common, "--top", 3, "--json", "--sheet", sheet)
    hits = json.loads(done.stdout)
    query = embed_query(encoder, text="a photo of a red weave")
    mine = find_images(image_stores(cache, encoder.name), query, top=3)
    assert [h["image_id"] for h in hits] == [h.image_id for h in mine]
    assert list(hits[0]) == ["rank", "score", "dataset", "image_id", "class_name", "split", "path"]
    assert Path(hits[0]["path"]).is_file()
    assert open_rgb(sheet).size[0] > 3 * SIDE
    assert f"wrote {sheet}" in done.stderr
    first = ["--image", hits[0]["path"], "--split", hits[0]["split"]]
    done = typed("search", *first, *common, "--approximate", "--csv")
    assert next(csv.DictReader(io.StringIO(done.stdout)))["score"].startswith(("0.99", "1.0"))
    done = typed("search", "a red weave, seen 1 times", *common, "--to", "prompts")
    assert "a red weave, seen 1 times" in done.stdout.splitlines()[2]


def test_a_data_set_without_pixels_is_searched_and_the_sheet_left_out(
    made: tuple[Path, Encoder], tmp_path: Path
) -> None:
    cache, encoder = made
    out, other = tmp_path / "out", tmp_path / "other"
    common = ["--encoder", encoder.name, "--cache", other]
    typed("export-features", "--dataset", "weaves", "--to", out, "--encoder", encoder.name, "--cache", cache)
    typed("ingest", "weaves", "--source", out, "--cache", other)
    typed("embed-images", "--dataset", "weaves", *common)
    done = typed("search", "a red weave", *common, "--sheet", tmp_path / "s.png")
    assert len(done.stdout.splitlines()) == 2 + 10
    assert "no sheet: the images found came without image files" in done.stderr
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ([], "one of them"),
        ([" "], "one of them"),
        (["x", "--image", "y.png"], "one of them"),
        (["x", "--split", "tset"], "did you mean 'test'"),
        (["x", "--to", "prompts", "--sheet", "s.png"], "are for images"),
        (["x", "--sheet", "s.jpg"], "must end in .png"),
        (["--image", "s.png", "--sheet", "s.png"], "name another file"),
        (["x", "--json", "--csv"], "not both"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_loaded(
    args: list[str], part: str, tmp_path: Path, command: Command
) -> None:
    done = command("pipeline", "search", *args, cwd=tmp_path, code=2)
    assert part in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_text_stores_without_images_can_be_searched(made: tuple[Path, Encoder], tmp_path: Path) -> None:
    cache, encoder = made
    copy = shutil.copytree(cache, tmp_path / "copy")
    shutil.rmtree(copy / "images")
    hits = find_sentences(sentence_stores(copy, encoder.name, "weaves"), embed_query(encoder, text="x"), top=100)
    rows = sum(len(TextStore(cache, "weaves", encoder.name, s).read()) for s in ("none", "people"))
    assert len(hits) == rows


def test_names_in_every_script_stand_on_a_sheet_in_a_font_that_has_them(weaves: Path, tmp_path: Path) -> None:
    from stages.fonts import OWN

    names = ["中文类别 weave", "cat 🐈", "ёж", "قطة"]
    assert [family for family, _ in _runs(names[0])] == ["Noto Sans CJK SC", OWN]
    assert "".join(piece for _, piece in _runs("".join(names))) == "".join(names)
    hits = [hit(i, weaves, "red weave/00.png", name) for i, name in enumerate(names, 1)]
    contact_sheet(hits, tmp_path / "s.png", title=f"{len(hits)} images like 中文")
    drawn = np.asarray(open_rgb(tmp_path / "s.png"))[HEAD + SIDE : HEAD + SIDE + 22]
    pieces = [drawn[:, 16 + i * (SIDE + 16) : 16 + i * (SIDE + 16) + 60].tobytes() for i in range(4)]
    assert len(set(pieces)) == 4, "boxes would be alike"
