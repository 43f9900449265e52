"""What several test files use: folders of small pictures and a way to run the commands."""

import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).parents[1]
settings.register_profile("suite", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("suite")
Command = Callable[..., "subprocess.CompletedProcess[str]"]

COLOURS = {
    "green weave": (30, 160, 60),
    "blue weave": (40, 60, 190),
    "red weave": (190, 40, 40),
    "grey weave": (120, 120, 120),
}


def picture(colour: tuple[int, int, int], seed: int, size: int = 48) -> Image.Image:
    """A noisy patch of one colour."""
    noise = np.random.default_rng(seed).normal(0, 25, (size, size, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a language model come first: where two processes share the tests they are what takes longest."""
    items.sort(key=lambda item: item.get_closest_marker("llm") is None)


@functools.cache
def asking(file: Path) -> frozenset[str]:
    """Names of the tests in a file that run a language model."""
    return frozenset(re.findall(r"^@pytest\.mark\.llm\n(?:@.*\n)*def (\w+)", file.read_text(), re.MULTILINE))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the tests: a file stays in one of them, and so do all runs of a language model,
    each of which takes the whole machine.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            return "language model" if name.split("[")[0] in asking(config.rootpath / file) else file

    return ByFile(config, log)


@pytest.fixture(autouse=True, scope="module")
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Small tensors are computed with one thread: on a busy machine threads that wait for each other take seconds."""
    if request.path.parent.name not in ("trainer", "aape"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; without one the tests are skipped, on CI they fail."""
    from playwright.sync_api import sync_playwright

    spec = importlib.util.spec_from_file_location("browser_setup", ROOT / "install" / "browser.py")
    assert spec
    assert spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    program = setup.find()
    if program is None:
        line = f"no Chromium: {setup.MEND}"
        pytest.fail(line) if os.environ.get("CI") else pytest.skip(line)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def weaves(tmp_path: Path) -> Path:
    """Class folders: four colours of weave, 12 pictures each, no split."""
    for name, colour in COLOURS.items():
        (tmp_path / "weaves" / name).mkdir(parents=True)
        for i in range(12):
            picture(colour, i).save(tmp_path / "weaves" / name / f"{i:02d}.png")
    return tmp_path / "weaves"


@pytest.fixture
def command() -> Command:
    """Run `pipeline` or `trainer` as a user does; gives exit code, standard output and standard error."""

    def run(name: str, *args: object, cwd: Path, code: int = 0) -> "subprocess.CompletedProcess[str]":
        env = {**os.environ, "PYTHONWARNINGS": "default"}
        done = subprocess.run(
            [sys.executable, "-m", f"{name}.cli", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env,
            check=False,
        )
        assert done.returncode == code, f"{name} {args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        if code:
            assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """As `command`, in this process, which has the heavy imports behind it; warnings are errors here."""

    def run(name: str, *args: object, cwd: Path, code: int = 0) -> "subprocess.CompletedProcess[str]":
        words = [name, *map(str, args)]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", words)
            patch.setattr("stages.command.stop_on_signals", lambda: None)
            with pytest.raises(SystemExit) as stop:
                importlib.import_module(f"{name}.cli").main()
        out, err = capsys.readouterr()
        assert (stop.value.code or 0) == code, f"{words}: exit {stop.value.code}\n{out}\n{err}"
        return subprocess.CompletedProcess(words, code, out, err)

    return run


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """An S3 server (`s3_server.Server`)."""
    from s3_server import serving

    with serving() as server:
        yield server
