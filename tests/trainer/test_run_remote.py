"""`trainer run` with its features on an object store: the same numbers as from a folder, and the code the same."""

from pathlib import Path

import numpy as np
import pytest
from s3_server import Server, upload
from small_stores import make_stores
from typer.testing import CliRunner

from aape import open_features
from trainer.cli import app


def test_a_run_on_features_in_a_bucket_is_the_run_on_the_folder(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.at_hand(monkeypatch, tmp_path / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.stores.store.Store.part_rows", 20)  # 44 images: stores of many parts too
        make_stores(tmp_path / "cache")
    upload(tmp_path / "cache", s3)
    monkeypatch.chdir(tmp_path)
    found = []
    for features, results in ((str(tmp_path / "cache"), "here"), ("s3://bucket/some/cache", "there")):
        words = [
            "run",
            "--features",
            features,
            "--dataset",
            "w",
            "--encoder",
            "lite",
            "--results",
            results,
            "--shots",
            "2",
        ]
        words += ["--methods", "zero-shot,cupl,logistic", "--protocol", "few-shot", "--seeds", "1", "--no-report"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        folder = tmp_path / results
        kept = [file for file in folder.rglob("*") if file.name == "checkpoint.safetensors" or "metrics" in file.name]
        found.append({file.relative_to(folder): file.read_bytes() for file in kept})
    assert found[0] == found[1] != {}
    here, there = (open_features(place, dataset="w") for place in (tmp_path / "cache", "s3://bucket/some/cache"))
    assert np.array_equal(here.train.X, there.train.X)
