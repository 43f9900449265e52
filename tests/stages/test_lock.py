"""One writer at a time."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stages import ImageStore, UserError
from stages.lock import require_free, store_lock

HOLD = """
import os, sys, time
from pathlib import Path
from stages.lock import require_free, store_lock
with store_lock(Path(sys.argv[1]), what="pipeline embed-images"):
    if sys.argv[2] == "with a worker" and not os.fork():
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path, how: str = "alone") -> "subprocess.Popen[str]":
    """Another command that writes the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """The process and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def locks(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".lock")]


def test_a_second_command_is_told_which_one_writes_since_when_and_what_to_do(tmp_path: Path) -> None:
    process = holder(tmp_path / "store")
    try:
        with pytest.raises(UserError) as caught, store_lock(tmp_path / "store", what="pipeline ingest"):
            pytest.fail("two writers")
        with pytest.raises(UserError) as early:
            require_free(tmp_path / "store")
        assert str(early.value) == str(caught.value)
    finally:
        end(process)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/store: `pipeline embed-images` (process {process.pid} on ")
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)
    assert f"kill {process.pid}" in line


def test_the_lock_of_a_killed_command_is_taken_over_at_once_though_its_workers_live_on(tmp_path: Path) -> None:
    process = holder(tmp_path / "store", "with a worker")
    process.kill()
    process.wait()
    try:
        with store_lock(tmp_path / "store", what="pipeline ingest"):
            assert locks(tmp_path) == [".store.lock"]
            require_free(tmp_path / "store")
            require_free(tmp_path / "other")
    finally:
        end(process)
    assert locks(tmp_path) == []


def test_a_command_that_runs_another_one_passes_its_own_lock(tmp_path: Path) -> None:
    with store_lock(tmp_path / "store", what="pipeline verify --fix"):
        with store_lock(tmp_path / "store", what="pipeline ingest"):
            pass
        assert locks(tmp_path) == [".store.lock"], "the outer one still holds it"
    assert locks(tmp_path) == []


def test_two_threads_of_one_process_are_two_writers(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with store_lock(tmp_path / "store", what="trainer run"):
                found.append("two writers")
        except UserError as error:
            found.append(str(error))

    with store_lock(tmp_path / "store", what="trainer run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [f"{tmp_path}/store: another thread of this process is writing it: one at a time"]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".store.lock").symlink_to(precious)
    with pytest.raises(UserError, match="symbolic link"), store_lock(tmp_path / "store", what="pipeline ingest"):
        pass
    assert precious.read_text() == "mine"


def test_stores_whose_names_run_together_have_a_lock_each(tmp_path: Path) -> None:
    one, other = ImageStore(tmp_path, "a-b", "c"), ImageStore(tmp_path, "a", "b-c")
    assert one.work != other.work
    with one.locked("pipeline embed-images"), other.locked("pipeline embed-images"):
        assert len(locks(tmp_path / ".work")) == 2


def test_a_command_that_writes_nothing_leaves_no_folder_and_one_that_writes_keeps_its_own(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with pytest.raises(UserError), store_lock(results / "runs" / "w", what="trainer run", beside=results / ".fits/w"):
        raise UserError("refused")
    assert not list(tmp_path.iterdir())
    (results / ".fits").mkdir(parents=True)  # of a run that was ended
    with store_lock(results / "runs" / "w", what="trainer run", beside=results / ".fits/w"):
        (results / "runs" / "w").mkdir(parents=True)
    assert [path.name for path in results.iterdir()] == ["runs"]
