"""`pipeline audit` finds what was planted and says what it cannot look at; `pipeline ingest` takes its lists."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import COLOURS, Command, picture
from PIL import Image, ImageFilter

from pipeline.audit import audit
from pipeline.audit.classes import confusable, imbalance
from pipeline.audit.labels import held_out
from pipeline.audit.measures import measure
from pipeline.audit.neighbours import nearest
from stages import ImageProvenance, ImageStore, ManifestStore
from stages.stores.artifacts import embedding_array

WIDTH = 12
ROOT = Path(__file__).parents[2]


def embed(cache: Path, dataset: str, vectors: dict[str, np.ndarray]) -> None:
    """An image store of made-up embeddings, as an encoder called `made` would have written it."""
    manifest = ManifestStore(cache, dataset)
    origin = manifest.provenance()
    rows = [row for row in manifest.read().to_pylist() if row["error"] is None]
    matrix = np.stack([vectors[row["image_id"]] for row in rows])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    store = ImageStore(cache, dataset, "made")
    table = pa.table(
        {
            "image_id": [row["image_id"] for row in rows],
            "view": pa.array([0] * len(rows), pa.int32()),
            "class_id": pa.array([row["class_id"] for row in rows], pa.int32()),
            "split": [row["split"] for row in rows],
            "encoder_name": ["made"] * len(rows),
            "embedding": embedding_array(matrix.astype(np.float32)),
        }
    )
    inputs = {"manifest": origin.content, "classes": origin.inputs["classes"]}
    store.write(
        table,
        ImageProvenance(
            dataset=dataset, content="", inputs=inputs, encoder="made", encoder_fingerprint="f", width=WIDTH
        ),
    )


def cluster(label: int, seed: int) -> np.ndarray:
    return np.eye(WIDTH)[label] * 4 + np.random.default_rng(seed).normal(size=WIDTH)


@pytest.fixture
def project(tmp_path: Path, typed: Command) -> Path:
    """Three colours with planted faults, embedded by what they truly show."""
    vectors: dict[str, np.ndarray] = {}
    for label, (name, colour) in enumerate(list(COLOURS.items())[:3]):
        for split, count in (("train", 16), ("test", 4)):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                seed = 1000 * label + 100 * (split == "test") + i
                picture(colour, seed).save(tmp_path / "set" / split / name / f"{i:02d}.png")
                vectors[f"{split}/{name}/{i:02d}.png"] = cluster(label, seed)
    here = tmp_path / "set"
    green, blue, red = list(COLOURS)[:3]
    (here / f"train/{blue}/leak.png").write_bytes((here / f"test/{blue}/00.png").read_bytes())
    vectors[f"train/{blue}/leak.png"] = vectors[f"test/{blue}/00.png"]
    Image.open(here / f"train/{red}/00.png").save(here / f"train/{green}/twice.bmp")
    vectors[f"train/{green}/twice.bmp"] = vectors[f"train/{red}/00.png"]
    picture(COLOURS[blue], 5001).save(here / f"train/{green}/wrong.png")
    vectors[f"train/{green}/wrong.png"] = cluster(1, 5001)
    picture(COLOURS[blue], 5002).save(here / f"test/{green}/wrong too.png")
    vectors[f"test/{green}/wrong too.png"] = cluster(1, 5002)
    picture((9, 250, 240), 5003).save(here / f"train/{red}/alien.png")
    vectors[f"train/{red}/alien.png"] = -np.eye(WIDTH)[:3].sum(0) * 3 + np.eye(WIDTH)[9] * 5
    Image.new("RGB", (48, 48), (7, 80, 90)).save(here / f"train/{red}/blank.png")
    picture((5, 5, 5), 77).point([value // 8 for value in range(256)] * 3).save(here / f"test/{red}/dark.png")
    picture(COLOURS[red], 78).resize((9, 9)).save(here / f"train/{red}/tiny.png")
    picture(COLOURS[red], 79).filter(ImageFilter.GaussianBlur(4)).save(here / f"train/{red}/blurred.png")
    (here / f"train/{red}/broken.png").write_bytes(b"no picture")
    for name in ("train/{}/blank.png", "test/{}/dark.png", "train/{}/tiny.png", "train/{}/blurred.png"):
        vectors[name.format(red)] = cluster(2, len(name))
    typed("pipeline", "ingest", "set", "--source", "set", cwd=tmp_path)
    embed(tmp_path / "cache", "set", vectors)
    return tmp_path


def listed(file: Path) -> dict[str, list[dict[str, str]]]:
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(row["kind"] for row in rows)}


def test_what_was_planted_is_found_each_by_its_kind_and_test_labels_are_not_judged(
    project: Path, typed: Command
) -> None:
    said = typed("pipeline", "audit", "--out", "audit", "--encoder", "made", cwd=project)
    found = listed(project / "audit/audit.csv")
    first = {kind: rows[0]["image_id"].partition("/")[2] for kind, rows in found.items()}
    assert first | {"wrong-label": ""} == {
        "same-file": "blue weave/leak.png", "same-pixels": "green weave/twice.bmp", "wrong-label": "",
        "unreadable": "red weave/broken.png", "outlier": "red weave/alien.png", "blank": "red weave/blank.png",
        "tiny": "red weave/tiny.png", "dark": "red weave/dark.png", "blurred": "red weave/blurred.png",
    }  # fmt: skip
    wrong = {row["image_id"]: row for row in found["wrong-label"]}
    assert "train/green weave/wrong.png" in wrong
    assert wrong["train/green weave/wrong.png"]["suggested"] == "blue weave"
    assert wrong["train/green weave/wrong.png"]["other_class_name"] == "blue weave"
    assert not any(image_id.startswith("test/") for image_id in wrong), "labels of the test split are not looked at"
    assert found["same-file"][0]["other_split"] == "test", "what leaves is the training image"
    assert "those of test are not judged" in said.stderr
    report = json.loads((project / "audit/audit.json").read_text())
    assert {row["kind"] for row in report["findings"]} == set(found)
    assert report["findings"][0]["action"] is None
    assert (project / "audit/sheet-wrong-label.png").is_file()


def test_the_lists_filled_in_are_what_ingest_takes_and_the_next_audit_does_not_ask_again(
    project: Path, typed: Command
) -> None:
    typed("pipeline", "audit", "--out", "audit", "--encoder", "made", cwd=project)
    with (project / "audit/audit.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        if row["image_id"] == "train/green weave/wrong.png" and row["kind"] == "wrong-label":
            row["label"] = "blue weave"
        if row["kind"] == "outlier":
            row["action"] = "confirm"
        if row["kind"] == "tiny":
            row["action"] = "exclude"
    with (project / "audit/audit.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    line = ["--labels", "audit/audit.csv", "--exclude", "audit/exclude-same-file.csv"]
    said = typed("pipeline", "ingest", "set", "--source", "set", *line, cwd=project).stderr
    assert "audit.csv: 1 image has another label" in said
    assert "exclude-same-file.csv: 1 image is left out" in said
    assert ManifestStore(project / "cache", "set").read(where={"image_id": ["train/blue weave/leak.png"]}).num_rows == 0
    again = typed("pipeline", "audit", "--encoder", "made", "--json", cwd=project, code=1)
    assert "run the commands after `pipeline ingest` again" in again.stderr, "embeddings of another manifest"
    (project / "cache/images/dataset=set/encoder=made/part-0.parquet").unlink()
    report = json.loads(typed("pipeline", "audit", "--encoder", "made", "--json", cwd=project).stdout)
    assert {row["kind"] for row in report["findings"]} == {"same-pixels", "unreadable", "blank", "dark", "blurred"}
    assert any("no embeddings of made" in note for note in report["notes"])
    lost = typed("pipeline", "audit", "--out", "audit", cwd=project, code=1)
    assert "audit.csv: set was ingested with it, and it is not written over" in lost.stderr
    (project / "audit/audit.csv").rename(project / "filled.csv")
    lost = typed("pipeline", "audit", "--out", "audit", cwd=project, code=1)
    assert "exclude-same-file.csv: set was ingested with it" in lost.stderr


def test_a_set_of_one_picture_and_a_set_without_classes_are_no_trouble(tmp_path: Path, typed: Command) -> None:
    for i in range(24):
        (tmp_path / "same" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture((90, 90, 90), 1).save(tmp_path / "same" / "ab"[i % 2] / f"{i}.png")
    typed("pipeline", "ingest", "same", "--source", "same", cwd=tmp_path)
    embed(tmp_path / "cache", "same", {f"{'ab'[i % 2]}/{i}.png": np.ones(WIDTH) for i in range(24)})
    report = audit(tmp_path / "cache", "same", "made")
    assert any("every image has the same embedding" in note for note in report.notes)
    found = report.findings
    assert {finding.kind for finding in found} == {"same-file"}
    assert len(found) == 19, "all but those in the class and split of the one that stays"
    (tmp_path / "captions.csv").write_text("image,caption\na/0.png,grey\nb/1.png,grey too\n")
    typed("pipeline", "ingest", "said", "--source", "captions.csv", "--images", "same", cwd=tmp_path)
    embed(tmp_path / "cache", "said", {"a/0.png": np.ones(WIDTH), "b/1.png": np.ones(WIDTH)})
    report = audit(tmp_path / "cache", "said", "made")
    assert any("no classes to tell apart" in note for note in report.notes)
    assert report.classes == []


def test_a_wrong_label_is_less_probable_than_right_ones_and_a_lonely_one_is_not_judged() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 25)
    vectors = (np.eye(32)[labels] * 6 + rng.normal(size=(100, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    given = labels.copy()
    wrong = rng.permutation(100)[:6]
    given[wrong] = (labels[wrong] + 1) % 4
    said = held_out(np.concatenate([vectors, -vectors[:1]]), np.append(given, 4), 5)
    own = said.probabilities[np.arange(100), given]
    assert set(np.argsort(own)[:6]) == set(wrong)
    assert said.confident[wrong].all()
    assert not said.judged[100]
    assert said.judged[:100].all()
    assert np.allclose(said.probabilities[:100].sum(1), 1)


def test_copies_of_a_picture_do_not_vouch_for_each_other() -> None:
    labels = np.repeat(np.arange(2), 20)
    vectors = (np.eye(8)[labels] * 3 + np.random.default_rng(0).normal(size=(40, 8))).astype(np.float32)
    vectors[:10] = vectors[30]  # ten copies of a picture of the second class, labelled with the first
    alone = held_out(vectors, labels, 2)
    together = held_out(vectors, labels, 2, copies=[0] * 10 + list(range(10, 40)))
    assert together.probabilities[0, 0] < alone.probabilities[0, 0]


def test_nearest_images_are_those_of_all_products() -> None:
    vectors = np.random.default_rng(1).normal(size=(2100, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    products = vectors @ vectors.T
    np.fill_diagonal(products, -9)
    found = nearest(vectors, 3)
    assert np.allclose(found.cosine, -np.sort(-products, axis=1)[:, :3], atol=1e-6)
    assert nearest(vectors[:2], 5).index.tolist() == [[1], [0]]
    assert nearest(vectors[:1], 5).index.shape == (1, 0)


def test_classes_too_alike_and_too_small_are_named() -> None:
    assert [each.class_name for each in imbalance({"a": 30, "b": 30, "c": 2, "d": 95})] == ["c", "d"]
    assert imbalance({"a": 0, "b": 0}) == []
    labels = np.repeat(np.arange(3), 10)
    shares = np.eye(3)[labels] + 0.1
    shares[:5, 1] = 3  # half of the first class looks like the second
    found = confusable(["a", "b", "c"], labels, shares, None, None)
    assert [(each.class_name, each.other_class_name, each.by_images) for each in found] == [("a", "b", 0.25)]


def test_a_sharp_picture_is_sharper_than_its_blurred_self_at_any_size() -> None:
    for size in (48, 600):
        sharp = picture((90, 120, 200), 3, size)
        assert measure(sharp).sharpness > 2 * measure(sharp.filter(ImageFilter.GaussianBlur(size / 30))).sharpness
    assert measure(Image.new("RGB", (2, 1))).sharpness == 0


def test_the_script_of_the_documents_plants_scores_and_decides(
    tmp_path: Path, typed: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 20), ("test", 4)):
        for label, (name, colour) in enumerate(COLOURS.items()):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(count):
                picture(colour, 500 * label + i + 100 * (split == "test")).save(
                    tmp_path / "set" / split / name / f"{i}.png"
                )
    main = runpy.run_path(str(ROOT / "examples" / "planted.py"))["main"]
    folder = tmp_path / "out"
    kinds = ["wrong-label", "same-file", "near-duplicate", "dark", "blurred", "tiny", "blank", "unreadable"]
    shares = [word for kind in kinds for word in (f"--{kind}", "0.025")]
    main(["plant", str(tmp_path / "set"), str(folder), *shares, "--seed", "3"])
    assert "16 faults planted among 80 training images" in capsys.readouterr().out
    typed("pipeline", "ingest", "planted", "--source", folder / "images", cwd=tmp_path)
    typed("pipeline", "audit", "--dataset", "planted", "--out", folder / "audit", cwd=tmp_path)
    main(["score", str(folder)])
    out = capsys.readouterr().out
    for kind in ("same-file", "tiny", "blank", "unreadable"):
        assert f"| {kind} | 2 | 2 | 2 | 1.00 | 1.00 |" in out
    main(["decide", str(folder)])
    assert "0 decisions" in capsys.readouterr().out, "without embeddings no label is doubted"
