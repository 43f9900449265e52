"""Run trials in processes that may die or hang, and count how they ended; a stopped campaign goes on."""

import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

CHUNK, PATIENCE = 100, 120.0
"""Trials of one process, and seconds that one of them may take."""
PROCESSES = multiprocessing.get_context("forkserver")


def start() -> None:
    """Start the process that all others are forked from, with the heavy imports done."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    PROCESSES.set_forkserver_preload(["tests.campaign.warm"])
    forkserver.ensure_running()


def in_process(target: Any, *args: Any) -> int | None:
    """The exit code of a process that does one thing."""
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    process.join()
    return process.exitcode


def campaign(part: str, *, trials: int, seed: int, folder: Path) -> list[dict[str, Any]]:
    """All trials of a part; those in the log are not done again."""
    from tests.campaign.project import make
    from tests.campaign.trials import work

    project, log = folder / "project", folder / f"{part}-{seed}.jsonl"
    if not (project / "reference.json").exists():
        shutil.rmtree(project, ignore_errors=True)
        project.mkdir(parents=True)
        assert in_process(make, project) == 0
    log.touch()
    while left := [n for n in range(trials) if n not in {each["number"] for each in _lines(log) if "code" in each}]:
        process = PROCESSES.Process(target=work, args=(part, seed, project, left[:CHUNK], log))
        process.start()
        grown, since = log.stat().st_size, time.monotonic()
        while process.is_alive():
            process.join(0.2)
            if log.stat().st_size > grown:
                grown, since = log.stat().st_size, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                process.kill()
        if process.exitcode:
            begun = list(_lines(log))[-1]
            if "code" not in begun:
                verdict = {"code": process.exitcode, "faults": [f"the process ended with {process.exitcode}"]}
                with log.open("a") as file:
                    file.write(json.dumps({**begun, "command": "?", "how": "?", "line": "", **verdict}) + "\n")
        for room in folder.glob("room-*"):
            shutil.rmtree(room)
    return [each for each in _lines(log) if "code" in each and each["number"] < trials]


def _lines(log: Path) -> Iterable[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


def summary(verdicts: list[dict[str, Any]]) -> str:
    """Counts, and every fault."""
    codes = Counter(verdict["code"] for verdict in verdicts)
    bad = [verdict for verdict in verdicts if verdict["faults"]]
    lines = [f"{len(verdicts)} trials: " + ", ".join(f"{n} with exit code {c}" for c, n in sorted(codes.items()))]
    lines += [f"{len(bad)} with a fault"]
    lines += [f"  {v['number']}: {v['command']}: {'; '.join(v['faults'])} [{v['how']}] {v['line']}" for v in bad[:200]]
    return "\n".join(lines)
