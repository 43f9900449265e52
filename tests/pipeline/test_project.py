"""`pipeline init`: a project that works outside the clone, whatever the folders are called, and overwrites nothing."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import COLOURS, Command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.project import FILES, init
from pipeline.project.scm import MADE, plan
from pipeline.project.text import quoted, scalar
from stages import UserError
from stages.params import load_params

ROOT = Path(__file__).parents[2]
HOSTILE = "my ${photos}, [1]: #'\"é @LLM@"


@pytest.fixture(autouse=True)
def files_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git init` and `dvc init` take a second: only the tests that ask for `version_control` run them."""
    if "version_control" not in request.fixturenames:
        monkeypatch.setattr("pipeline.project.scm.run", lambda *_: None)


@pytest.fixture
def version_control() -> None:
    """See `files_alone`."""


def test_a_project_holds_the_data_set_and_its_classes(weaves: Path, tmp_path: Path) -> None:
    made = init(tmp_path / "mine", source=str(weaves), llm="llama3", encoder="open_clip:ViT-B-16/openai")
    assert sorted(p.name for p in made.folder.iterdir()) == sorted(name.partition("/")[0] for name in FILES.values())
    params = load_params(made.folder / "params.yaml")
    assert params.datasets == ["weaves"]
    assert params.of("weaves").source == "../weaves"
    assert (params.prompts.llm, params.encoder) == ("llama3", "open_clip:ViT-B-16/openai")
    assert made.classes == sorted(COLOURS)
    text = (made.folder / "params.yaml").read_text()
    assert '#   "red weave": "red weave"' in text
    lines = [line for line in text.splitlines() if "classes were found" not in line]
    uncommented = "\n".join(line[:4] + line[6:] if line.startswith("    # ") else line for line in lines)
    assert yaml.safe_load(uncommented)["data"]["weaves"]["class_names"] == {name: name for name in sorted(COLOURS)}
    assert len((made.folder / "README.md").read_text().splitlines()) == 5


def test_the_stages_are_those_of_the_clone_without_its_code_as_dependencies() -> None:
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    text = (ROOT / "pipeline" / "project" / "templates" / "stages.yaml").read_text()
    theirs = yaml.safe_load(text.replace("@DEPENDENCY@", ""))
    for stage in ours["stages"].values():
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith(("cache/", "results/"))]
    assert theirs == ours


@pytest.mark.parametrize("inside", [True, False])
def test_folder_and_class_names_may_hold_anything(weaves: Path, tmp_path: Path, inside: bool) -> None:
    project = tmp_path / "project"
    photos = (project if inside else tmp_path) / HOSTILE
    photos.parent.mkdir(exist_ok=True)
    weaves.rename(photos)
    (photos / "red weave").rename(photos / "red\n    class_names: {a: b}  # ${x} \u2028 weave")
    made = init(project, source=str(photos), name="true")
    params = load_params(project / "params.yaml")
    assert params.datasets == ["true"]
    assert params.of("true").source == (HOSTILE if inside else f"../{HOSTILE}"), "relative, so that both can move"
    assert params.of("true").class_names == {}, "a class name is a comment, on one line"
    assert len(made.classes) == 4
    stage = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]["ingest"]
    assert stage["deps"] == [(HOSTILE if inside else f"../{HOSTILE}").replace("${", "\\${"), "decisions"]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_one_line_of_yaml_and_comes_back(text: str) -> None:
    for written in (scalar(text), quoted(text)):
        assert len(written.splitlines()) == 1
        assert yaml.safe_load(f"a: [{written}]  # b") == {"a": [text]}


def test_without_a_source_the_place_is_left_open(tmp_path: Path) -> None:
    made = init(tmp_path / "My photos")
    assert made.dataset == "My-photos"
    assert load_params(made.folder / "params.yaml").of("My-photos").source is None


def test_models_in_files_beside_the_project_are_named_relative_to_it_and_others_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").touch()
    (tmp_path / "clip.pt").touch()
    init(Path("p"), llm="llm", encoder="open_clip:ViT-B-32/clip.pt")
    params = load_params(tmp_path / "p" / "params.yaml")
    assert (params.prompts.llm, params.encoder) == ("../llm", "open_clip:ViT-B-32/../clip.pt")
    init(Path("a/p"), llm="llm", encoder="open_clip:ViT-B-32/clip.pt", scm=False)
    params = load_params(tmp_path / "a" / "p" / "params.yaml")
    assert (params.prompts.llm, params.encoder) == (f"{tmp_path}/llm", f"open_clip:ViT-B-32/{tmp_path}/clip.pt")


