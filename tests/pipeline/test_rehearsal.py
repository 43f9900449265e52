"""`make paper` from end to end on stand-ins, and what each stand-in is read as."""

import json
import signal
from pathlib import Path

import pytest
from conftest import ROOT, Command

from pipeline import rehearsal
from pipeline.ingest import ingest
from pipeline.registry import cards
from pipeline.rehearsal import prepare, run
from pipeline.rehearsal.sets import WRITERS, write_set
from stages import ManifestStore, UserError
from stages.params import DataParams, load_params
from stages.stopping import Stopped

PAPER = ROOT / "params.paper.yaml"


def test_every_known_data_set_has_a_stand_in() -> None:
    assert set(WRITERS) == set(cards())


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_stand_in_is_laid_out_as_its_card_asks_and_every_image_of_it_can_be_read(name: str, tmp_path: Path) -> None:
    write_set(name, tmp_path / name)
    known = cards()[name]
    assert known.marked(tmp_path / name)
    assert known.check(tmp_path / name) == []
    summary = ingest(name, str(tmp_path / name), data=DataParams(), cache=tmp_path / "cache")
    assert summary.unreadable == []
    assert summary.images["test"] > 0, "what is not judged is not rehearsed"
    assert (summary.classes > 0, summary.captions > 0, summary.questions > 0) == (
        known.task == "classification", known.task == "captions", known.task == "questions",
    )  # fmt: skip
    names = set(ManifestStore(tmp_path / "cache", name).provenance().class_names.values())
    assert names >= {"imagenet": {"goldfish", "sunglass"}, "sun397": {"outdoor apartment_building"},
                     "fgvc_aircraft": {"F/A-18"}}.get(name, set())  # fmt: skip


def test_a_rehearsal_takes_an_empty_folder_and_settings_of_known_data_sets(tmp_path: Path, typed: Command) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        prepare(tmp_path / "full", PAPER)
    (tmp_path / "own.yaml").write_text("datasets: [eurosat, mine]\n")
    done = typed("pipeline", "rehearse", "new", "--params", "own.yaml", cwd=tmp_path, code=2)
    assert done.stderr.strip() == "error: own.yaml: no stand-in is known for mine"
    assert not (tmp_path / "new").exists()


def test_a_rehearsal_that_was_interrupted_leaves_nothing_and_one_that_was_killed_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "few.yaml"
    settings.write_text("datasets: [eurosat]\ndata: {eurosat: {source: here/eurosat}}\nencoder: lite\n")

    def interrupted(*_: object) -> str:
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(rehearsal, "_write_models", interrupted)
        for folder in (tmp_path / "new", tmp_path / "empty"):
            if folder.name == "empty":
                folder.mkdir()
            with pytest.raises(Stopped):
                prepare(folder, settings)
        patch.setattr(rehearsal, "_remove", lambda _: None)  # killed
        with pytest.raises(Stopped):
            prepare(tmp_path / "empty", settings)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "empty/here/eurosat/2750").is_dir()
    (tmp_path / "empty" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty"):
        prepare(tmp_path / "empty", settings)
    (tmp_path / "empty" / "mine.txt").unlink()
    monkeypatch.setattr(rehearsal, "_write_models", lambda hub, params: "lite")
    prepare(tmp_path / "empty", settings)
    assert sorted(each.name for each in (tmp_path / "empty").iterdir()) == ["here", "params.paper.yaml"]
    settings.write_text("datasets: [eurosat]\ndata: {eurosat: {source: .}}\nencoder: lite\n")
    prepare(tmp_path / "dot", settings)
    assert (tmp_path / "dot/data/eurosat/2750").is_dir(), "not in the folder itself"


@pytest.mark.llm
@pytest.mark.slow
def test_make_paper_runs_from_end_to_end_on_stand_ins(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "rehearsal"
    code = run(prepare(folder, PAPER))
    said = capfd.readouterr()
    assert code == 0, said.out[-2000:] + said.err[-4000:]
    params = load_params(PAPER)
    metrics = json.loads((folder / "results/paper/metrics.json").read_text())
    assert set(metrics) == set(params.datasets)
    measured = {
        name for by_protocol in metrics.values() for name, by_method in by_protocol.items()
        for by_metric in by_method.values() if any(each["mean"] is not None for each in by_metric.values())
    }  # fmt: skip
    assert {name.rstrip("-0123456789") for name in measured} == set(params.evaluation.protocols)
    shifts = metrics["imagenet"]["domain-generalization-2"]["aape"]
    assert set(shifts) == {"source", "average", *params.evaluation.shifts["imagenet"]}
    assert metrics["vqa2"]["vqa-2"]["prefix-aape@coco"]["vqa_accuracy"]["n"] == 2
    assert set(metrics["vqa2"]) == {"vqa-1", "vqa-2"}, "it has no captions"
