"""`install/gpu-check.sh`: what is wrong on its line is one line, before anything is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHON": sys.executable, "INSTALL": "no", "CUDA_VISIBLE_DEVICES": ""}
    line = ["bash", str(ROOT / "install/gpu-check.sh"), *words]
    return subprocess.run(line, capture_output=True, text=True, env=env)


@pytest.mark.parametrize(("words", "said"), [
    (("--device", "tpu"), "error: --device 'tpu': expected cuda, cuda:N or cpu"),
    (("--device", "cuda:x"), "error: --device 'cuda:x': expected cuda, cuda:N or cpu"),
    (("--steps", "tets"), "error: --steps 'tets': known are machine, tests"),
])  # fmt: skip
def test_a_wrong_device_or_step_is_one_line(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_it_fails_where_torch_sees_no_gpu_whatever_the_steps_and_runs_nothing_else() -> None:
    done = run("--steps", "tests,faiss")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["failed"] == ["machine"]
    assert "sees no GPU" in found["steps"][0]["reason"]
    assert {row["state"] for row in found["steps"][1:]} == {"not run"}