def test_a_known_data_set_brings_its_template_and_names(tmp_path: Path) -> None:
    from pipeline.registry import cards

    for name in cards()["eurosat"].class_names:
        (tmp_path / "tiles" / name).mkdir(parents=True)
        (tmp_path / "tiles" / name / "a.jpg").touch()
    made = init(tmp_path / "p", source=str(tmp_path / "tiles"), name="eurosat")
    assert load_params(made.folder / "params.yaml").of("eurosat").templates == ["a centered satellite photo of {}."]
    assert '"SeaLake": "Sea or Lake"' in (made.folder / "params.yaml").read_text()


def test_embeddings_are_a_source_with_the_encoder_that_made_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(6, 4))
    np.savez(tmp_path / "features.npz", embedding=x, label=np.array(["red", "blue"] * 3))
    made = init(tmp_path / "mine", source=str(tmp_path / "features.npz"), encoder_name="clip: x")
    params = load_params(made.folder / "params.yaml")
    assert (params.of("features").source, params.of("features").encoder_name) == ("../features.npz", "clip: x")
    assert (params.encoder, made.classes) == ("clip: x", ["blue", "red"])
    with pytest.raises(UserError, match="say which encoder made them with --encoder-name"):
        init(tmp_path / "other", source=str(tmp_path / "features.npz"))
    assert not (tmp_path / "other").exists()


def test_splits_that_cannot_be_told_by_looking_are_told_once(weaves: Path, tmp_path: Path) -> None:
    for part in ("a: one", "b"):
        shutil.copytree(weaves, tmp_path / "parts" / part)
    with pytest.raises(UserError, match="splits, or classes"):
        init(tmp_path / "p", source=str(tmp_path / "parts"))
    folders = {"a: one": "train", "b": "test"}
    made = init(tmp_path / "p", source=str(tmp_path / "parts"), split_folders=folders)
    assert (made.classes, load_params(made.folder / "params.yaml").of("parts").split_folders) == (
        sorted(p.name for p in weaves.iterdir()), folders,
    )  # fmt: skip
    assert load_params(init(tmp_path / "q", split_folders={}).folder / "params.yaml").of("q").split_folders == {}


def test_settings_that_are_given_stand_in_the_new_file(weaves: Path, tmp_path: Path) -> None:
    plain = (init(tmp_path / "plain", source=str(weaves)).folder / "params.yaml").read_text()
    given = {
        "data.weaves.samples": 2, "data.weaves": {"class_names": {"red weave": "a: 'red'\n# cloth"}, "max_missing": 0},
        "train.lr": 1e-5, "train.language.llm": "yes", "train.language.prefix_tokens": 3,
        "evaluation.shots": [1, "all"],
        "prompts": {"seed": 7, "server": {"retries": 1}}, "llms": {"big": "a/b"}, "evaluation.up_to": False,
    }  # fmt: skip
    text = (init(tmp_path / "mine", source=str(weaves), settings=given).folder / "params.yaml").read_text()
    params = load_params(tmp_path / "mine" / "params.yaml")
    of = params.of("weaves")
    assert (of.samples, of.class_names, of.max_missing) == (2, {"red weave": "a: 'red'\n# cloth"}, 0)
    assert (params.train.lr, params.train.language.llm, params.train.language.prefix_tokens) == (1e-5, "yes", 3)
    assert (params.prompts.seed, params.prompts.server.retries, params.llms) == (7, 1, {"big": "a/b"})
    assert (params.evaluation.shots, params.evaluation.up_to) == ([1, "all"], False)
    assert "# samples:" not in text
    assert "# class_names:" not in text
    kept = {line for line in plain.splitlines() if "#" not in line} - set(text.splitlines())
    assert {line.split(":")[0].strip() for line in kept} == {"seed", "shots"}, "all else stays"


