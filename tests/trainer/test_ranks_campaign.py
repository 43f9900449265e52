"""examples/ranks/campaign.py: the data sets that it makes of one file, and how it shares the processors."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "examples/ranks/campaign.py"


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    spec = importlib.util.spec_from_file_location("campaign", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["campaign"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_described_classes_become_a_data_set_of_their_own(campaign: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "features.npz",
        embedding=rng.normal(size=(8, 3)), class_id=[0, 0, 1, 1, 2, 2, 3, 3], split=["train", "test"] * 4,
        class_names=list("abcd"), text_template=rng.normal(size=(4, 3)), prompts=rng.normal(size=(6, 3)),
        prompt_class_id=[0, 1, 2, 3, 1, 3], prompt_source=["name"] * 4 + ["gpt3-descriptions"] * 2,
    )  # fmt: skip
    given = np.load(tmp_path / "features.npz")
    whole, described = (found for _, found in campaign.arrays(tmp_path / "features.npz"))
    assert described["class_names"].tolist() == ["b", "d"]
    assert described["class_id"].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(described["embedding"], given["embedding"][[2, 3, 6, 7]])
    assert described["prompt_class_id"].tolist() == [0, 1, 0, 1, 0, 1]  # name, description, template
    np.testing.assert_array_equal(described["prompts"][-2:], given["text_template"][[1, 3]])
    assert len(whole["prompts"]) == 6 + 4
    assert whole["class_id"].tolist() == given["class_id"].tolist()


def test_no_setting_asks_for_more_processes_than_there_are(campaign: ModuleType) -> None:
    settings = campaign.settings()
    assert len({setting.name for setting in settings}) == len(settings)
    for jobs in (1, 2, 16):
        assert all(1 <= setting.processes(jobs) <= jobs for setting in settings)


def test_finished_settings_are_left_and_failed_ones_named(
    campaign: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [campaign.Setting(name, "lite", "few-shot", 1, 1.0) for name in ("done", "good", "bad")]
    record = tmp_path / "done-few-shot-1/runs/done/run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    began = []

    def start(setting: object, *_: object) -> object:
        import subprocess

        began.append(setting.dataset)  # type: ignore[attr-defined]
        return subprocess.Popen(["false" if began[-1] == "bad" else "true"])

    monkeypatch.setattr(campaign, "start", start)
    monkeypatch.setattr(campaign, "STEP", 0.01)
    assert campaign.run_all(settings, tmp_path, tmp_path, 1) == ["bad-few-shot-1"]
    assert began == ["good", "bad"]
