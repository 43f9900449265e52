"""A checkpoint comes back as it went, or is refused in one line."""

import json
import os
from pathlib import Path

import pytest
import torch

from stages.errors import UserError
from stages.training import TrainParams
from tests.trainer.small_tasks import WIDTH, small_task, unit
from trainer.checkpoint import _digest, load_checkpoint, save_checkpoint
from trainer.methods import FITS_ALONE, methods

SETTINGS = TrainParams.model_validate(
    {"hidden": 8, "heads": 2, "head_width": 6, "feed_forward": 8, "aggregator_steps": 2, "epochs": 3, "lr": 0.05}
)
PROVENANCE = {"encoder": "lite", "encoder_fingerprint": "ab" * 32, "width": WIDTH, "dataset": "small", "seed": 1}
TASK = small_task()


def saved(folder: Path, name: str = "aape") -> Path:
    predictor = methods([name], settings=SETTINGS)[0].fit(TASK, seed=1)
    save_checkpoint(folder, predictor, TASK.text, provenance=PROVENANCE)
    return folder


@pytest.mark.parametrize("name", list(FITS_ALONE))
def test_every_predictor_comes_back_with_the_same_scores(tmp_path: Path, name: str) -> None:
    predictor = methods([name], settings=SETTINGS)[0].fit(TASK, seed=1)
    save_checkpoint(tmp_path / "new" / "folder", predictor, TASK.text, provenance=PROVENANCE)
    found = load_checkpoint(tmp_path / "new" / "folder")
    x = unit(7, WIDTH, seed=3)
    torch.testing.assert_close(found.predictor.logits(x, found.text), predictor.logits(x, TASK.text))
    assert found.text.names == TASK.text.names
    assert found.provenance == PROVENANCE


def test_the_same_training_gives_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "1"), saved(tmp_path / "2")
    assert sorted(p.name for p in first.iterdir()) == ["checkpoint.json", "checkpoint.safetensors"]
    assert all((first / p.name).read_bytes() == p.read_bytes() for p in second.iterdir())


def test_another_encoder_or_width_is_refused(tmp_path: Path) -> None:
    found = load_checkpoint(saved(tmp_path))
    found.require_encoder(name="lite", fingerprint="ab" * 32, width=WIDTH)
    with pytest.raises(
        UserError, match=r"checkpoint.json: made with encoder lite \(abababababab\), and the lite at hand is cdcd"
    ):
        found.require_encoder(name="lite", fingerprint="cd" * 32, width=WIDTH)
    with pytest.raises(
        UserError, match="made with encoder lite, 24 wide, and ViT is 512 wide: use lite or train again"
    ):
        found.require_encoder(name="ViT", fingerprint="ab" * 32, width=512)


def test_a_missing_checkpoint_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint.json is missing; run `trainer run` first"):
        load_checkpoint(tmp_path)


def _cut_tensors(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _cut_record(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text()[:-30])


def _edit(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace("class 0", "class 9"))


def _drop_key(folder: Path) -> None:
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    del content["names"]
    path.write_text(json.dumps(content))


def _mix(folder: Path) -> None:
    predictor = methods(["aape"], settings=SETTINGS)[0].fit(TASK, seed=2)
    save_checkpoint(folder / "other", predictor, TASK.text, provenance=PROVENANCE)
    (folder / "other" / "checkpoint.safetensors").replace(folder / "checkpoint.safetensors")


def _half_a_character(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace("class 0", "\\ud800"))


def _nested(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("[" * 100_000)


def _no_tensors(folder: Path) -> None:
    (folder / "checkpoint.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (_cut_tensors, "checkpoint.safetensors: sha256 .* cut off, changed or belongs to another checkpoint"),
        (_mix, "checkpoint.safetensors: sha256 .* belongs to another checkpoint"),
        (_cut_record, "checkpoint.json: is no JSON"),
        (_edit, "checkpoint.json: was changed since it was saved"),
        (_drop_key, "checkpoint.json: was changed since it was saved"),
        (_half_a_character, "checkpoint.json: is no JSON"),
        (_nested, "checkpoint.json: is no JSON"),
        (_no_tensors, "checkpoint.safetensors is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: object, line: str) -> None:
    folder = saved(tmp_path)
    damage(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=line) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_the_record_are_refused_even_with_right_checksums(tmp_path: Path) -> None:
    predictor = methods(["aape"], settings=SETTINGS)[0].fit(TASK, seed=1)
    save_checkpoint(tmp_path, predictor, TASK.text, provenance={**PROVENANCE, "width": 512})
    with pytest.raises(UserError, match=r"does not hold what checkpoint\.json describes"):
        load_checkpoint(tmp_path)


def test_a_file_can_only_name_predictors_of_this_project(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text())
    content["predictor"]["kind"] = "Popen"
    del content["sha256"]
    path.write_text(json.dumps({**content, "sha256": _digest(content)}))
    with pytest.raises(UserError, match=r"unknown kind 'Popen'"):
        load_checkpoint(folder)


def test_provenance_without_an_encoder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    predictor = methods(["zero-shot"], settings=SETTINGS)[0].fit(TASK, seed=1)
    with pytest.raises(UserError, match=r"provenance.encoder: Field required"):
        save_checkpoint(tmp_path / "x", predictor, TASK.text, provenance={"encoder_fingerprint": "ab", "width": WIDTH})
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        saved(tmp_path / "x")


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        saved(tmp_path / "file")
