"""Commands killed with SIGKILL at any moment, alone and two at once, until all is that of an undisturbed run.

Half of the moments are drawn over the time that the command takes, half over the files that it is seen to write.
"""

import json
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.campaign.commands import rests, tree_of, typed, without_pictures
from tests.campaign.run import PROCESSES, in_process

STAGES = {
    "ingest": ["pipeline", "ingest"],
    "generate-prompts": ["pipeline", "generate-prompts"],
    "import-prompts": ["pipeline", "import-prompts"],
    "embed-text": ["pipeline", "embed-text"],
    "embed-images": ["pipeline", "embed-images"],
    "run": ["trainer", "run", "--jobs", "1", "--no-report"],
    "report": ["trainer", "report"],
}
BUSY = "writing it"
TWO = 3
"""Of so many attempts one is of two processes."""


class _Answers(BaseHTTPRequestHandler):
    """A language model that always says the same of the same question."""

    def do_GET(self) -> None:
        self._send({"data": [{"id": "org/tiny", "owned_by": "someone"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = asked["messages"][-1]["content"]
        kinds = ("round", "woven", "bright", "dark", "plain")
        start = question.split("?")[0]
        texts = [f"{start}: it is {kinds[i % 5]} and has {i} threads." for i in range(asked.get("n", 1))]
        message = [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for text in texts]
        time.sleep(0.02)
        self._send({"choices": message, "usage": {"completion_tokens": 9 * len(texts)}})

    def _send(self, reply: Any) -> None:
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def _server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


def make(folder: Path, url: str) -> None:
    """A project whose commands take long enough to be killed, with everything undisturbed in `whole`."""
    from tests.campaign.project import make_clip, make_pictures

    without_pictures()
    folder.mkdir(parents=True)
    names = make_pictures(folder, images=40)
    make_clip(folder)
    sentences = {name: [f"a {name}, number {k} of many" for k in range(150)] for name in names}
    (folder / "sentences.json").write_text(json.dumps(sentences))
    settings = {
        "datasets": ["w"],
        "encoder": f"open_clip:local-dir:{folder / 'clip'}",
        "data": {"w": {"source": str(folder / "weaves"), "samples": 8,
                       "questions": ["What does a {} look like?", "Describe a {}."]}},
        "prompts": {"llm": "org/tiny", "batch": 8, "near_duplicate": None, "rounds": 1, "allow_empty": True,
                    "server": {"url": url, "concurrency": 4}},
        "imports": [{"dataset": "w", "name": "people", "file": str(folder / "sentences.json")}],
        "embed": {"workers": 0, "batch": 17, "part": 20, "precision": "float32", "views": 1},
        "evaluation": {"protocols": ["few-shot", "base-to-new"], "shots": 4, "seeds": [1, 2],
                       "methods": ["aape", "aape-plus", "nearest-centroid", "logistic", "tip-adapter"]},
        "train": {"epochs": 20},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    whole = folder / "whole"
    whole.mkdir()
    shutil.copy(folder / "params.yaml", whole)
    seconds = {}
    for stage, words in STAGES.items():
        start = time.monotonic()
        done = typed(words, whole)
        assert done.code == 0, f"{stage}: {done.err}"
        seconds[stage] = time.monotonic() - start
    (folder / "seconds.json").write_text(json.dumps(seconds))


def type_in_process(words: list[str], folder: Path, said: Path) -> None:
    """A command, and what it said."""
    import torch

    torch.set_num_threads(1)
    without_pictures()
    done = typed(words, folder)
    said.write_text(json.dumps({"code": done.code, "err": done.err}))


def kills(trials: int, *, seed: int, folder: Path) -> list[dict[str, Any]]:
    """So many kills, shared by the stages; a stage ends with an undisturbed start."""
    log, project = folder / f"kills-{seed}.jsonl", folder / "killed"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    with _server() as url:
        if not (project / "seconds.json").exists():
            shutil.rmtree(project, ignore_errors=True)
            assert in_process(make, project, url) == 0
        text = (project / "params.yaml").read_text()
        settings = yaml.safe_load(text)
        settings["prompts"]["server"]["url"] = url
        (project / "params.yaml").write_text(yaml.safe_dump(settings))
        each = -(-trials // len(STAGES))
        for stage in STAGES:
            for number in range(len([v for v in done if v["how"].startswith(f"{stage} ")]), each):
                verdict = _attempts(project, stage, number, seed, folder)
                done.append(verdict)
                with log.open("a") as file:
                    file.write(json.dumps(verdict) + "\n")
    return done


def _attempts(project: Path, stage: str, number: int, seed: int, folder: Path) -> dict[str, Any]:
    """One kill of a stage, in what the kill before it left; every fifth time it then runs to its end."""
    rng, place = random.Random(f"kills {seed} {stage} {number}"), folder / f"kill-{stage}"
    words, seconds = STAGES[stage], json.loads((project / "seconds.json").read_text())[stage]
    if number % 5 == 0:
        shutil.rmtree(place, ignore_errors=True)
        _before(project, place, stage)
    shutil.copy(project / "params.yaml", place)
    found: list[str] = []
    killed = "early"
    for _ in range(20):  # until one is killed while it runs
        said = [folder / f"said-{k}" for k in range(2)]
        for file in said:
            file.unlink(missing_ok=True)
        two = number % TWO == TWO - 1
        processes = [PROCESSES.Process(target=type_in_process, args=(words, place, said[k])) for k in range(1 + two)]
        moment, at_write, wanted = rng.uniform(0, 1.3 * seconds), rng.randrange(2), rng.randint(1, 6)
        seen: set[Path] = set()
        start = time.monotonic()
        processes[0].start()
        if two:
            time.sleep(rng.uniform(0, 0.5 * seconds))
            processes[1].start()
        while processes[0].is_alive():
            if at_write:
                seen |= {path for path in place.rglob("*") if path.name.endswith((".part", ".new"))}
                if len(seen) >= wanted:
                    break
            if time.monotonic() - start >= (3 if at_write else 1) * moment:
                break
            time.sleep(0.0005)
        processes[0].kill()
        for process in processes:
            process.join()
        if two:
            found += _second(processes[1].exitcode, said[1])
        if processes[0].exitcode == -9:
            killed = f"in write {len(seen)}" if at_write and len(seen) >= wanted else "by the clock"
            break
        found += _second(processes[0].exitcode, said[0])
        shutil.rmtree(place)
        _before(project, place, stage)
    else:
        killed = "never"
    found += _half_written(project / "whole", place)
    if number % 5 == 4:
        code = in_process(type_in_process, words, place, folder / "said-0")
        said_ = json.loads((folder / "said-0").read_text())
        if code or said_["code"]:
            found.append(f"does not go on: {said_['err'][-300:]}")
        found += _other(project / "whole", place, stage)
    return {"number": number, "command": stage, "how": f"{stage} {killed}{', two at once' * two}", "code": -9,
            "faults": found, "line": ""}  # fmt: skip


def _before(project: Path, place: Path, stage: str) -> None:
    """The project as it is before a stage: without what this stage and those after it make."""
    shutil.copytree(project / "whole", place)
    gone = {
        "ingest": ["cache", "results"], "generate-prompts": ["cache/prompts", "cache/text", "results"],
        "import-prompts": ["cache/prompts/dataset=w/llm=people", "cache/text", "results"],
        "embed-text": ["cache/text", "results"], "embed-images": ["cache/images", "results"], "run": ["results"],
        "report": [],
    }  # fmt: skip
    for name in gone[stage]:
        shutil.rmtree(place / name, ignore_errors=True)
    if stage == "report":
        for path in (place / "results").iterdir():
            if path.name != "runs":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _second(code: int | None, said: Path) -> list[str]:
    """What is wrong with how a process ended that was not killed."""
    if code or not said.exists():
        return [f"the process ended with {code}"]
    told = json.loads(said.read_text())
    lines = [line for line in told["err"].splitlines() if line.startswith("error: ")]
    if told["code"] == 0 or (told["code"] == 1 and len(lines) == 1 and BUSY in lines[0]):
        return []
    return [f"exit code {told['code']}: {told['err'][-300:]}"]


def _half_written(whole: Path, place: Path) -> list[str]:
    """Stores and results in their places that are not those of an undisturbed run."""
    undisturbed, now = tree_of(whole), tree_of(place)
    ours = {path: mark for path, mark in now.items() if _comparable(path)}
    return [f"{path} is half-written" for path, mark in ours.items() if undisturbed.get(path) != mark]


def _other(whole: Path, place: Path, stage: str) -> list[str]:
    """What differs from an undisturbed run in the end."""
    undisturbed, now = tree_of(whole), tree_of(place)
    made = {path: mark for path, mark in now.items() if _comparable(path)}
    made_by = {"ingest": "cache/manifest", "generate-prompts": "cache/prompts/dataset=w/llm=org-tiny",
               "import-prompts": "cache/prompts/dataset=w/llm=people", "embed-text": "cache/text",
               "embed-images": "cache/images", "run": "results/runs", "report": "results"}[stage]  # fmt: skip
    wanted = {path: mark for path, mark in undisturbed.items() if _comparable(path) and str(path).startswith(made_by)}
    found = [f"{path} is missing or other" for path, mark in wanted.items() if made.get(path) != mark]
    found += [f"{path} is left" for path in made.keys() - undisturbed.keys()]
    return found + [f"{path} is left" for path in rests(place)]


def _comparable(path: Path) -> bool:
    """Stores and results, without seconds, pictures, unfinished work and settings."""
    hidden = any(part.startswith(".") for part in path.parts)
    seconds = path.name in ("timing.json", "tables.md", "params.yaml") or path == Path("results/runs/w/SHA256SUMS")
    return not hidden and not seconds and path.suffix != ".png"
