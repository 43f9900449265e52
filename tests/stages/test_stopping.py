"""Ctrl-C and SIGTERM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import stopping

APP = """
import os, signal, sys, time
from contextlib import nullcontext
import typer
from stages import command
from stages.stopping import keeping

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background hands on that it is ignored
app = typer.Typer(add_completion=False)

@app.command()
def work(said: str) -> None:
    worker = os.fork()
    if not worker:
        time.sleep(60)
    try:
        with keeping(lambda: "512 of 1000 images of euro are kept") if said == "something" else nullcontext():
            print(worker, flush=True)
            time.sleep(60)
    finally:
        os.kill(worker, 15)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -15

command.main(app)
"""


def stopped(tmp_path: Path, number: signal.Signals, said: str, *, whole_group: bool) -> tuple[int, str, int]:
    """Exit code, standard error and the worker's number of a command that got a signal."""
    (tmp_path / "app.py").write_text(APP)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "app.py"), said],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    (os.killpg if whole_group else os.kill)(process.pid, number)
    try:
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, err, worker


def test_ctrl_c_prints_one_line_with_what_is_kept_and_leaves_no_process_behind(tmp_path: Path) -> None:
    code, err, worker = stopped(tmp_path, signal.SIGINT, "something", whole_group=True)  # as a terminal sends it
    assert (code, err) == (
        130, "interrupted: 512 of 1000 images of euro are kept; run the same command again to go on\n"
    )  # fmt: skip
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_sigterm_ends_the_worker_processes_too_and_tells_143(tmp_path: Path) -> None:
    start = time.monotonic()
    code, err, worker = stopped(tmp_path, signal.SIGTERM, "nothing", whole_group=False)
    assert code == 143
    assert err.startswith("ended by SIGTERM: nothing half-written is left")
    assert err.count("\n") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert time.monotonic() - start < 60, "nobody slept it out"


def test_what_a_script_told_its_commands_to_ignore_stays_ignored() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from stages.stopping import stop_on_signals; stop_on_signals()\n"
        "signal.raise_signal(signal.SIGHUP); print('still here')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "still here\n"


def test_a_stop_that_a_library_takes_for_an_exit_of_its_own_comes_out_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "_under_way", [])
    with pytest.raises(SystemExit) as caught, stopping.as_stopped():
        sys.exit(3)
    assert caught.value.code == 3

    def library() -> None:
        try:
            stopping._stop(signal.SIGTERM, None)
        except SystemExit:
            raise SystemExit(1) from None

    with pytest.raises(stopping.Stopped) as stop, stopping.as_stopped():
        library()
    assert stop.value.code == 143
