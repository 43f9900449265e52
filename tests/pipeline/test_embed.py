"""Sentences and images to stores: complete, in order, repeatable, resumed after a kill, and asked with SQL."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import Command
from safetensors.torch import save_file

from pipeline.catalog import query
from pipeline.cli import embed as command_line
from pipeline.embed import embed_images, embed_text
from pipeline.encoders import load_encoder
from pipeline.encoders.base import Encoder
from pipeline.ingest import ingest
from pipeline.prompts.commands import pasteable, remake
from pipeline.prompts.importing import import_prompts
from pipeline.torchvision_mend import mend_torchvision
from pipeline.verify import verify
from stages import ImageStore, ManifestProvenance, ManifestStore, PromptProvenance, PromptStore, TextStore, UserError
from stages.params import DataParams, EmbedParams
from stages.stores.artifacts import embedding_matrix
from stages.stores.parts import Parts

EMBED = EmbedParams(batch=8, workers=0, part=10)
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def encoder_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small open_clip model with random weights, as a folder that open_clip reads."""
    mend_torchvision()
    import open_clip

    folder = tmp_path_factory.mktemp("tiny-clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**TINY)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return f"open_clip:local-dir:{folder}"


@pytest.fixture(scope="module")
def encoder(encoder_name: str) -> Encoder:
    return load_encoder(encoder_name, device="cpu")


@pytest.fixture
def cache(weaves: Path, tmp_path: Path) -> Path:
    (weaves / "red weave" / "bad.png").write_text("no picture")
    ingest("w", str(weaves), data=DataParams(), cache=tmp_path / "cache")
    sentences = {name.name: [f"a {name.name}, seen {k} times" for k in range(3)] for name in weaves.iterdir()}
    (tmp_path / "sentences.json").write_text(json.dumps(sentences))
    import_prompts("w", "people", tmp_path / "sentences.json", cache=tmp_path / "cache")
    return tmp_path / "cache"


def test_every_readable_image_is_embedded_as_the_encoder_alone_does(cache: Path, encoder: Encoder) -> None:
    from pipeline.images import open_rgb

    summary = embed_images("w", encoder, embed=EMBED, cache=cache)
    assert summary.rows == 48
    assert len(summary.unreadable) == 1
    table = ImageStore(cache, "w", encoder.name).read()
    rows = {r["image_id"]: r for r in ManifestStore(cache, "w").read().to_pylist()}
    root = Path(ManifestStore(cache, "w").provenance().root or "")
    vectors = embedding_matrix(table["embedding"])
    for image_id, class_id, split, vector in zip(
        *(table[c].to_pylist() for c in ("image_id", "class_id", "split")), vectors, strict=True
    ):
        row = rows[image_id]
        assert (class_id, split) == (row["class_id"], row["split"])
        alone = encoder.encode_images(encoder.preprocess(open_rgb(root / row["path"]))[None]).numpy()[0]
        assert np.allclose(vector, alone, atol=2e-3)


def test_a_killed_embedding_goes_on_without_losing_or_repeating_rows(
    cache: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_images("w", encoder, embed=EMBED, cache=cache)
    store = ImageStore(cache, "w", encoder.name)
    undisturbed = store.file.read_bytes()
    store.file.unlink()
    seen: list[int] = []
    whole = type(encoder).encode_images

    def dying(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if sum(seen) > 30:
            raise KeyboardInterrupt
        return whole(self, pixels)  # type: ignore[no-any-return, arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(encoder), "encode_images", dying)
        with pytest.raises(KeyboardInterrupt):
            embed_images("w", encoder, embed=EMBED, cache=cache)
    assert not store.exists()
    first = sum(seen[:-1])
    again: list[int] = []

    def counting(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        again.append(len(pixels))
        return whole(self, pixels)  # type: ignore[no-any-return, arg-type]

    monkeypatch.setattr(type(encoder), "encode_images", counting)
    embed_images("w", encoder, embed=EMBED, cache=cache)
    assert store.file.read_bytes() == undisturbed
    assert first + sum(again) <= 48 + 10, "at most one part is done again"
    assert not (cache / ".work").exists() or not any((cache / ".work").rglob("*.parquet"))


def test_embedding_again_does_nothing_until_an_input_changes(cache: Path, encoder: Encoder) -> None:
    assert not embed_images("w", encoder, embed=EMBED, cache=cache).skipped
    assert embed_images("w", encoder, embed=EMBED, cache=cache).skipped
    assert not embed_images("w", encoder, embed=EmbedParams(workers=0, precision="float32"), cache=cache).skipped


def test_what_a_command_left_that_was_killed_when_its_store_was_there_already_goes_with_the_next(
    cache: Path, encoder: Encoder
) -> None:
    embed_images("w", encoder, embed=EMBED, cache=cache)
    store = ImageStore(cache, "w", encoder.name)
    own, others = (Parts(store, store.provenance(), part_rows=rows) for rows in (1, EMBED.part))
    for parts in (own, others):
        parts.save(0, store.read())
    (store.work.parent / f".{store.work.name}.lock").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.embed.images._cut", lambda embed: (1, 1))
        assert embed_images("w", encoder, embed=EMBED, cache=cache).skipped
    assert [file.parent for file in (cache / ".work").rglob("*") if file.is_file()] == [others.folder]


def test_views_are_the_centre_crop_and_seeded_augmentations(cache: Path, encoder: Encoder) -> None:
    embed_images("w", encoder, embed=EMBED, cache=cache)
    store = ImageStore(cache, "w", encoder.name)
    crops = embedding_matrix(store.read()["embedding"])
    written = b""
    for workers in (0, 2):
        embed = EmbedParams(batch=8, workers=workers, part=10, views=2)
        summary = embed_images("w", encoder, embed=embed, cache=cache)
        assert (summary.rows, summary.views) == (48, 2)
        table = store.read()
        view = np.array(table["view"])
        assert view.tolist() == [0, 1, 2] * 48
        vectors = embedding_matrix(table["embedding"])
        assert np.abs(vectors[view == 0] - crops).max() < 2e-3
        assert (np.abs(vectors[view == 1] - vectors[view == 2]).max(axis=1) > 1e-3).all()
        written = written or store.file.read_bytes()
        assert store.file.read_bytes() == written, "the same whatever process decodes"
        store.file.unlink()
    embed_images("w", encoder, embed=EmbedParams(workers=0, views=2, seed=2), cache=cache)
    assert store.file.read_bytes() != written
    assert verify(cache).faults == []


def test_pictures_of_a_folder_are_views_and_augmentations_make_up_for_what_lacks(
    cache: Path, encoder: Encoder, tmp_path: Path
) -> None:
    paths = ManifestStore(cache, "w").read(["path", "error"]).to_pylist()
    sound = [row["path"] for row in paths if row["error"] is None]
    root = Path(ManifestStore(cache, "w").provenance().root or "")
    folder = tmp_path / "views"
    for place, count in ((sound[0], 3), (sound[1], 1)):
        own = folder / Path(place).with_suffix("")
        own.mkdir(parents=True)
        for k in range(count):
            shutil.copy(root / sound[-1 - k], own / f"{k}.png")
    embed = EMBED.model_copy(update={"views": 2, "views_from": str(folder)})
    embed_images("w", encoder, embed=EMBED.model_copy(update={"views": 2}), cache=cache)
    store = ImageStore(cache, "w", encoder.name)
    drawn = embedding_matrix(store.read()["embedding"]).reshape(48, 3, -1)
    assert not embed_images("w", encoder, embed=embed, cache=cache).skipped
    found = embedding_matrix(store.read()["embedding"]).reshape(48, 3, -1)
    assert embed_images("w", encoder, embed=embed, cache=cache).skipped
    ids = list(dict.fromkeys(store.read()["image_id"].to_pylist()))
    at = {place: ids.index(place) for place in sound}
    first, second, last = at[sound[0]], at[sound[1]], at[sound[-1]]
    assert np.abs(found[first, 1] - found[last, 0]).max() < 2e-3, "the picture, as its own centre crop"
    assert np.abs(found[second, 1] - found[last, 0]).max() < 2e-3
    assert np.abs(found[second, 2] - drawn[second, 2]).max() < 2e-3, "an augmentation for the picture that lacks"
    others = [row for row in range(48) if row not in (first, second)]
    assert np.abs(found[others] - drawn[others]).max() < 2e-3
    with pytest.raises(UserError, match="no picture of any image of w"):
        embed_images("w", encoder, embed=embed.model_copy(update={"views_from": str(tmp_path)}), cache=cache)
    with pytest.raises(UserError, match="say how many of the pictures are views"):
        embed_images("w", encoder, embed=embed.model_copy(update={"views": 0}), cache=cache)


def test_captions_questions_and_answers_are_embedded_with_the_templates(tmp_path: Path, encoder: Encoder) -> None:
    asked = [{"question_id": "q1", "question": "What is it?", "choices": None, "answers": ["bear", "bear", "a bear"]}]
    rows = [
        {"image_id": f"{k}.jpg", "path": f"{k}.jpg", "split": "train", "captions": [f"a bear, {k}", "a " * 10_000],
         "questions": asked if k == 1 else None}
        for k in range(3)
    ]  # fmt: skip
    store = ManifestStore(tmp_path, "bears")
    origin = ManifestProvenance(dataset="bears", content="", inputs={"classes": "none"})
    store.write(pa.Table.from_pylist(rows, schema=store.schema()), origin)
    assert embed_text("bears", encoder, data=DataParams(), embed=EMBED, cache=tmp_path)[0].rows == 3 * 2 + 1 + 2
    found = TextStore(tmp_path, "bears", encoder.name, "none")
    kinds = {row["prompt_id"]: (row["kind"], row["image_id"], row["text"]) for row in found.read().to_pylist()}
    assert kinds["caption-0.jpg-000"] == ("caption", "0.jpg", "a bear, 0")
    assert kinds["question-1.jpg-q1"] == ("question", "1.jpg", "What is it?")
    assert kinds["answer-1.jpg-q1-001"] == ("answer", "1.jpg", "a bear")
    assert found.provenance().inputs["manifest"] == store.provenance().content
    assert embed_text("bears", encoder, data=DataParams(), embed=EMBED, cache=tmp_path)[0].skipped


def test_templates_and_each_prompt_source_get_a_store_of_their_own(cache: Path, encoder: Encoder) -> None:
    data = DataParams(templates=["a photo of a {}.", "the {}."])
    embed_text("w", encoder, data=data, embed=EMBED, cache=cache)
    templates = TextStore(cache, "w", encoder.name, "none").read().to_pylist()
    assert len(templates) == 8
    assert {r["kind"] for r in templates} == {"template"}
    assert "the red weave." in {r["text"] for r in templates}
    people = TextStore(cache, "w", encoder.name, "people")
    assert len(people.read()) == 12
    assert people.provenance().llm == "people"


def test_sql_over_the_stores_compares_images_with_text(cache: Path, encoder: Encoder) -> None:
    embed_images("w", encoder, embed=EMBED, cache=cache)
    embed_text("w", encoder, data=DataParams(), embed=EMBED, cache=cache)
    names, found = query(
        cache, encoder.name,
        "SELECT m.class_name, avg(array_cosine_similarity(i.embedding, t.embedding)) AS cosine FROM images i "
        "JOIN manifest m USING (image_id) JOIN text t ON t.class_id = i.class_id AND t.kind = 'template' GROUP BY ALL",
    )  # fmt: skip
    assert names == ["class_name", "cosine"]
    assert len(found) == 4
    assert all(-1 <= cosine <= 1 for _, cosine in found)
    assert query(cache, encoder.name, "SELECT count(*) FROM prompts WHERE kept")[1] == [(12,)]


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("COPY (SELECT 1) TO 'out.csv'", "only SELECT"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO 'out.csv'", "only SELECT"),
        ("SELECT 1; DROP VIEW manifest", "expected one SQL statement"),
        ("CREATE TABLE x AS SELECT 1", "only SELECT"),
        ("ATTACH 'x.db'", "only SELECT"),
        ("SET enable_external_access = true", "only SELECT"),
        ("INSTALL httpfs", "only SELECT"),
        ("SELECT * FROM read_text('/etc/passwd')", "Permission Error"),
        ("SELECT * FROM nothing", "nothing"),
        ("SELEC 1", "syntax error"),
        ("", "expected one SQL statement"),
    ],
)
def test_sql_can_only_read_and_only_the_cache(cache: Path, sql: str, part: str) -> None:
    with pytest.raises(UserError, match=part) as caught:
        query(cache, "lite", sql)
    assert caught.value.exit_code == 2


def test_verify_passes_sound_stores_and_finds_what_does_not_belong(
    cache: Path, encoder: Encoder, weaves: Path, command: Command, tmp_path: Path
) -> None:
    embed_images("w", encoder, embed=EMBED, cache=cache)
    embed_text("w", encoder, data=DataParams(), embed=EMBED, cache=cache)
    report = verify(cache)
    assert (report.checked, report.faults) == (5, [])
    (weaves / "red weave" / "00.png").unlink()
    ingest("w", str(weaves), data=DataParams(), cache=cache)
    faults = "\n".join(fault.text for fault in verify(cache).faults)
    assert "different manifest stores" in faults
    done = command("pipeline", "verify", cwd=tmp_path, code=1)
    assert "1 fault" in done.stdout


def test_a_feature_store_travels_without_its_pixels(cache: Path, encoder: Encoder, tmp_path: Path) -> None:
    from pipeline.ingest.exported import export, import_images

    embed_images("w", encoder, embed=EMBED, cache=cache)
    export(cache, "w", encoder.name, tmp_path / "out")
    other = tmp_path / "other"
    ingest("w", str(tmp_path / "out"), data=DataParams(), cache=other)
    manifest = ManifestStore(other, "w").provenance()
    store = ImageStore(other, "w", encoder.name)
    assert import_images(store, str(tmp_path / "out"), encoder=encoder.name, manifest=manifest) == 48
    assert store.read().equals(ImageStore(cache, "w", encoder.name).read())
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.parquet").read_bytes().decode("latin-1").replace(
        encoder.name, ""
    )
    with pytest.raises(UserError, match="was embedded with"):
        import_images(ImageStore(other, "w", "lite"), str(tmp_path / "out"), encoder="lite", manifest=manifest)
    with pytest.raises(UserError, match="only embeddings"):
        embed_images("w", encoder, embed=EMBED, cache=other)


def test_commands_before_their_input_name_the_command_to_run_first(command: Command, tmp_path: Path) -> None:
    for args in (["embed-images"], ["embed-text"], ["generate-prompts"]):
        done = command("pipeline", *args, "--dataset", "w", cwd=tmp_path, code=1)
        assert "run `pipeline ingest w --source PATH` first" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_data_set_lists_the_known_ones_and_suggests_the_nearest(cache: Path) -> None:
    ingest("velvet", str(cache.parent / "weaves"), data=DataParams(), cache=cache)
    with pytest.raises(UserError, match=r"known: velvet, w; did you mean 'velvet'"):
        ManifestStore(cache, "velvt").read()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ('{"red weave": ["x"]}', "no sentence for 3 of 4 classes"),
        ("[]", "expected an object"),
        ('{"red weave": "x"}', "no sentence of any class could be kept"),
        ('{"red weave": 3}', "must be"),
        ('{"red weave": [""]}', "must be a list"),
        ("{", "not readable as JSON"),
    ],
)
def test_a_malformed_sentence_file_is_refused_and_the_old_store_stays(
    cache: Path, tmp_path: Path, content: str, part: str
) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=part):
        import_prompts("w", "people", tmp_path / "bad.json", cache=cache)
    assert query(cache, "lite", "SELECT count(*) FROM prompts")[1] == [(12,)]


