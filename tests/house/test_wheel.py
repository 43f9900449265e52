"""The built wheel, in an empty environment outside the clone: the core alone gives both commands and `import aape`."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.trainer.small_stores import make_stores

ROOT = Path(__file__).parents[2]
FIT = """
import numpy as np
from aape import AAPEPlusClassifier
centres = np.random.default_rng(0).normal(size=(3, 16))
y = np.repeat([0, 1, 2], 4)
print(AAPEPlusClassifier().fit(centres[y], y, templates=centres).score(centres[y], y))
"""
LACKING = {
    "pipeline embed-images --dataset w --encoder open_clip:ViT-B-32/openai": (
        'is not installed: pip install "aape[encoders]"'
    ),
    "pipeline doctor": 'note   extras: matplotlib is not installed -> pip install "aape[plots]"',
}
"""Commands that need or look for an extra that is not there, and what they say."""


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_an_empty_environment_outside_the_clone(tmp_path: Path, weaves: Path) -> None:
    spec = importlib.util.spec_from_file_location("venv_setup", ROOT / "install" / "venv.py")
    assert spec
    assert spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    env = setup.uv_environment(sys.executable)
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "build", "--wheel", "--no-build-isolation", "--out-dir", tmp_path, ROOT, cwd=tmp_path, env=env)
    wheel = next(tmp_path.glob("*.whl"))
    inside = set(zipfile.ZipFile(wheel).namelist())
    for file in ("questions.yaml", "llms.yaml"):
        assert f"pipeline/prompts/{file}" in inside
    assert {"pipeline/encoders/lite_mean.npy", "pipeline/encoders/lite_anchors.safetensors"} <= inside
    assert "aape/__init__.py" in inside
    assert "pipeline/registry/datasets.yaml" in inside
    for file in ("params.yaml", "stages.yaml", "gitignore", "README.md"):
        assert f"pipeline/project/templates/{file}" in inside
    for file in ("page.html", "style.css", "script.js"):
        assert f"trainer/report/page/files/{file}" in inside
    assert not any(name.startswith(("tests/", "examples/", "cache/")) for name in inside)
    run(*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path, env=env)
    variant = "gpu" if setup.has_cuda_driver() else "cpu"
    overrides = ROOT / "install" / ("overrides-gpu.txt" if variant == "gpu" else "overrides.txt")
    run(
        *uv, "pip", "install", "--quiet", "--python", tmp_path / "venv" / "bin" / "python",
        "--constraint", ROOT / "install" / f"constraints-{variant}.txt", "--override", overrides, wheel,
        cwd=tmp_path, env=env,
    )  # fmt: skip
    commands = tmp_path / "venv" / "bin"
    there = run(*uv, "pip", "list", "--python", commands / "python", "--format", "freeze", cwd=tmp_path, env=env)
    for name in ("vllm", "open", "torchvision", "timm", "transformers", "openai", "dvc", "matplotlib"):
        assert f"\n{name}" not in there, f"the core brings {name}"
    assert "ingest" in run(commands / "pipeline", "--help", cwd=tmp_path)
    assert "predict" in run(commands / "trainer", "--help", cwd=tmp_path)
    assert "4 classes" in run(commands / "pipeline", "ingest", "w", "--source", weaves, cwd=tmp_path)
    assert "48" in run(commands / "pipeline", "sql", "SELECT count(*) FROM manifest", cwd=tmp_path)
    (tmp_path / "fit.py").write_text(FIT)
    assert "1.0" in run(commands / "python", tmp_path / "fit.py", cwd=tmp_path)
    make_stores(tmp_path / "cache", dataset="s")
    fast = ("--dataset", "s", "--methods", "aape-plus,zero-shot", "--shots", "4", "--seeds", "1", "--jobs", "1")
    done = run(commands / "trainer", "run", *fast, cwd=tmp_path)
    assert 'no pictures: matplotlib is not installed: pip install "aape[plots]"' in done
    assert "aape-plus" in (tmp_path / "results" / "tables.md").read_text()
    assert "Charts are left out of this page" in (tmp_path / "results" / "report.html").read_text()
    for words, line in LACKING.items():
        lacking = subprocess.run(
            [commands / words.split()[0], *words.split()[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert lacking.returncode == 1, lacking.stderr
        assert line in lacking.stdout + lacking.stderr
