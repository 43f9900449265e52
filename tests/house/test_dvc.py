"""DVC over both stages: runs through, does nothing the second time, and reruns what a change touches and no more."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from closure import command_files

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "datasets": ["weaves"],
    "encoder": "lite",
    "data": {"weaves": {"source": "weaves", "templates": ["a photo of a {}."], "samples": 1}},
    "prompts": {"llm": "smollm2", "max_tokens": 30},
    "imports": [{"dataset": "weaves", "name": "people", "file": "people.json"}],
    "embed": {"workers": 0},
    "evaluation": {"shots": 3, "seeds": [1, 2], "methods": ["aape", "cupl", "zero-shot"]},
    "train": {"lambda": 5.0},
}


def dvc(project: Path, *args: str) -> str:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *args], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"dvc {args}: {done.stdout}\n{done.stderr}"
    return done.stdout


def would_run(project: Path) -> set[str]:
    return set(re.findall(r"Running stage '([\w@-]+)'", dvc(project, "repro", "--dry")))


def change(project: Path, section: str, key: str, value: object) -> None:
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(settings))


@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dvc_runs_both_stages_then_nothing_then_only_what_a_change_touches(weaves: Path) -> None:
    project = weaves.parent
    for folder in ("pipeline", "trainer", "stages", "examples", "decisions"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / file, project / file)
    sentences = {c.name: [f"A {c.name} has the colour {c.name}."] for c in weaves.iterdir()}
    (project / "people.json").write_text(str(sentences).replace("'", '"'))
    (project / "params.yaml").write_text(yaml.safe_dump(SETTINGS))
    dvc(project, "init", "--no-scm", "--quiet")
    dvc(project, "repro")
    for path in ("metrics.json", "headline/aape.json", "tables.md", "report.html", "plots/curves.csv",
                 "figures/comparison-weaves.png", "runs/weaves/checkpoints/aape/checkpoint.safetensors"):  # fmt: skip
        assert (project / "results" / path).is_file(), path
    shown = dvc(project, "metrics", "show")
    assert shown.splitlines()[0].split() == ["Path", "weaves.accuracy", "weaves.h"], "a line a method"
    assert "results/headline/cupl@people.json" in shown
    assert "index.html" in dvc(project, "plots", "show")
    assert would_run(project) == set()
    change(project, "train", "lambda", 3.0)
    assert would_run(project) == {"train@weaves"}
    change(project, "train", "lambda", 5.0)
    change(project, "prompts", "llm", "llama3")
    assert would_run(project) >= {"prompts@weaves"}
    assert not would_run(project) & {"ingest@weaves", "embed-images@weaves"}


STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def commands(stage: str) -> list[list[str]]:
    """The command lines of a stage, in words."""
    found = STAGES[stage]["cmd"]
    return [line.split() for line in (found if isinstance(found, list) else [found])]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_calls_only_the_two_commands(stage: str) -> None:
    assert all(words[0] in ("pipeline", "trainer") for words in commands(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_changed_code_reruns_the_stages_that_it_decides(stage: str) -> None:
    deps = [Path(dep) for dep in STAGES[stage]["deps"]]
    for package, command, *_ in commands(stage):
        for file in sorted(command_files(package, command)):
            assert any(file.is_relative_to(dep) for dep in deps), f"{stage}: {file} is in no dep"


def test_make_repro_works_in_a_folder_that_is_no_git_repository(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".dvc").mkdir()
    for file in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / file, tmp_path / ".dvc")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"report": {"cmd": "mkdir -p results && echo accuracy > results/tables.md"}}})
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "repro", "PYTHON=true"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**inherited, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("accuracy\n")
    assert (tmp_path / ".dvc" / "config").read_text() == (ROOT / ".dvc" / "config").read_text()


def test_a_run_that_fails_at_its_source_leaves_the_manifest_that_was_there(weaves: Path) -> None:
    project = weaves.parent
    ingest = STAGES["ingest"] | {"deps": ["weaves"]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"ingest": ingest}}))
    (project / "params.yaml").write_text(yaml.safe_dump({"datasets": ["weaves"], "data": SETTINGS["data"]}))
    dvc(project, "init", "--no-scm", "--quiet")
    dvc(project, "repro")
    manifest = project / "cache" / "manifest" / "dataset=weaves" / "part-0.parquet"
    before = manifest.read_bytes()
    for image in weaves.glob("*/0*.png"):
        image.write_text("half copied")
    with pytest.raises(AssertionError, match="40 of 48 images cannot be used"):
        dvc(project, "repro")
    assert manifest.read_bytes() == before
