"""The shipped photographs with captions: whole, attributed, and taken in with one command."""

import csv
from pathlib import Path

from conftest import ROOT, Command

from stages import ImageStore, ManifestStore

COCO = ROOT / "examples" / "coco"


def test_the_shipped_photographs_come_in_with_captions_questions_and_attributions(
    typed: Command, tmp_path: Path
) -> None:
    done = typed("pipeline", "ingest", "coco-small", "--source", COCO, cwd=tmp_path)
    assert "755 captions, 31 questions" in done.stderr
    assert "coco-small: no classes to ask about" in (
        typed("pipeline", "generate-prompts", "--dataset", "coco-small", cwd=tmp_path).stderr
    )
    assert (tmp_path / "cache" / "prompts" / "dataset=coco-small").is_dir(), "DVC looks for what the command leaves"
    typed("pipeline", "embed-images", "--dataset", "coco-small", cwd=tmp_path)
    rows = ManifestStore(tmp_path / "cache", "coco-small").read(["image_id", "captions"]).to_pylist()
    assert len(rows) == 151
    assert all(len(row["captions"]) == 5 for row in rows)
    assert ImageStore(tmp_path / "cache", "coco-small", "lite").embeddings().shape == (151, 1280)
    with (COCO / "attribution.csv").open() as file:
        named = {row["image"]: row for row in csv.DictReader(file)}
    assert {Path(row["image_id"]).name for row in rows} == set(named)
    assert all(row["license"] and row["flickr_url"].startswith("http") for row in named.values())
    assert sum(file.stat().st_size for file in COCO.iterdir()) < 1_000_000