@pytest.mark.parametrize(("setting", "value", "line"), [
    ("data.nosuch.samples", 2, "data.nosuch.samples: the data set of this project is 'weaves'; write data.weaves.sam"),
    ("data", {"no": {"samples": 2}}, "the data set of this project is 'weaves'"),
    ("data.weaves.source", "x", "say it with --source"),
    ("encoder", "lite", "say it with --encoder"),
    ("prompts.llm", "llama3", "say it with --llm"),
    ("datasets", ["a"], "say it with --name"),
    ("data.weaves.samples", "two", "data.weaves: samples: input should be a valid integer, found 'two'"),
    ("train.lambda", "two", "--set: train.lambda: "),
    ("data.weaves.templates", ["x"], "data.weaves: templates"),
])  # fmt: skip
def test_a_setting_that_is_not_the_projects_is_one_line_and_leaves_nothing(
    weaves: Path, tmp_path: Path, setting: str, value: object, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        init(tmp_path / "p", source=str(weaves), settings={setting: value})
    assert not (tmp_path / "p").exists()


def test_nothing_is_overwritten(weaves: Path, tmp_path: Path) -> None:
    project = tmp_path / "p"
    subprocess.run(["git", "init", "--quiet", project], check=True)
    init(project, source=str(weaves))
    before = {p.name: p.read_bytes() for p in project.iterdir() if p.is_file()}
    with pytest.raises(
        UserError, match=r"is not empty \('\.gitignore', 'README\.md', .*nothing is overwritten"
    ) as caught:
        init(project, source=str(weaves))
    assert caught.value.exit_code == 2
    assert {p.name: p.read_bytes() for p in project.iterdir() if p.is_file()} == before


@pytest.mark.usefixtures("version_control")
def test_a_project_lies_in_the_repository_and_in_the_dvc_project_that_are_there(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    subprocess.run(["git", "init", "--quiet", outer], check=True)
    first = init(outer / "first")
    assert ((outer / "first" / ".dvc").is_dir(), (outer / "first" / ".git").exists()) == (True, False)
    assert f"inside the git repository {outer}" in first.said
    second = init(outer / "first" / "second")
    assert not any((outer / "first" / "second" / name).exists() for name in MADE)
    assert f"part of the project {outer / 'first'}" in second.said


@pytest.mark.usefixtures("version_control")
@pytest.mark.parametrize("git", [True, False])
def test_without_git_dvc_works_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool) -> None:
    if not git:
        monkeypatch.setattr("pipeline.project.scm.shutil.which", lambda _: None)
    made = init(tmp_path / "p", scm=not git)
    assert "no_scm = True" in (made.folder / ".dvc" / "config").read_text()
    assert not (made.folder / ".git").exists()
    assert ("which this machine lacks" in made.said) == (not git)


@pytest.mark.usefixtures("version_control")
def test_nothing_is_left_where_git_or_dvc_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".dvcignore").write_text("mine")
    start = plan(tmp_path / "here", scm=True)
    monkeypatch.setattr("pipeline.project.scm.plan", lambda *_, **__: replace(
        start, commands=(*start.commands[:-1], (*start.commands[-1], "--no-such-option"))
    ))  # fmt: skip
    for folder in (tmp_path / "a" / "b", tmp_path / "here"):
        with pytest.raises(UserError, match=r"`dvc init --no-such-option` failed \(.*unrecognized") as caught:
            init(folder)
        assert "\n" not in str(caught.value)
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["here", "here/.dvcignore"]


def test_without_dvc_the_extra_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.project.scm.installed", lambda _: False)
    with pytest.raises(UserError, match=r'dvc is not installed.*pip install "aape\[dvc\]"'):
        init(tmp_path / "p")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(("source", "name", "message"), [
    ("nowhere", None, "nowhere"),
    (None, "a.b", "DVC reads a dot"),
    (None, "a/b", "use letters"),
    ("empty", None, "empty"),
])  # fmt: skip
def test_a_wrong_call_is_one_line_and_leaves_nothing(
    tmp_path: Path, source: str | None, name: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        init(tmp_path / "p", source=source, name=name)
    assert not (tmp_path / "p").exists()


def test_the_command_says_what_comes_next(weaves: Path, tmp_path: Path, command: Command) -> None:
    said = command(
        "pipeline", "init", "mine", "--source", weaves, "--name", "cloth", "--set", "data.cloth.samples=2", cwd=tmp_path
    ).stderr
    assert load_params(tmp_path / "mine" / "params.yaml").of("cloth").samples == 2
    assert "cloth: 4 classes found" in said
    assert "git and DVC initialised" in said
    assert "next: cd mine && dvc repro" in said
    command("pipeline", "ingest", cwd=tmp_path / "mine")
    assert "not empty" in command("pipeline", "init", "mine", cwd=tmp_path, code=2).stderr


@pytest.mark.llm
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_commands_lead_from_a_folder_of_images_to_a_classifier(
    weaves: Path, tmp_path: Path, command: Command
) -> None:
    photos = weaves.rename(tmp_path / HOSTILE)
    project = tmp_path / "mine"
    command("pipeline", "init", project, "--source", photos, "--name", "cloth", cwd=tmp_path)
    text = (project / "params.yaml").read_text()
    for old, new in (
        ("    # samples: 10", "    samples: 1 #"), ("shots: 16", "shots: 3"), ("[1, 2, 3]", "[1]"),
        ("methods: [standard]", "methods: [aape, zero-shot]"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (project / "params.yaml").write_text(text)
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["dvc", "repro"], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("verdict on cloth\n  best: ") == 1
    assert "aape" in (project / "results" / "tables.md").read_text()
    found = command("trainer", "predict", photos / "red weave" / "00.png", "--dataset", "cloth", cwd=project)
    assert "red weave" in found.stdout
    kept = subprocess.run(["git", "status", "--short", "--untracked-files=all"], cwd=project, env=env,
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert {"?? results/metrics.json", "?? results/headline/aape.json"} <= set(kept.splitlines()), "are committed"
    assert "cache/" not in kept
