"""Every command of docs/sources.md is run on sources laid out as it says."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, ROOT, picture
from typer.testing import CliRunner

from pipeline.cli import app
from stages import UserError

datasets = pytest.importorskip("datasets")
COMMANDS = re.findall(r"^pipeline (ingest .*)$", (ROOT / "docs/sources.md").read_text(), flags=re.MULTILINE)


def names(weaves: Path) -> list[tuple[str, str]]:
    return [(p.relative_to(weaves).as_posix(), p.parent.name) for p in sorted(weaves.rglob("*.png"))]


def lay_out(weaves: Path, home: Path) -> None:
    """The sources that the document names, in one folder."""
    import io
    import tarfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = names(weaves)
    shutil.copytree(weaves, home / "photographs")
    shutil.copytree(weaves, home / "images")
    for file, header in (("birds.csv", "image,class"), ("species.csv", "Photo,Species")):
        (home / file).write_text("\n".join([header, *(",".join(row) for row in rows)]))
    held = {"image": [(weaves / path).read_bytes() for path, _ in rows], "label": [name for _, name in rows]}
    pq.write_table(pa.table(held), home / "tiles.parquet", row_group_size=10)
    shutil.copytree(weaves, home / "caltech-101")
    split = {s: [[path, sorted(COLOURS).index(name), name] for path, name in rows[i::3]] for i, s in
             enumerate(("train", "val", "test"))}  # fmt: skip
    (home / "caltech-101/split_zhou_Caltech101.json").write_text(json.dumps(split))
    (home / "shards").mkdir()
    for archive, part in (("train", rows[::3]), ("part-000", rows[1::3]), ("part-001", rows[2::3])):
        with tarfile.open(home / f"shards/{archive}.tar", "w") as tar:
            for i, (path, name) in enumerate(part):
                for suffix, data in ((".png", (weaves / path).read_bytes()), (".cls", name.encode())):
                    info = tarfile.TarInfo(f"{i:04d}{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    shutil.make_archive(str(home / "pets"), "zip", weaves)
    vectors = np.random.default_rng(0).normal(size=(len(rows), 8))
    np.savez(home / "features.npz", embedding=vectors, label=np.array([name for _, name in rows]))
    for i, (path, name) in enumerate(rows):
        (home / f"web/{i % 2:05d}").mkdir(parents=True, exist_ok=True)
        shutil.copy(weaves / path, home / f"web/{i % 2:05d}/{i % 2:05d}{i:04d}.png")
        (home / f"web/{i % 2:05d}/{i % 2:05d}{i:04d}.txt").write_text(f"A {name}.")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(COLOURS))})
    found = {"image": [str(weaves / path) for path, _ in rows], "label": [name for _, name in rows]}
    datasets.Dataset.from_dict(found, features=features).save_to_disk(home / "saved")
    for year_split in ("train2017", "val2017"):
        (home / "coco" / year_split).mkdir(parents=True)
        picture((9, 9, 9), 0).save(home / f"coco/{year_split}/0001.jpg")
        content = {"images": [{"id": 1, "file_name": "0001.jpg"}], "annotations": [{"image_id": 1, "caption": "Grey."}]}
        (home / "coco/annotations").mkdir(exist_ok=True)
        (home / f"coco/annotations/captions_{year_split}.json").write_text(json.dumps(content))
    picture((9, 9, 9), 0).save(home / "0001.jpg")
    document = (ROOT / "docs/sources.md").read_text()
    for file, header in (("captions.csv", "image,caption"), ("questions.csv", "image,question")):
        (home / file).write_text(document[document.index(f"```\n{header}") + 4 :].split("```")[0])
    (home / "vqa/val2014").mkdir(parents=True)
    shutil.copy(home / "0001.jpg", home / "vqa/val2014/COCO_val2014_000000000001.jpg")
    asked = {"questions": [{"question_id": 1, "image_id": 1, "question": "What?"}], "data_subtype": "val2014"}
    (home / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps(asked))
    answered = {"annotations": [{"question_id": 1, "answers": [{"answer": "grey"}]}]}
    (home / "vqa/v2_mscoco_val2014_annotations.json").write_text(json.dumps(answered))
    for file, header in (("labels.csv", "image,labels"), ("indicators.csv", "image,car")):
        (home / file).write_text(document[document.index(f"```\n{header}") + 4 :].split("```")[0])
    (home / "objects/annotations").mkdir(parents=True)
    (home / "VOC2007/Annotations").mkdir(parents=True)
    (home / "VOC2007/JPEGImages").mkdir()
    boxes: dict[str, list[dict[str, object]]] = {"images": [], "categories": [], "annotations": []}
    boxes["categories"] = [{"id": i, "name": name} for i, name in enumerate(("car", "bus"))]
    for i, name in enumerate(("street", "field", "road")):
        for folder in (home, home / "objects", home / "VOC2007/JPEGImages"):
            picture((9, 9, 9), i).save(folder / f"{name}.jpg")
        boxes["images"].append({"id": i, "file_name": f"{name}.jpg"})
        boxes["annotations"] += [{"image_id": i, "category_id": k} for k in range(i)]
        objects = "".join(f"<object><name>{('car', 'bus')[k]}</name></object>" for k in range(i))
        text = f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        (home / f"VOC2007/Annotations/{name}.xml").write_text(text)
    (home / "objects/annotations/instances_val2017.json").write_text(json.dumps(boxes))
    (home / "examples").mkdir()
    (home / "examples/caltech101").symlink_to(ROOT / "examples/caltech101")


@pytest.mark.timeout(1800)
def test_every_command_of_the_document_works(weaves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    lay_out(weaves, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 15
    for line in COMMANDS:
        words = [word.strip('"') for word in line.split()]
        done = CliRunner().invoke(app, [*words, "--json"])
        if "hf:uoft-cs" in line:
            assert isinstance(done.exception, UserError), "the tests have no hub"
            continue
        assert done.exception is None, f"{line}: {done.exception}"
        summary = json.loads(done.stdout)[0]
        assert sum(summary["images"].values()) > 0, line
        assert not summary["unreadable"], line
        assert summary["classes"] or summary["captions"] or summary["questions"], line