def test_a_stale_source_is_left_out_with_its_mend_and_the_others_are_embedded(
    cache: Path, encoder: Encoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = json.loads((tmp_path / "sentences.json").read_text()) | {"pink weave": ["A pink weave."]}
    (tmp_path / "all of them.json").write_text(json.dumps(other))
    (tmp_path / "weaves" / "pink weave").mkdir()
    shutil.copy(next((tmp_path / "weaves" / "red weave").glob("0*.png")), tmp_path / "weaves" / "pink weave" / "x.png")
    ingest("w", str(tmp_path / "weaves"), data=DataParams(), cache=cache)
    import_prompts("w", "later", tmp_path / "all of them.json", cache=cache)
    with pytest.raises(UserError) as caught:
        command_line.embed_text(dataset="w", encoder=encoder.name, cache=cache)
    mend = f"pipeline import-prompts --dataset w --name people --file {tmp_path / 'sentences.json'}"
    assert f"run `{mend}`, then this again" in str(caught.value)
    assert "w: 13 sentences of later embedded" in capsys.readouterr().err
    assert not TextStore(cache, "w", encoder.name, "people").exists()
    import_prompts("w", "people", tmp_path / "all of them.json", cache=cache)
    done = embed_text("w", encoder, data=DataParams(), embed=EMBED, cache=cache)
    assert [(summary.llm, summary.rows, summary.fault) for summary in done][1:] == [
        ("later", 13, ""),
        ("people", 13, ""),
    ]
    origin = PromptStore(cache, "w", "people").provenance()
    assert pasteable(remake(origin)).endswith(f"--file '{tmp_path / 'all of them.json'}'")
    asked = PromptProvenance(dataset="w", content="", llm="a b", llm_fingerprint="server:a b", questions={"q": "{}?"})
    assert pasteable(remake(asked)) == "pipeline generate-prompts --dataset w --llm 'a b' --server URL"


# images that are away for a moment


@pytest.mark.parametrize("views", [0, 2])
def test_images_that_come_back_are_embedded_as_if_they_had_been_there(
    cache: Path, encoder: Encoder, weaves: Path, views: int
) -> None:
    embed = EmbedParams(batch=8, part=10, workers=0, views=views)
    store = ImageStore(cache, "w", encoder.name)
    embed_images("w", encoder, embed=embed, cache=cache)
    undisturbed = store.file.read_bytes()
    store.file.unlink()

    away = [weaves / "grey weave" / "03.png", weaves / "red weave" / "07.png"]
    for file in away:
        file.rename(file.with_suffix(".away"))
    (weaves / "blue weave" / "00.png").rename(weaves / "blue weave" / "whole")
    (weaves / "blue weave" / "00.png").write_bytes(b"half")
    first = embed_images("w", encoder, embed=embed, cache=cache)
    assert (first.rows, first.skipped) == (45, False)
    assert sorted(first.left_out) == [
        "blue weave/00.png: undecodable: not an image that can be read",
        "grey weave/03.png: missing: No such file or directory",
        "red weave/07.png: missing: No such file or directory",
    ]
    lines = "\n".join(fault.text for fault in verify(cache).faults)
    assert "2 images were missing when it was made" in lines
    assert "1 image was undecodable" in lines

    lacking = store.file.read_bytes()
    same = embed_images("w", encoder, embed=embed, cache=cache)
    assert (same.rows, same.skipped, same.left_out) == (45, True, first.left_out)
    assert store.file.read_bytes() == lacking

    away[0].with_suffix(".away").rename(away[0])
    second = embed_images("w", encoder, embed=embed, cache=cache)
    assert (second.rows, second.skipped, len(second.left_out)) == (46, False, 2)

    away[1].with_suffix(".away").rename(away[1])
    (weaves / "blue weave" / "whole").rename(weaves / "blue weave" / "00.png")
    assert embed_images("w", encoder, embed=embed, cache=cache).left_out == []
    assert store.file.read_bytes() == undisturbed
    assert verify(cache).faults == []


def test_too_many_images_away_is_a_failure_that_keeps_what_could_be_embedded(
    cache: Path, encoder: Encoder, weaves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weaves / "grey weave").rename(weaves.parent / "away")
    store = ImageStore(cache, "w", encoder.name)
    line = r"w: 12 of 48 images cannot be read \(12 missing; first: grey weave/.*data\.w\.max_missing allows \(0\.1\)"
    with pytest.raises(UserError, match=line):
        embed_images("w", encoder, embed=EMBED, cache=cache)
    assert not store.exists()
    (weaves.parent / "away").rename(weaves / "grey weave")
    whole, seen = type(encoder).encode_images, []

    def counting(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return whole(self, pixels)  # type: ignore[no-any-return, arg-type]

    monkeypatch.setattr(type(encoder), "encode_images", counting)
    assert embed_images("w", encoder, embed=EMBED, cache=cache).rows == 48
    assert sum(seen) < 48, "parts without a fault were kept"


def test_a_share_of_images_that_may_be_away_is_a_setting(cache: Path, encoder: Encoder, weaves: Path) -> None:
    (weaves / "grey weave").rename(weaves.parent / "away")
    summary = embed_images("w", encoder, embed=EMBED, cache=cache, max_missing=0.25)
    assert (summary.rows, len(summary.left_out)) == (36, 12)
    with pytest.raises(UserError, match="max_missing allows"):
        embed_images("w", encoder, embed=EMBED, cache=cache, max_missing=0.2)
